"""Step 3: drop rows that repeat another row of the source, or one of an earlier version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tollgate.dataset.schema import SPLITS
from tollgate.dataset.turns import sides
from tollgate.gates import dedup, quality, workfolder
from tollgate.gates.gate_settings import GateSettings
from tollgate.gates.results import StageResult
from tollgate.gates.steps.previews import SAMPLES, preview

if TYPE_CHECKING:
    import numpy.typing as npt
    import polars as pl
    import pyarrow as pa

    Integers = npt.NDArray[np.int64]

QUALITY_PART = "quality."
"""Columns with a part of the quality score are named so, then by the part."""


@dataclass(frozen=True)
class _Rows:
    """Rows by column, with the place of each among the rows of the step before."""

    place: Integers
    line: Integers
    declared: pa.StringArray
    asked: pa.LargeStringArray
    answered: pa.LargeStringArray

    def without(self, some: Integers) -> _Rows:
        """The rows but for some, given by position."""
        import pyarrow as pa

        if not len(some):
            return self
        left = np.delete(np.arange(len(self.place)), some)
        texts = (column.take(pa.array(left)) for column in (self.declared, self.asked, self.answered))
        return _Rows(self.place[left], self.line[left], *texts)


def drop_duplicates(workdir: Path, settings: GateSettings) -> StageResult:
    """Drop exact and near duplicates, the best row of each group kept; mark every row's near-duplicate cluster.

    Where the rows declare their parts, the row of the most held-out part is kept before one of better quality, so that
    a test set loses no row to training. Rows that repeat an earlier version go first, whatever else they repeat.
    """
    rows = _read(workdir)
    drop = settings.duplicates == "drop"
    repeated, samples = _repeats(rows, workdir, settings)
    left = rows.without(repeated) if drop else rows
    scores = quality.score_column(left.asked, left.answered)
    ranks = np.column_stack([_held_out(left, settings), scores.total])
    found = dedup.find_duplicates(left.asked, left.answered, ranks, settings.duplicate_threshold)
    columns = _columns(left, found, scores)
    kept = columns[np.delete(np.arange(columns.height), found.row)] if drop else columns
    workfolder.write_columns(workdir, "duplicates", kept)
    exact = int(found.exact.sum())
    counts = {"earlier_duplicate": len(repeated), "exact_duplicate": exact, "near_duplicate": len(found.row) - exact}
    counts = {reason: count for reason, count in counts.items() if count}
    return workfolder.finish(
        workdir,
        StageResult(
            stage="duplicates",
            rows_in=len(rows.place),
            rows_kept=kept.height,
            dropped=counts if drop else {},
            details={"found": counts, "earlier_samples": samples, **_details(found, left, settings)},
        ),
    )


def _read(workdir: Path) -> _Rows:
    import pyarrow as pa

    from tollgate.dataset.schema import ROW_SCHEMA

    batches = workfolder.read_rows(workdir, "personal_data")
    table = pa.Table.from_batches(batches, ROW_SCHEMA)
    declared = table["declared"].combine_chunks()
    return _Rows(np.arange(table.num_rows), table["line"].to_numpy(), declared, *sides(batches, quality.TURN))


def _held_out(rows: _Rows, settings: GateSettings) -> Integers:
    """How far from training each row's declared part is; the same for all where the parts are not taken."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if settings.declared_split != "honour" or rows.declared.null_count:
        return np.zeros(len(rows.place), np.int64)
    return pc.index_in(rows.declared, value_set=pa.array(SPLITS)).to_numpy(zero_copy_only=False).astype(np.int64)


def _columns(rows: _Rows, found: dedup.Duplicates, scores: quality.QualityScores) -> pl.DataFrame:
    import polars as pl

    columns = {"place": rows.place, "cluster": rows.place[found.cluster], "quality_score": scores.total}
    return pl.DataFrame(columns | {f"{QUALITY_PART}{name}": values for name, values in scores.parts.items()})


def _repeats(rows: _Rows, workdir: Path, settings: GateSettings) -> tuple[Integers, list[dict[str, Any]]]:
    """Positions of the rows that repeat a row of an earlier version, and samples of them."""
    versions = workfolder.read_result(workdir, "ingest").details["versions"]
    found: set[int] = set()
    samples: list[dict[str, Any]] = []
    for reference in settings.against:
        version = versions[reference]
        asked, answered = sides(_turns_of(Path(version["folder"])), quality.TURN)
        known = dedup.find_known(rows.asked, rows.answered, asked, answered, settings.duplicate_threshold)
        found.update(known.row.tolist())
        samples += [
            {
                "line": int(rows.line[row]),
                "version": version["reference"],
                "jaccard": round(alike, 3),
                "text": preview(rows.asked[row].as_py(), settings),
                "kept_text": preview(asked[earlier].as_py(), settings),
            }
            for row, earlier, alike in zip(
                known.row[:SAMPLES].tolist(), known.earlier_row.tolist(), known.jaccard.tolist(), strict=False
            )
        ]
    return np.array(sorted(found), np.int64), samples


def _turns_of(folder: Path) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    for part in SPLITS:
        with pq.ParquetFile(folder / f"{part}.parquet") as file:
            yield from file.iter_batches(columns=["messages"])


def _details(found: dedup.Duplicates, rows: _Rows, settings: GateSettings) -> dict[str, Any]:
    def text(row: int) -> str:
        return preview(rows.asked[row].as_py(), settings)

    sizes = np.bincount(found.cluster) if len(found.cluster) else np.zeros(1, np.int64)
    near = np.flatnonzero(~found.exact) if not found.exact.all() else np.arange(len(found.row))
    shown = near[:SAMPLES]
    return {
        "clusters": int((sizes > 1).sum()),
        "largest_cluster": int(sizes.max()),
        "conflicting_questions": found.conflict_count,
        "samples": [
            {
                "line": int(rows.line[row]),
                "kept_line": int(rows.line[kept]),
                "jaccard": round(alike, 3),
                "text": text(row),
                "kept_text": text(kept),
            }
            for row, kept, alike in zip(
                found.row[shown].tolist(), found.kept[shown].tolist(), found.jaccard[shown].tolist(), strict=True
            )
        ],
        "conflicts": [
            {"lines": [int(rows.line[row]) for row in group[:SAMPLES]], "text": text(group[0])}
            for group in found.conflicts[:SAMPLES]
        ],
    }
