"""Readers: JSON arrays, JSONL, Parquet, CSV and TSV (each but Parquet also ``.gz``) as a stream of examples.

A file that can't be read at all is refused before any work starts; a row that can't be used goes to quarantine with
its line, field and reason, and the rest goes on. Nothing is dropped silently: every row comes out as one or the
other.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from tollgate.dataset.schema import Example, RowError, RowProblem, to_example
from tollgate.errors import BadInputError, Problem

_CSV_FIELD_LIMIT = 16 << 20
_ESCAPE_START, _ESCAPE_END = 0xDC80, 0xDCFF  # surrogateescape: bytes that the encoding can't read
_HANGUL = re.compile("[가-힣]")
_NOT_ASCII = re.compile("[^\x00-\x7f]")
_NEXT_OBJECT = re.compile(r"\}\s*,\s*(?=\{)")
_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".csv", ".tsv")


@dataclass(frozen=True)
class RawRow:
    """A row as it stands in the file, or the reason why it can't be parsed."""

    line: int
    value: Any = None
    error: str | None = None


def read(path: Path) -> Iterator[tuple[int, Example | RowProblem]]:
    """Stream a file's rows in order, each as ``(line, example)`` or ``(line, problem)``.

    Raises:
        BadInputError: The file is missing, empty, of an unknown format, cut off or not text in UTF-8, UTF-16 or CP949.
    """
    for row in _rows(path):
        yield row.line, _parse(row)


def _parse(row: RawRow) -> Example | RowProblem:
    if row.error is not None:
        return RowProblem(line=row.line, field="", reason=row.error)
    try:
        return to_example(row.value)
    except RowError as error:
        return RowProblem(line=row.line, field=error.field, reason=error.reason)


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
        expected = f"one of {', '.join(_SUFFIXES)}, with or without .gz"
        raise BadInputError("The source's format is unknown", [Problem(str(path), f"ending {path.suffix!r}", expected)])
    if path.stat().st_size == 0:
        raise BadInputError("The source is empty", [Problem(str(path), "0 bytes", "at least one row")])


