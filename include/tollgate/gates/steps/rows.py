"""Columns of the rows at some places, for the steps that leave texts alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tollgate.gates import workfolder
from tollgate.gates.gate_settings import GateSettings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import polars as pl


def metadata(workdir: Path, places: npt.NDArray[np.int64], names: Sequence[str]) -> pl.DataFrame:
    """Columns but for the messages (``line``, ``category``, ``source``, ``declared``) at some places, which rise."""
    import polars as pl
    import pyarrow as pa

    from tollgate.dataset.schema import ROW_SCHEMA

    schema = pa.schema([ROW_SCHEMA.field(name) for name in names])
    return pl.DataFrame(pa.Table.from_batches(workfolder.read_places(workdir, places, names), schema))


def are_honoured(declared: pl.Series, settings: GateSettings) -> bool:
    """Whether rows keep the parts that they declare: if the settings say so and every row declares one."""
    return settings.declared_split == "honour" and len(declared) > 0 and declared.null_count() == 0
