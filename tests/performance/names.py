"""How well names of persons are found that the model hasn't seen, and how fast; beside kiwi and presidio.

F1 is of exact spans of KLUE-NER's persons, in cross-validation by name: no name of two or more characters of a test
fold occurs in what its model has seen (see :mod:`tollgate.gates.training.train_names`). The peers know what they know.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa

from tollgate.gates import names
from tollgate.gates.training import klue_ner, train_names
from tollgate.gates.training.klue_ner import Labelled
from tollgate.gates.training.train_names import Score

DATA = Path(__file__).parents[3] / "shared" / "data"
KLUE = DATA / "klue-ner" / "klue-ner-v1.1_dev_first3000.tsv"
CLEAN = (DATA / "easylaw" / "easylaw.json", DATA / "songys-chatbot" / "ChatbotData.csv")
FOLDS = 5
SPEED_ROWS = 100_000
LEAST_F1 = 0.78
LEAST_ACCURATE_F1 = 0.83
LEAST_SPEED = 8.0
MOST_FALSE_ALARMS = 50.0
_EACH = 10_000

Span = tuple[int, int]


def measure(rows: int = SPEED_ROWS) -> list[dict[str, Any]]:
    """Measure F1, speed and false alarms.

    Args:
        rows: Sentences for the speed.

    Returns:
        For each metric: metric, value, unit, peer, ratio (to the peer's value), must and ok; nothing where the data
        folder isn't beside the project.
    """
    if not KLUE.is_file():
        return []
    sentences = klue_ner.read(KLUE)
    clean = train_names.read_clean(CLEAN)
    peers = {name: _score(find, sentences).f1 for name, find in _peers()}
    results = []
    for mode, least in (("fast", LEAST_F1), ("accurate", LEAST_ACCURATE_F1)):
        if mode == "accurate" and not find_spec("kiwipiepy"):
            continue
        scores = list(train_names.cross_validate(sentences, clean, FOLDS, 1, mode))  # type: ignore[arg-type]
        f1 = train_names.total(scores).f1
        results.append(_result(f"F1, {mode}, split by name", f1, "F1", least, f1 >= least, peers))
    return [*results, _speed(sentences, rows), *_false_alarms(clean)]


def _speed(sentences: Sequence[Labelled], rows: int) -> dict[str, Any]:
    """Megabytes of UTF-8 per CPU second, of sentences that mostly hold names."""
    texts = [one.text for one in sentences]
    column = pa.array((texts * (rows // len(texts) + 1))[:rows], pa.large_string())
    names.find_column(texts[:10])  # compiles the kernels
    begin = time.process_time()
    names.find_column(column)
    speed = column.nbytes / 1e6 / (time.process_time() - begin)
    return _result("speed, fast", speed, "MB per CPU second", LEAST_SPEED, speed >= LEAST_SPEED, {})


def _false_alarms(clean: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Texts without names in which one is found, of ten thousand; the model learnt from every other of them."""
    sentences = klue_ner.read(KLUE)
    tagger = train_names.learn(sentences, clean[::2], 1)
    with CLEAN[1].open(encoding="utf-8", newline="") as file:
        chat = {text for row in csv.DictReader(file) for text in (row["Q"], row["A"])}
    law = {text for row in json.loads(CLEAN[0].read_text(encoding="utf-8")) for text in row.values()}
    unseen = clean[1::2]
    demo = _demo_messages()
    for name, texts in (
        ("chat", [text for text in unseen if text in chat]),
        ("law", [text for text in unseen if text not in chat and any(text in one for one in law)]),
        ("the demo's test messages", demo),
    ):
        rows, *_ = tagger.find_column(pa.array(texts, pa.large_string()))
        alarms = len(set(rows.tolist())) / len(texts) * _EACH
        yield _result(
            f"false alarms in 10,000 of {name}", alarms, "texts", MOST_FALSE_ALARMS, alarms <= MOST_FALSE_ALARMS, {}
        )


def _demo_messages() -> list[str]:
    from tollgate.demo.grammar import load_grammar
    from tollgate.demo.messages import MessageStream

    return [message.text for message in islice(MessageStream(load_grammar(), "test", Random(0)), 2_000)]


def _result(metric: str, value: float, unit: str, must: float, ok: bool, peers: dict[str, float]) -> dict[str, Any]:
    best = max(peers.values(), default=0)
    return {
        "metric": f"names: {metric}",
        "value": round(value, 4),
        "unit": unit,
        "peer": ", ".join(f"{name} {score:.3f}" for name, score in peers.items()) or None,
        "ratio": round(value / best, 3) if best else None,
        "must": must,
        "ok": ok,
    }


def _score(find: Callable[[str], Iterable[Span]], sentences: Sequence[Labelled]) -> Score:
    scores = []
    for one in sentences:
        found, labelled = set(find(one.text)), set(one.names)
        scores.append(Score(len(found & labelled), len(found - labelled), len(labelled - found)))
    return train_names.total(scores)


def _peers() -> Iterator[tuple[str, Callable[[str], Iterable[Span]]]]:
    """The libraries to compare with that are installed, and what they find in a text."""
    if find_spec("kiwipiepy"):
        from kiwipiepy import Kiwi

        kiwi = Kiwi(num_workers=1)
        yield (
            "kiwi (NNP)",
            lambda text: [(one.start, one.start + one.len) for one in kiwi.tokenize(text) if one.tag == "NNP"],
        )
    if find_spec("presidio_analyzer"):
        recognizer = _presidio()
        if recognizer:
            yield "presidio", recognizer


def _presidio() -> Callable[[str], Iterable[Span]] | None:
    """Presidio's finder of persons, which is spaCy's; nothing where no Korean model of spaCy is installed."""
    if not find_spec("ko_core_news_sm"):
        return None
    import ko_core_news_sm

    model = ko_core_news_sm.load()
    return lambda text: [(one.start_char, one.end_char) for one in model(text).ents if one.label_ == "PS"]


if __name__ == "__main__":
    for line in measure():
        print(line)