def _format(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def _rows(path: Path) -> Iterator[RawRow]:
    check_readable(path)
    try:
        yield from _rows_of_format(path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInputError(
            "The compressed file is damaged", [Problem(str(path), str(error), "a whole gzip file")]
        ) from error
    except OSError as error:
        raise BadInputError("The source can't be read", [Problem(str(path), str(error), "a readable file")]) from error


def _rows_of_format(path: Path) -> Iterator[RawRow]:
    kind = _format(path)
    if kind == ".parquet":
        yield from _parquet_rows(path)
        return
    encoding = detect_encoding(path)
    with _open_bytes(path) as binary:
        # Lines end at \n alone: JSON strings may hold U+2028, U+0085 and other line ends of Unicode.
        newline = "" if kind in {".csv", ".tsv"} else "\n"
        text = io.TextIOWrapper(binary, encoding=encoding, errors="surrogateescape", newline=newline)
        if kind in {".csv", ".tsv"}:
            yield from _table_rows(path, text, "\t" if kind == ".tsv" else ",")
        elif _is_array(path, encoding):
            yield from _array_rows(path, text.read())
        else:
            yield from _line_rows(text)


def _open_bytes(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def _is_array(path: Path, encoding: str) -> bool:
    """Whether a JSON file is one array, and not lines of which the first happens to be an array of its own."""
    with _open_bytes(path) as file:
        first = next((line for line in file if line.strip()), b"").decode(encoding, errors="ignore").strip()
        more = any(line.strip() for line in file)
    if not first.removeprefix("\ufeff").startswith("["):
        return False
    return not (more and _holds_no_row(first.removeprefix("\ufeff")))


def _holds_no_row(line: str) -> bool:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, list) and not any(isinstance(element, dict) for element in value)


def detect_encoding(path: Path) -> str:
    """Find a text file's encoding: a byte order mark decides, else UTF-8 if most lines are, else CP949 (EUC-KR).

    Some damaged lines don't make a UTF-8 file something else: they are left to be quarantined.

    Raises:
        BadInputError: The file is binary, or neither encoding reads most of it.
    """
    with _open_bytes(path) as file:
        start = file.read(4)
    if start.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return _encoding_of_lines(path)


def _encoding_of_lines(path: Path) -> str:
    foreign, broken, cp949 = 0, 0, 0
    first_broken = 0
    with _open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            if b"\x00" in line:
                raise BadInputError(
                    "The source is no text file", [Problem(f"{path}, line {number}", "a zero byte", "text in UTF-8")]
                )
            if line.isascii():
                continue
            foreign += 1
            if not _is_text(line, "utf-8"):
                broken += 1
                first_broken = first_broken or number
                cp949 += _is_korean(line)
    if broken * 2 <= foreign:
        return "utf-8"
    if cp949 * 10 >= broken * 9:
        return "cp949"
    problem = Problem(f"{path}, line {first_broken}", "bytes of another encoding", "UTF-8 (best) or CP949")
    raise BadInputError("The source's encoding is unknown", [problem])


def _is_text(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _is_korean(line: bytes) -> bool:
    """Whether CP949 reads the line, and as Hangul: it reads much of what is no Korean as rare characters."""
    try:
        text = line.decode("cp949")
    except UnicodeDecodeError:
        return False
    return len(_HANGUL.findall(text)) * 2 >= len(_NOT_ASCII.findall(text))


def _line_rows(text: Iterable[str]) -> Iterator[RawRow]:
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        yield _json_row(number, line)


def _json_row(number: int, line: str) -> RawRow:
    try:
        return RawRow(number, orjson.loads(line))
    except orjson.JSONDecodeError as error:
        if _has_stray_bytes(line):
            return RawRow(number, error="holds bytes that are no valid text in the file's encoding")
        return RawRow(number, error=f"not JSON: {error.msg} at character {error.colno}")


def _has_stray_bytes(text: str) -> bool:
    return any(_ESCAPE_START <= ord(character) <= _ESCAPE_END for character in text)


def _array_rows(path: Path, text: str) -> Iterator[RawRow]:
    """Elements of a JSON array one by one: a broken one costs only itself, and each knows its line."""
    decoder = json.JSONDecoder()
    position = _skip_space(text, text.index("[") + 1)
    line, counted = 1, 0
    while text[position : position + 1] != "]":
        line += text.count("\n", counted, position)
        counted = position
        if position >= len(text):
            raise _cut_off(path, line)
        try:
            value, position = _element(decoder, text, position)
            row = RawRow(line, value)
        except json.JSONDecodeError as error:
            row = RawRow(line, error=f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}")
            position = _next_element(path, text, error.pos, line)
        except RecursionError:
            raise BadInputError(
                "The source is no array of rows",
                [Problem(f"{path}, line {line}", "brackets nested too deep", "flat rows")],
            ) from None
        yield row
        if text[position : position + 1] == ",":
            position = _skip_space(text, position + 1)
    if rest := text[position + 1 :].strip():
        problem = Problem(str(path), f"{len(rest)} characters after the closing bracket", "one JSON array")
        raise BadInputError("The source is no JSON array", [problem])


def _element(decoder: json.JSONDecoder, text: str, position: int) -> tuple[Any, int]:
    """The array's element at a position, and the position of the comma or bracket after it."""
    value, end = decoder.raw_decode(text, position)
    end = _skip_space(text, end)
    if text[end : end + 1] not in {",", "]"}:
        raise json.JSONDecodeError("expected a comma or a bracket", text, end)
    return value, end


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _next_element(path: Path, text: str, position: int, line: int) -> int:
    match = _NEXT_OBJECT.search(text, position)
    if match:
        return match.end()
    closing = text.rstrip()
    if not closing.endswith("]"):
        raise _cut_off(path, line)
    return len(closing) - 1


def _cut_off(path: Path, line: int) -> BadInputError:
    problem = Problem(f"{path}, row beginning at line {line}", "the end of the file", "a JSON array closed by ]")
    return BadInputError("The source is cut off", [problem])


def _table_rows(path: Path, text: Iterable[str], delimiter: str) -> Iterator[RawRow]:
    csv.field_size_limit(_CSV_FIELD_LIMIT)
    reader = csv.reader(text, delimiter=delimiter, strict=False)
    header = next(reader, None)
    if header is None:
        return
    if len(set(header)) != len(header):
        repeated = sorted({name for name in header if header.count(name) > 1})
        raise BadInputError(
            "A column stands twice", [Problem(f"{path}, line 1", ", ".join(repeated), "distinct names")]
        )
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield RawRow(line, error=f"not a table row: {error}")
            continue
        if row is None:
            return
        if not row:
            continue
        if len(row) != len(header):
            yield RawRow(line, error=f"found {len(row)} fields, expected {len(header)} as in the header")
        else:
            yield RawRow(line, dict(zip(header, row, strict=True)))


def _parquet_rows(path: Path) -> Iterator[RawRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=4096):
                for value in batch.to_pylist():
                    number += 1
                    yield RawRow(number, value)
    except (pa.ArrowException, OSError) as error:
        found = str(error).splitlines()[0]
        raise BadInputError(
            "The Parquet file can't be read", [Problem(f"{path}, row {number + 1}", found, "Parquet")]
        ) from error
