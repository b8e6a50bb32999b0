"""Texts of test sets, of whatever layout: what a training set must not hold.

Of a row that the readers know, what the user says counts, and long texts beside it (a passage that a question is
about); of any other row all its texts but short ones, such as labels. Answers don't count: those of a classifier are
the same in test and training.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tollgate.dataset import readers
from tollgate.dataset.encodings import STRAY, detect_encoding, open_bytes, utf8_blocks
from tollgate.dataset.json_rows import array_rows, is_array, line_rows
from tollgate.dataset.layouts import RowError, to_row
from tollgate.errors import BadInputError, Problem

if TYPE_CHECKING:
    import pyarrow as pa

_SHORT, _LONG = 8, 40  # characters: a label is shorter than the one, a passage is longer than the other
_TABLES = {".csv": ",", ".tsv": "\t"}


def read_texts(path: Path) -> pa.LargeStringArray:
    """The texts of a test set's file.

    Raises:
        BadInputError: The file can't be read, or holds no text.
    """
    import pyarrow as pa

    readers.check_readable(path)
    texts = list(dict.fromkeys(text for row in _rows(path) for text in _texts(row)))
    if not texts:
        raise BadInputError("The test set holds no text", [Problem(str(path), "0 texts", "rows with text")])
    return pa.array(texts, pa.large_string())


def _rows(path: Path) -> Iterator[Mapping[str, object]]:
    import pyarrow.parquet as pq

    kind = next(suffix for suffix in reversed(path.suffixes) if suffix.lower() not in {".gz", ".zst"}).lower()
    if kind == ".parquet":
        yield from pq.read_table(path).to_pylist()
        return
    encoding = detect_encoding(path)
    if kind in _TABLES:
        with io.TextIOWrapper(open_bytes(path), encoding, STRAY, newline="") as text:
            yield from csv.DictReader(text, delimiter=_TABLES[kind])
        return
    blocks = utf8_blocks(path, encoding)
    rows = array_rows(path, blocks) if is_array(utf8_blocks(path, encoding)) else line_rows(blocks)
    yield from (row for _, row in rows if isinstance(row, Mapping))


def _texts(row: Mapping[str, object]) -> Iterator[str]:
    cells = [value.strip() for value in row.values() if isinstance(value, str) and value.strip()]
    try:
        known = to_row(row)
    except RowError:
        known = None
    if known is not None:
        turns = list(zip(known.roles, known.contents, strict=True))
        asked = "\n".join(content for role, content in turns if role == "user")
        if len(asked) >= _SHORT:
            yield asked
            said = "\n".join(content for _, content in turns)
            yield from (cell for cell in cells if len(cell) >= _LONG and cell not in said)
            return
    yield from [cell for cell in cells if len(cell) >= _SHORT] or cells[:1]
