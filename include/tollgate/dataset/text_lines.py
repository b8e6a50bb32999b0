"""Texts of any file for the gates that are run by hand: a text a line, or one field of JSON lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tollgate.dataset import json_rows
from tollgate.dataset.batches import Unreadable
from tollgate.dataset.encodings import COMPRESSIONS, detect_encoding, utf8_blocks
from tollgate.errors import BadInputError, Problem

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

_PROBLEMS_SHOWN = 10
_JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, eq=False)
class TextLines:
    """The texts of a file, in order: each as it stands there, and the number of its line."""

    line: npt.NDArray[np.int64]
    text: pa.LargeStringArray


def read(path: Path, fields: Sequence[str] = ()) -> list[TextLines]:
    """Read the texts of a file, in UTF-8 (with or without byte order mark), UTF-16 or CP949, also .gz and .zst.

    Args:
        path: The file.
        fields: Without any, every line is a text, also an empty one. Else the file holds a JSON object a line, and each
            of these is read; a dot leads into objects and lists, as in ``messages.0.content``.

    Returns:
        One column of texts, or one a field.

    Raises:
        BadInputError: The file can't be read or holds no text, or a line has no such text; before anything is done.
    """
    _check(path)
    try:
        if fields:
            return _json_fields(path, fields)
        _check_no_json(path)
        return [_plain_lines(path)]
    except OSError as error:
        problem = Problem(str(path), str(error.strerror or error), "a readable file")
        raise BadInputError("The file can't be read", [problem]) from error


def _check(path: Path) -> None:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing there"
        raise BadInputError("The file can't be read", [Problem(str(path), found, "a text file")])
    if path.stat().st_size == 0:
        raise BadInputError("The file is empty", [Problem(str(path), "0 bytes", "at least one text")])


def _check_no_json(path: Path) -> None:
    """Refuse to take the objects of JSON lines for texts, for nobody means that."""
    name = Path(path.stem) if path.suffix.lower() in COMPRESSIONS else path
    if name.suffix.lower() not in _JSON_LINES:
        return
    first = next((value for _, value in json_rows.line_rows(utf8_blocks(path, detect_encoding(path)))), None)
    if isinstance(first, Mapping):
        names = ", ".join(map(str, first))[:200]
        raise BadInputError("Which field holds the text?", [Problem("--field", "nothing", f"one of: {names}")])


def _plain_lines(path: Path) -> TextLines:
    import pyarrow as pa
    import pyarrow.compute as pc

    data = b"".join(utf8_blocks(path, detect_encoding(path)))
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
    offsets = np.concatenate([[0], ends, [len(data)] if not data.endswith(b"\n") else []]).astype(np.int64)
    lines = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
    try:
        lines.validate(full=True)
    except pa.ArrowInvalid as error:
        raise _not_text(path, data) from error
    return TextLines(np.arange(1, len(lines) + 1, dtype=np.int64), pc.utf8_rtrim(lines, "\r\n"))


def _not_text(path: Path, data: bytes) -> BadInputError:
    problems = []
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            line.decode()
        except UnicodeDecodeError:
            problems.append(Problem(f"{path}, line {number}", "bytes of another encoding", "text in one encoding"))
            if len(problems) == _PROBLEMS_SHOWN:
                break
    return BadInputError("The file is no text throughout", problems)


def _json_fields(path: Path, fields: Sequence[str]) -> list[TextLines]:
    import pyarrow as pa

    numbers: list[int] = []
    texts: list[list[str]] = [[] for _ in fields]
    problems: list[Problem] = []
    for number, value in json_rows.line_rows(utf8_blocks(path, detect_encoding(path))):
        numbers.append(number)
        for field, column in zip(fields, texts, strict=True):
            found = _inside(value, field)
            if isinstance(found, str) and _is_text(found):
                column.append(found)
            else:
                problems.append(_problem(path, number, field, value, found))
        if len(problems) >= _PROBLEMS_SHOWN:
            break
    if problems:
        raise BadInputError("A line has no such text", problems)
    if not numbers:
        raise BadInputError("The file holds no rows", [Problem(str(path), "0 rows", "a JSON object a line")])
    lines = np.array(numbers, np.int64)
    return [TextLines(lines, pa.array(column, pa.large_string())) for column in texts]


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair, escaped
        return False
    return True


def _inside(value: object, field: str) -> Any:
    """What stands at a field; nothing where there is none."""
    if isinstance(value, Mapping) and field in value:
        return value[field]
    for name in field.split("."):
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def _problem(path: Path, number: int, field: str, row: object, found: object) -> Problem:
    where = f"{path}, line {number}"
    if isinstance(row, Unreadable):
        return Problem(where, row.reason, "a JSON object")
    if not isinstance(row, Mapping):
        return Problem(where, type(row).__name__, "a JSON object")
    if found is None:
        return Problem(f"{where}, {field}", "nothing", f"text; the line has {', '.join(map(str, row))[:200]}")
    return Problem(f"{where}, {field}", "broken text" if isinstance(found, str) else type(found).__name__, "text")
