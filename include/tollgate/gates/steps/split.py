"""Step 6: give every row its part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tollgate.dataset import identity, split
from tollgate.dataset.schema import SPLITS
from tollgate.dataset.turns import take_apart
from tollgate.gates import workfolder
from tollgate.gates.gate_settings import GateSettings
from tollgate.gates.results import StageResult
from tollgate.gates.steps import rows as columns
from tollgate.gates.threads import in_order

if TYPE_CHECKING:
    import numpy.typing as npt
    import polars as pl
    import pyarrow as pa


def split_rows(workdir: Path, settings: GateSettings) -> StageResult:
    """Give every row its part, and drop the rows that would leak from training into validation or test.

    The parts that the rows declare are taken if every row declares one and the settings honour them; else the rows are
    split anew, stratified by category, a near-duplicate cluster never cut.
    """
    rows = workfolder.read_columns(workdir, "contamination")
    places = rows["place"].to_numpy()
    keys = [np.empty(0, np.uint64)]
    keys += in_order(_keys, workfolder.read_places(workdir, places))
    numbers = np.concatenate(keys)
    found = columns.metadata(workdir, places, ("category", "declared"))
    honoured = columns.are_honoured(found["declared"], settings)
    clusters = rows["cluster"].to_numpy()
    if honoured:
        parts = split.without_leaks(found["declared"], clusters)
    else:
        shares = split.Shares(validation=settings.validation_share, test=settings.test_share)
        parts = split.assign(numbers, clusters, found["category"], shares, settings.seed)
    rows = rows.with_columns(identity.ids(numbers), parts.alias("part"))
    kept = rows.filter(rows["part"].is_not_null())
    workfolder.write_columns(workdir, "split", kept)
    leaks = rows.height - kept.height
    return workfolder.finish(
        workdir,
        StageResult(
            stage="split",
            rows_in=rows.height,
            rows_kept=kept.height,
            dropped={"leak": leaks} if leaks else {},
            details={"splits": sizes(kept), "declared": honoured},
        ),
    )


def _keys(batch: pa.RecordBatch) -> npt.NDArray[np.uint64]:
    return identity.keys(take_apart(batch.column("messages")))


def sizes(rows: pl.DataFrame) -> dict[str, int]:
    """Rows of each part."""
    return {part: int((rows["part"] == part).sum()) for part in SPLITS}
