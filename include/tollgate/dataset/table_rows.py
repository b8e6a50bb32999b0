"""Rows of tables: CSV and TSV line by line, Parquet batch by batch."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tollgate.dataset.batches import Unreadable
from tollgate.dataset.encodings import COMPRESSIONS, open_bytes
from tollgate.dataset.layouts import FieldMapping, needed_columns
from tollgate.errors import BadInputError, Problem

if TYPE_CHECKING:
    import pyarrow as pa

LONGEST_FIELD = 16 << 20
"""Characters that a field of a text table may have."""

_PARQUET_ROWS = 2048
_DELIMITERS = {".csv": ",;\t", ".tsv": "\t"}


class _Lines:
    """A table's lines, each remembered until its row is read."""

    def __init__(self, text: Iterable[str]) -> None:
        self._text = iter(text)
        self.of_row: list[str] = []
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._text)
        self.of_row.append(line)
        self.number += 1
        return line


def text_rows(path: Path, text: Iterable[str], kind: str, mapping: FieldMapping) -> Iterator[tuple[int, object]]:
    """Rows of a text table with a header, each with the line that it begins at.

    A field in quotes may hold line breaks. Quotes that aren't closed, or text behind a closing quote, make a row that
    stands on one line be read as it stands (TSV files often quote nothing); a row of several lines is broken then, and
    so is each of its lines: a quote too many may have swallowed them.

    Args:
        path: The file, for errors.
        text: Its lines with their ends.
        kind: ``.csv`` or ``.tsv``; a CSV's fields may also be separated by semicolons or tabs.
        mapping: What was said about its columns.

    Raises:
        BadInputError: A column stands twice, a mapped one is missing, or the columns are of no known layout.
    """
    csv.field_size_limit(LONGEST_FIELD)
    lines = _Lines(text)
    first = next(lines, "")
    delimiter = next((one for one in _DELIMITERS[kind] if one in first), _DELIMITERS[kind][0])
    try:
        header = next(csv.reader([first], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        problem = Problem(f"{path}, line 1", str(error), "names of columns")
        raise BadInputError("The header can't be read", [problem]) from error
    if not header:
        return
    _check_names(f"{path}, line 1", header)
    needed_columns(header, mapping, f"{path}, line 1")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        begin = lines.number + 1
        lines.of_row.clear()
        try:
            row = next(reader, None)
            reason = ""
        except csv.Error as error:
            row, reason = _plain_row(lines.of_row, delimiter), f"not a table row: {error}"
        if row is None:
            return
        if not row:
            continue
        if len(row) == len(header):
            yield begin, dict(zip(header, row, strict=True))
            continue
        reason = reason or f"found {len(row)} fields, expected {len(header)} as in the header"
        yield begin, Unreadable(reason)
        for line in range(begin + 1, lines.number + 1):
            yield line, Unreadable(f"belongs to the broken row that begins at line {begin}")


def _plain_row(lines: list[str], delimiter: str) -> list[str]:
    """The fields of a row on one line, quotes being text; as one field, where it stands on several."""
    return lines[0].rstrip("\r\n").split(delimiter) if len(lines) == 1 else [""]


def _check_names(where: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        shown = ", ".join(repr(name) for name in repeated)
        raise BadInputError("A column stands twice", [Problem(where, shown, "distinct names")])


def parquet_rows(path: Path, mapping: FieldMapping) -> Iterator[tuple[int, object]]:
    """Rows of a Parquet file with their numbers, only the columns that examples are made of.

    Raises:
        BadInputError: The file is no Parquet or damaged, or its columns are of no known layout.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with _unpacked(path) as plain, pq.ParquetFile(plain, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            _check_names(str(path), names)
            columns = needed_columns(names, mapping, str(path))
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=columns):
                for value in _values(batch):
                    number += 1
                    yield number, value
    except (pa.ArrowException, OSError) as error:
        found = (str(error).splitlines() or [type(error).__name__])[0]
        where = f"{path}, row {number + 1}"
        raise BadInputError("The Parquet file can't be read", [Problem(where, found, "Parquet")]) from error


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The file itself, or a decompressed copy for as long as it is needed: Parquet is read from its end."""
    if path.suffix.lower() not in COMPRESSIONS:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="tollgate-") as folder:
        plain = Path(folder) / "rows.parquet"
        with open_bytes(path) as packed, plain.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
        yield plain


def _values(batch: pa.RecordBatch) -> list[object]:
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError):  # text that is none, or a time that Python doesn't know
        return [_value(batch.slice(row, 1)) for row in range(batch.num_rows)]


def _value(row: pa.RecordBatch) -> object:
    try:
        return row.to_pylist()[0]
    except (ValueError, OverflowError) as error:
        return Unreadable(f"holds a value that can't be read: {type(error).__name__}")
