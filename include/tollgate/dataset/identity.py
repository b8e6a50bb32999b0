"""What a dialogue is told by: a number from its roles and contents, and the row's id made of it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tollgate.dataset.schema import ROLES
from tollgate.dataset.turns import Turns

if TYPE_CHECKING:
    import numpy.typing as npt
    import polars as pl

_AFTER_ROLE, _AFTER_TURN = "\x1f", "\x1e"


def keys(turns: Turns) -> npt.NDArray[np.uint64]:
    """XXH3 (64 bits) of each dialogue's roles and contents: the same for the same dialogue, on every machine."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import xxhash

    large = pa.large_string()
    roles = pa.DictionaryArray.from_arrays(pa.array(turns.role, pa.int8()), pa.array(ROLES, large)).cast(large)
    named = pc.binary_join_element_wise(roles, turns.content, pa.scalar(_AFTER_ROLE, large))
    offsets = np.concatenate([[0], np.cumsum(turns.lengths)]).astype(np.int32)
    whole = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), named), pa.scalar(_AFTER_TURN, large))
    _, places, data = whole.buffers()
    text = memoryview(data) if data is not None else memoryview(b"")
    bounds = np.frombuffer(places, np.int64, len(whole) + 1, whole.offset * 8).tolist()
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter(map(digest, (text[a:b] for a, b in pairwise(bounds))), np.uint64)


def ids(numbers: npt.NDArray[np.uint64]) -> pl.Series:
    """Ids of rows from their keys: 16 hexadecimal digits; of rows with the same key the second ends in ``-2``."""
    import polars as pl

    frame = pl.DataFrame({"key": numbers})
    texts = _hexadecimal(numbers)
    if frame["key"].n_unique() == frame.height:
        return texts
    nth = pl.int_range(1, pl.len() + 1).over("key")
    again = pl.when(pl.col("nth") > 1).then(pl.format("{}-{}", "id", "nth")).otherwise("id").alias("id")
    return frame.with_columns(texts, nth.alias("nth")).select(again)["id"]


def _hexadecimal(numbers: npt.NDArray[np.uint64]) -> pl.Series:
    """Sixteen digits of each number, without a Python string for each."""
    import polars as pl
    import pyarrow as pa

    digits = pa.py_buffer(numbers.astype(">u8").tobytes().hex().encode())
    places = pa.py_buffer(np.arange(0, 16 * len(numbers) + 1, 16, dtype=np.int64))
    return pl.Series("id", pa.LargeStringArray.from_buffers(len(numbers), places, digits), dtype=pl.String)
