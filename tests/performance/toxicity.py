"""How well toxicity is told, and how fast: on the held-out comments, on clean texts, beside TF-IDF and scikit-learn.

The held-out tenth of the comments was seen by neither the shipped scorers nor the peers, nor the half of the answers on
law that counts here. The labels can be read as two classes in two ways, and figures of one reading say nothing about
the other: hate against none, the offensive comments left out; and hate and offensive against none. The gate has a
scorer for each, and so each has a peer of its own, trained for it. The bound is set for hate against none: the
requirement's own figure for the peer, .765, was measured there (.764 by the peer below in cross-validation on the other
nine tenths; .69 to .72 in the other reading). The held-out tenth has about 800 comments, of which 560 are not merely
offensive, so the macro F1 has a standard error of .015 to .018.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tollgate.gates import toxicity
from tollgate.gates.text_buffers import text_column
from tollgate.gates.training.train_toxicity import held_out, read_comments, seen_law

DATA = Path(__file__).parents[3] / "shared" / "data"
LEAST_F1 = 0.78
MOST_FALSE_ALARMS = 0.01
LEAST_SPEED = 8.0
SPEED_ROWS = 200_000
PEER_ROWS = 20_000

Predictor = Callable[[Sequence[str]], npt.NDArray[np.float32]]


def measure() -> list[dict[str, Any]]:
    """Measure quality, false alarms and speed (by CPU seconds of all threads), of the gate and of the peer."""
    import csv

    import polars as pl
    from sklearn.metrics import f1_score

    with (DATA / "korean-hate-speech" / "train.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    unseen = [row for row in rows if held_out(row["comments"])]
    unmixed = [row for row in unseen if row["hate"] != "offensive"]
    law = json.loads((DATA / "easylaw" / "easylaw.json").read_text(encoding="utf-8"))
    answers = [row["output"] for row in law if not seen_law(row["instruction"])]
    reviews = pl.read_parquet(DATA / "nsmc" / "nsmc_reviews_651k_unique.parquet")["text"].head(SPEED_ROWS).to_list()

    def macro_f1(predict: Predictor, chosen: list[dict[str, str]], column: str) -> float:
        labels = [row[column] != "none" for row in chosen]
        return float(f1_score(labels, predict([row["comments"] for row in chosen]) >= 0.5, average="macro"))

    def flagged(predict: Predictor) -> float:
        return float((predict(answers) >= 0.5).mean())

    toxic, hateful, biased = toxicity.score_column, toxicity.hate_column, toxicity.bias_column
    hate_peer, toxic_peer = _peer("hate"), _peer("toxicity")
    return [
        _row("macro F1, hate against none, offensive left out", macro_f1(hateful, unmixed, "hate"), "",
             macro_f1(hate_peer, unmixed, "hate"), least=LEAST_F1),
        _row("macro F1, hate and offensive against none", macro_f1(toxic, unseen, "hate"), "",
             macro_f1(toxic_peer, unseen, "hate")),
        _row("macro F1, three grades", _grades_f1(unseen), "", None),
        _row("macro F1, bias", macro_f1(biased, unseen, "bias"), "", None),
        _row("clean answers on law flagged as offensive or worse", flagged(toxic), "share", flagged(toxic_peer),
             most=MOST_FALSE_ALARMS),
        _row("clean answers on law flagged as hate", flagged(hateful), "share", flagged(hate_peer),
             most=MOST_FALSE_ALARMS),
        _row("speed per core, all scores at once", _speed(toxicity.score_columns, text_column(reviews), reviews),
             "MB/s", _speed(toxic_peer, reviews[:PEER_ROWS], reviews[:PEER_ROWS]), least=LEAST_SPEED),
    ]  # fmt: skip


def _grades_f1(rows: Sequence[dict[str, str]]) -> float:
    from sklearn.metrics import f1_score

    found = toxicity.score_columns([row["comments"] for row in rows])
    return float(f1_score([row["hate"] for row in rows], found.grades(), average="macro"))


def _peer(target: str) -> Predictor:
    """TF-IDF of characters 1-5 and logistic regression with balanced classes, otherwise by default, for one reading."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    comments = [one for one in read_comments(DATA / "korean-hate-speech" / "train.tsv") if not held_out(one.text)]
    judged = [one for one in comments if one.judged(target)]
    features = TfidfVectorizer(analyzer="char", ngram_range=(1, 5))
    model = make_pipeline(features, LogisticRegression(solver="liblinear", class_weight="balanced"))
    model.fit([one.text for one in judged], [one.shows(target) for one in judged])
    return lambda texts: model.predict_proba(list(texts))[:, 1].astype(np.float32)


def _speed(score: Callable[[Any], Any], given: Any, texts: Sequence[str]) -> float:
    """Megabytes of UTF-8 in a second of CPU time; given as Arrow columns to the gate, as Python strings to the peer."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    score(given[:100])
    start = time.process_time()
    score(given)
    return size / (time.process_time() - start)


def _row(
    metric: str, value: float, unit: str, peer: float | None, *, least: float | None = None, most: float | None = None
) -> dict[str, Any]:
    must = f">= {least}" if least is not None else f"<= {most}" if most is not None else None
    met = (least is None or value >= least) and (most is None or value <= most)
    return {
        "metric": f"toxicity: {metric}",
        "value": round(value, 4),
        "unit": unit,
        "peer": None if peer is None else f"TF-IDF + logistic regression {peer:.4g}",
        "ratio": round(value / peer, 3) if peer else None,
        "must": must,
        "ok": met,
    }
