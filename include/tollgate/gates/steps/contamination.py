"""Step 5: drop training rows that overlap with a test set.

The step comes before the split. Where the split is made anew, a row that overlaps leaves the dataset, so it can't reach
training by another seed; where the rows declare their parts, those declared for validation or test stay: the test set
may be the very file that was given.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tollgate.dataset import test_sets
from tollgate.dataset.schema import SPLITS
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
    met = np.unique(hits.row)
    taken = met[_trained_on(workdir, places, settings)[met]]
    drop = settings.contamination == "drop"
    kept = rows[np.delete(np.arange(rows.height), taken)] if drop else rows
    workfolder.write_columns(workdir, "contamination", kept)
    by_test = Counter(hits.test)
    return workfolder.finish(
        workdir,
        StageResult(
            stage="contamination",
            rows_in=rows.height,
            rows_kept=kept.height,
            dropped={"contamination": len(taken)} if drop and len(taken) else {},
            details={
                "found": {"contamination": len(taken)} if len(taken) else {},
                "by_test": {path: by_test[path] for path in settings.contamination_tests},
                "held_out": len(met) - len(taken),
                "samples": _samples(hits, workdir, places, asked, settings),
            },
        ),
    )


def read_tests(settings: GateSettings) -> dict[str, pa.LargeStringArray]:
    """Texts of the test sets that the settings name, by the name there."""
    return {path: test_sets.read_texts(Path(path)) for path in settings.contamination_tests}


def _sides(workdir: Path, places: Integers, settings: GateSettings) -> tuple[pa.LargeStringArray, pa.LargeStringArray]:
    return sides(workfolder.read_places(workdir, places) if settings.contamination_tests else (), quality.TURN)


def _trained_on(workdir: Path, places: Integers, settings: GateSettings) -> npt.NDArray[np.bool_]:
    """Whether each row may be trained on."""
    declared = columns.metadata(workdir, places, ("declared",))["declared"]
    if columns.are_honoured(declared, settings):
        return (declared == SPLITS[0]).to_numpy()
    return np.ones(len(places), np.bool_)


def _samples(
    hits: contamination.Hits, workdir: Path, places: Integers, asked: pa.LargeStringArray, settings: GateSettings
) -> list[dict[str, Any]]:
    rows, tests, kinds, overlaps = hits.row[:SAMPLES], hits.test, hits.kind, hits.overlap.tolist()
    line = dict(zip(rows.tolist(), _lines(workdir, places[rows]), strict=True))
    return [
        {
            "line": line[row],
            "test": test,
            "kind": kind,
            "overlap": round(overlap, 3),
            "text": preview(asked[row].as_py(), settings),
        }
        for row, test, kind, overlap in zip(rows.tolist(), tests, kinds, overlaps, strict=False)
    ]


def _lines(workdir: Path, places: Integers) -> list[int]:
    """Lines of rows at places that may repeat."""
    distinct, which = np.unique(places, return_inverse=True)
    return columns.metadata(workdir, distinct, ("line",))["line"].to_numpy()[which].tolist()
