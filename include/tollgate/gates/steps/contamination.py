"""Step 5: drop training rows that overlap with a test set.

The step comes before the split. Where the split is made anew, a row that overlaps leaves the dataset, so it can't reach
training by another seed; where the rows declare their parts, those declared for validation or test stay: the test set
may be the very file that was given.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tollgate.dataset import test_sets
from tollgate.dataset.turns import sides
from tollgate.gates import contamination, quality, workfolder
from tollgate.gates.gate_settings import GateSettings
from tollgate.gates.results import StageResult
from tollgate.gates.steps import rows as columns
from tollgate.gates.steps.previews import SAMPLES, preview

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Integers = npt.NDArray[np.int64]


def check_contamination(workdir: Path, settings: GateSettings) -> StageResult:
    """Drop, or only report, training rows that overlap with one of the test sets that the settings name."""
    rows = workfolder.read_columns(workdir, "quality")
    places = rows["place"].to_numpy()
    asked, answered = _sides(workdir, places, settings)
    hits = contamination.find(asked, answered, read_tests(settings), settings.duplicate_threshold)
    lines, training = _training(workdir, places, settings)
    taken = np.intersect1d(hits.row, np.flatnonzero(training))
    drop = settings.contamination == "drop"
    kept = rows[np.delete(np.arange(rows.height), taken)] if drop else rows
    workfolder.write_columns(workdir, "contamination", kept)
    names = dict.fromkeys(settings.contamination_tests, 0)
    for name in hits.test:
        names[name] += 1
    return workfolder.finish(
        workdir,
        StageResult(
            stage="contamination",
            rows_in=rows.height,
            rows_kept=kept.height,
            dropped={"contamination": len(taken)} if drop and len(taken) else {},
            details={
                "found": {"contamination": len(taken)} if len(taken) else {},
                "by_test": names,
                "held_out": len(set(hits.row.tolist())) - len(taken),
                "samples": _samples(hits, lines, asked, settings),
            },
        ),
    )


def read_tests(settings: GateSettings) -> dict[str, pa.LargeStringArray]:
    """Texts of the test sets that the settings name, by the name there."""
    return {path: test_sets.read_texts(Path(path)) for path in settings.contamination_tests}


def _sides(workdir: Path, places: Integers, settings: GateSettings) -> tuple[pa.LargeStringArray, pa.LargeStringArray]:
    return sides(workfolder.read_places(workdir, places) if settings.contamination_tests else (), quality.TURN)


def _training(workdir: Path, places: Integers, settings: GateSettings) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Lines of the rows, and which of them may be trained on."""
    found = columns.metadata(workdir, places)
    declared = found["declared"]
    training = (
        (declared == "train").to_numpy() if columns.are_honoured(declared, settings) else np.ones(len(places), bool)
    )
    return found["line"].to_numpy(), training


def _samples(
    hits: contamination.Hits, lines: Integers, asked: pa.LargeStringArray, settings: GateSettings
) -> list[dict[str, Any]]:
    found = zip(hits.row[:SAMPLES].tolist(), hits.test, hits.kind, hits.overlap.tolist(), strict=False)
    return [
        {
            "line": int(lines[row]),
            "test": name,
            "kind": kind,
            "overlap": round(overlap, 3),
            "text": preview(asked[row].as_py(), settings),
        }
        for row, name, kind, overlap in found
    ]
