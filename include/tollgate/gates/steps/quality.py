"""Step 4: drop rows of low quality, and toxic or biased ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tollgate.dataset import statistics
from tollgate.dataset.turns import sides, take_apart
from tollgate.gates import toxicity, workfolder
from tollgate.gates.gate_settings import GateSettings
from tollgate.gates.results import StageResult
from tollgate.gates.steps.duplicates import QUALITY_PART
from tollgate.gates.steps.previews import SAMPLES, preview
from tollgate.gates.threads import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import polars as pl
    import pyarrow as pa

REASONS = ("low_quality", "toxic", "biased")
"""Why a row may go; one with several reasons counts for the first of those that rows are dropped for."""


def score_quality(
    workdir: Path, settings: GateSettings, scored: Callable[[], pl.DataFrame] | None = None
) -> StageResult:
    """Score toxicity and bias of every row, and drop or only report the rows beyond these thresholds or quality's.

    The quality scores are those by which the step before chose among duplicates.

    Args:
        workdir: The run's work folder.
        settings: The thresholds.
        scored: Hands over what :func:`score_all` says of this folder, if it was called already.
    """
    import polars as pl

    rows = workfolder.read_columns(workdir, "duplicates")
    places = rows["place"].to_numpy()
    scores = scored()[places] if scored else _scores(workfolder.read_places(workdir, places), settings)
    rows = rows.hstack(scores.get_columns())
    beyond = {
        "toxic": pl.col("toxicity") >= settings.max_toxicity,
        "biased": pl.col("bias") >= settings.max_bias,
        "low_quality": pl.col("quality_score") < settings.min_quality,
    }
    modes = {"low_quality": settings.quality, "toxic": settings.toxicity, "biased": settings.bias}
    taken = [name for name in REASONS if modes[name] == "drop"]
    order = sorted(REASONS, key=lambda name: name not in taken)
    rows = rows.with_columns(pl.coalesce(pl.when(beyond[name]).then(pl.lit(name)) for name in order).alias("reason"))
    kept = rows.filter(~rows["reason"].is_in(taken).fill_null(value=False))
    workfolder.write_columns(workdir, "quality", kept.select("place", "cluster", "quality_score", "toxicity", "bias"))
    found = {name: count for name in REASONS if (count := int((rows["reason"] == name).sum()))}
    return workfolder.finish(
        workdir,
        StageResult(
            stage="quality",
            rows_in=rows.height,
            rows_kept=kept.height,
            dropped={name: count for name, count in found.items() if name in taken},
            details={
                "found": found,
                "histogram": statistics.histogram(rows["quality_score"]),
                "toxicity_histogram": statistics.histogram(rows["toxicity"]),
                "parts": {name: round(float(mean or 0), 3) for name, mean in _parts(rows).mean().to_dicts()[0].items()},
                "samples": [sample for name in REASONS for sample in _samples(workdir, rows, name, settings)],
            },
        ),
    )


def score_all(workdir: Path, settings: GateSettings) -> pl.DataFrame:
    """``toxicity`` and ``bias`` of all rows that the step ``personal_data`` left, repeated ones too.

    For a run that has time for it while the step before keeps not all cores busy.
    """
    return _scores(workfolder.read_rows(workdir, "personal_data"), settings)


def _scores(batches: Iterable[pa.RecordBatch], settings: GateSettings) -> pl.DataFrame:
    """``toxicity`` and ``bias`` of each row: the worst among the turns of user and assistant; 0 if not looked for.

    Toxicity is hate where only hateful rows count as toxic.
    """
    import polars as pl

    none = np.empty(0, np.float32)
    found = [(none, none), *in_order(lambda batch: _worst(batch, settings), batches)]
    columns = (np.concatenate(scores) for scores in zip(*found, strict=True))
    return pl.DataFrame(dict(zip(("toxicity", "bias"), columns, strict=True)))


def _worst(batch: pa.RecordBatch, settings: GateSettings) -> tuple[toxicity.Scores, toxicity.Scores]:
    import pyarrow as pa

    turns = take_apart(batch.column("messages"))
    spoken = ~turns.of("system")
    texts = turns.content.filter(pa.array(spoken))
    starts = np.flatnonzero(np.diff(turns.row[spoken], prepend=-1))
    scores = _scores_of(texts, settings)
    return np.maximum.reduceat(scores[0], starts), np.maximum.reduceat(scores[1], starts)


def _scores_of(texts: pa.LargeStringArray, settings: GateSettings) -> tuple[toxicity.Scores, toxicity.Scores]:
    found = toxicity.score_columns(texts)
    toxic = found.hate if settings.toxic_from == "hate" else found.toxicity
    return toxic, found.bias if settings.bias != "off" else np.zeros(len(texts), np.float32)


def _parts(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(
        rows[name].alias(name.removeprefix(QUALITY_PART)) for name in rows.columns if name.startswith(QUALITY_PART)
    )


def _samples(workdir: Path, rows: pl.DataFrame, reason: str, settings: GateSettings) -> list[dict[str, Any]]:
    chosen = rows.filter(rows["reason"] == reason).head(SAMPLES)
    batches = list(workfolder.read_places(workdir, chosen["place"].to_numpy(), ("line", "messages")))
    lines = [line for batch in batches for line in batch.column("line").to_pylist()]
    asked = sides(batches, "\n")[0].to_pylist()
    samples = []
    for row, parts, line, text in zip(chosen.to_dicts(), _parts(chosen).to_dicts(), lines, asked, strict=True):
        sample = {
            "line": line,
            "reason": reason,
            "quality": round(row["quality_score"], 3),
            "toxicity": round(row["toxicity"], 3),
            "bias": round(row["bias"], 3),
        }
        if reason == "low_quality":
            weak = {name: round(value, 3) for name, value in parts.items() if value < 1}
            sample |= {"parts": weak, "text": preview(text, settings)}
        samples.append(sample)
    return samples
