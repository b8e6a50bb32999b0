"""Step 4: drop rows of low quality, and toxic ones."""

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

if TYPE_CHECKING:
    import numpy.typing as npt
    import polars as pl

REASONS = ("toxic", "low_quality")
"""Why a row may go; a row that is both counts as toxic."""


def score_quality(workdir: Path, settings: GateSettings) -> StageResult:
    """Score toxicity of every row, and drop or only report the rows beyond its threshold or that of quality.

    The quality scores are those by which the step before chose among duplicates.
    """
    import polars as pl

    rows = workfolder.read_columns(workdir, "duplicates")
    rows = rows.with_columns(pl.Series("toxicity", _toxicity(workdir, rows["place"].to_numpy()), dtype=pl.Float32))
    toxic, low = pl.col("toxicity") >= settings.max_toxicity, pl.col("quality_score") < settings.min_quality
    reason = pl.when(toxic).then(pl.lit("toxic")).when(low).then(pl.lit("low_quality")).alias("reason")
    rows = rows.with_columns(reason)
    taken = [name for name, mode in zip(REASONS, (settings.toxicity, settings.quality), strict=True) if mode == "drop"]
    kept = rows.filter(~rows["reason"].is_in(taken).fill_null(value=False))
    workfolder.write_columns(workdir, "quality", kept.select("place", "cluster", "quality_score", "toxicity"))
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


def _toxicity(workdir: Path, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The worst score among the turns of user and assistant, for each row."""
    import pyarrow as pa

    scores = [np.empty(0, np.float32)]
    for batch in workfolder.read_places(workdir, places):
        turns = take_apart(batch.column("messages"))
        spoken = ~turns.of("system")
        texts = turns.content.filter(pa.array(spoken)).to_pylist()
        of_turns = np.array([toxicity.score(text) for text in texts], np.float32)
        starts = np.flatnonzero(np.diff(turns.row[spoken], prepend=-1))
        scores.append(np.maximum.reduceat(of_turns, starts).astype(np.float32))
    return np.concatenate(scores)


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
        }
        if reason == "low_quality":
            weak = {name: round(value, 3) for name, value in parts.items() if value < 1}
            sample |= {"parts": weak, "text": preview(text, settings)}
        samples.append(sample)
    return samples
