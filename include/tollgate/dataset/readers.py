"""Readers: JSON arrays, JSONL, Parquet, CSV and TSV, each also compressed, as a stream of rows in Arrow batches.

A file that can't be read at all is refused before any work starts; a row that can't be used goes to quarantine with
its line, field and reason, and the rest goes on. Nothing is dropped silently: every row comes out as one or the
other. Memory is bounded by a batch, not by the file.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from tollgate.dataset.batches import Batch, Unreadable, to_batches
from tollgate.dataset.encodings import COMPRESSIONS, STRAY, detect_encoding, open_bytes, utf8_blocks
from tollgate.dataset.json_rows import array_rows, is_array, line_rows
from tollgate.dataset.layouts import DEFAULT_MAPPING, FieldMapping, RowError, to_example
from tollgate.dataset.plain_lines import line_batches
from tollgate.dataset.schema import Example, RowProblem
from tollgate.dataset.table_rows import parquet_rows, text_rows
from tollgate.errors import BadInputError, Problem

_TABLES = (".csv", ".tsv")
_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", *_TABLES)


def read_batches(path: Path, mapping: FieldMapping | None = None, batch_rows: int = 65_536) -> Iterator[Batch]:
    """Stream a file's rows in order.

    Args:
        path: The file.
        mapping: Which of its columns mean what, where the layouts don't know them.
        batch_rows: Most rows of a batch, usable or not. A batch of long texts has fewer, about 32 MiB.

    Returns:
        Batches of valid rows, each with the problems of the rows among them that aren't.

    Raises:
        BadInputError: The file is missing, empty, of an unknown format, damaged, cut off or not text in UTF-8, UTF-16
            or CP949, or its columns are of no known layout.
    """
    mapping = mapping or DEFAULT_MAPPING
    check_readable(path)
    with _reading(path):
        if mapping != DEFAULT_MAPPING or _format(path) in {".parquet", *_TABLES}:
            yield from to_batches(_rows(path, mapping), mapping, batch_rows)
            return
        encoding = detect_encoding(path)
        if is_array(utf8_blocks(path, encoding)):
            yield from to_batches(array_rows(path, utf8_blocks(path, encoding)), mapping, batch_rows)
        else:
            yield from line_batches(utf8_blocks(path, encoding), batch_rows)


def read(path: Path, mapping: FieldMapping | None = None) -> Iterator[tuple[int, Example | RowProblem]]:
    """Stream a file's rows one by one as ``(line, example)`` or ``(line, problem)``; see :func:`read_batches`."""
    mapping = mapping or DEFAULT_MAPPING
    for line, value in _rows(path, mapping):
        yield line, _parse(line, value, mapping)


def _parse(line: int, value: object, mapping: FieldMapping) -> Example | RowProblem:
    if isinstance(value, Unreadable):
        return RowProblem(line=line, field="", reason=value.reason)
    try:
        return to_example(value, mapping)
    except RowError as error:
        return RowProblem(line=line, field=error.field, reason=error.reason)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_readable(path: Path) -> None:
    """Refuse a path that is no file, is empty or has an unknown ending.

    Raises:
        BadInputError: With the path and what was expected.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing there"
        raise BadInputError("The source can't be read", [Problem(str(path), found, "a file")])
    if _format(path) not in _SUFFIXES:
        expected = f"one of {', '.join(_SUFFIXES)}, with or without {' or '.join(COMPRESSIONS)}"
        raise BadInputError("The source's format is unknown", [Problem(str(path), f"ending {path.suffix!r}", expected)])
    if path.stat().st_size == 0:
        raise BadInputError("The source is empty", [Problem(str(path), "0 bytes", "at least one row")])


def _format(path: Path) -> str:
    name = Path(path.stem) if path.suffix.lower() in COMPRESSIONS else path
    return name.suffix.lower()


def _rows(path: Path, mapping: FieldMapping) -> Iterator[tuple[int, object]]:
    """Each row's line and value, or why it can't be parsed."""
    check_readable(path)
    kind = _format(path)
    with _reading(path):
        if kind == ".parquet":
            yield from parquet_rows(path, mapping)
        elif kind in _TABLES:
            with io.TextIOWrapper(open_bytes(path), detect_encoding(path), STRAY, newline="") as text:
                yield from text_rows(path, text, kind, mapping)
        else:
            yield from _json_rows(path, detect_encoding(path))


@contextmanager
def _reading(path: Path) -> Generator[None]:
    """Say which file it was that could not be read."""
    try:
        yield
    except OSError as error:
        raise BadInputError("The source can't be read", [Problem(str(path), str(error), "a readable file")]) from error


def _json_rows(path: Path, encoding: str) -> Iterator[tuple[int, object]]:
    if is_array(utf8_blocks(path, encoding)):
        return array_rows(path, utf8_blocks(path, encoding))
    return line_rows(utf8_blocks(path, encoding))
