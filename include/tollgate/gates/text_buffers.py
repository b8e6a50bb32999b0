"""Arrow text columns as numpy arrays, for kernels that read bytes instead of Python strings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa


def text_column(texts: pa.Array | pa.ChunkedArray | list[str]) -> pa.LargeStringArray:
    """Texts as one contiguous Arrow column with 64-bit offsets; nothing becomes the empty text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(texts, list):
        return pa.array(texts, type=pa.large_string())
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks() if texts.num_chunks != 1 else texts.chunk(0)
    if texts.type != pa.large_string():
        texts = texts.cast(pa.large_string())
    return pc.fill_null(texts, "") if texts.null_count else texts


def buffers(texts: pa.LargeStringArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Offsets (one more than there are texts) and UTF-8 bytes of a column, without a copy.

    Text ``i`` is ``data[offsets[i]:offsets[i + 1]]``. Both arrays are read-only views that keep the column alive.
    """
    _, offset_buffer, data_buffer = texts.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int64, count=len(texts) + 1, offset=texts.offset * 8)
    data = np.frombuffer(data_buffer, dtype=np.uint8) if data_buffer and data_buffer.size else np.empty(0, np.uint8)
    return offsets, data
