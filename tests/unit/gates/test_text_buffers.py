from __future__ import annotations

from itertools import pairwise

import pyarrow as pa
import pytest

from tollgate.gates.text_buffers import buffers, text_column

TEXTS = ["가나다", "", "abc 라", "끝"]


def texts_of(column: pa.LargeStringArray) -> list[str]:
    offsets, data = buffers(column)
    return [bytes(data[start:end]).decode() for start, end in pairwise(offsets)]


@pytest.mark.parametrize(
    "given",
    [TEXTS, pa.array(TEXTS), pa.chunked_array([TEXTS[:2], TEXTS[2:]]), pa.array(["x", *TEXTS, "y"])[1:5]],
    ids=["list", "array", "chunks", "slice"],
)
def test_every_form_of_a_column_gives_the_same_bytes(given: pa.Array | pa.ChunkedArray | list[str]) -> None:
    assert texts_of(text_column(given)) == TEXTS


def test_nothing_is_the_empty_text() -> None:
    assert texts_of(text_column(pa.array(["a", None, "b"]))) == ["a", "", "b"]


def test_an_empty_column_has_one_offset() -> None:
    offsets, data = buffers(text_column([]))
    assert offsets.tolist() == [0]
    assert data.size == 0
