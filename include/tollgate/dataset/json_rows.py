"""Rows of JSON files: lines, and the elements of one array, which is never held in memory as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import orjson

from tollgate.dataset.batches import Unreadable
from tollgate.errors import BadInputError, Problem

LONGEST_ROW = 16 << 20
"""Bytes of UTF-8 that a row may have. In a file that misses a quote, all that follows may look like one row."""

_HEAD = 1 << 20
_WINDOW = 64 << 10  # bytes of an array to look for ends of elements in at first, and again after a broken one
_WIDEST_WINDOW = 4 << 20
_NEAR_THE_END = 16  # characters: an error there may only mean that a word of JSON isn't read to its end yet
_NEXT_OBJECT = rb"\}\s*,\s*(?=\{%s)"
_FIRST_KEY = re.compile(rb'\{\s*("[^"\\]*")\s*:')
_MARKS = bytes(byte in b'"{}[],' for byte in range(256))
_STEPS = bytes({ord("{"): 1, ord("["): 1, ord("}"): 255, ord("]"): 255}.get(byte, 0) for byte in range(256))


def line_rows(blocks: Iterable[bytes]) -> Iterator[tuple[int, object]]:
    """Each line's number and value; blank lines are none.

    Lines end at a line feed alone: JSON strings may hold U+2028, U+0085 and other line ends of Unicode.
    """
    for number, text in whole_lines(blocks):
        if isinstance(text, Unreadable):
            yield number, text
        else:
            yield from rows_of(text.removesuffix(b"\n").split(b"\n"), number)


def rows_of(lines: Iterable[bytes], first: int) -> Iterator[tuple[int, object]]:
    """Each line's number, from the first one's on, and value; blank lines are none."""
    for number, line in enumerate(lines, first):
        try:
            yield number, orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if line.strip():
                yield number, _unreadable(line, error)


def whole_lines(blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes | Unreadable]]:
    """Blocks cut at the ends of lines: the first line's number, and its text with what follows or what is wrong."""
    number, rest, skipping = 1, b"", False
    for block in blocks:
        end = block.rfind(b"\n") + 1
        text, rest = (b"".join((rest, memoryview(block)[:end])), block[end:]) if end else (b"", rest + block)
        if text and skipping:
            text = text[text.index(b"\n") + 1 :]
            number += 1
            skipping = False
        if text:
            yield number, text
            number += text.count(b"\n")
        if len(rest) > LONGEST_ROW and not skipping:
            yield number, Unreadable(f"longer than {LONGEST_ROW >> 20} MiB, expected a row")
            skipping = True
        if skipping:
            rest = b""
    if rest.strip():
        yield number, rest


def _value(text: bytes) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return _unreadable(text, error)


def _unreadable(text: bytes, error: orjson.JSONDecodeError) -> Unreadable:
    if b"\x00" in text:
        return Unreadable("holds a zero byte, expected JSON")
    try:
        text.decode()
    except UnicodeDecodeError:
        return Unreadable("holds bytes that are no valid text in the file's encoding")
    place = f"line {error.lineno}, character {error.colno} of it" if error.lineno > 1 else f"character {error.colno}"
    return Unreadable(f"not JSON: {error.msg.partition(': line ')[0]} at {place}")


def is_array(blocks: Iterable[bytes]) -> bool:
    """Whether a JSON file is one array, and not lines of which the first happens to be an array of its own."""
    head = b""
    for block in blocks:
        head = (head + block).lstrip()
        if len(head) >= _HEAD:
            break
    first, more, rest = head.partition(b"\n")
    if not head.startswith(b"["):
        return False
    if not more or not rest.strip():
        return True
    value = _value(first)
    return not isinstance(value, list) or any(isinstance(element, dict) for element in value)


def array_rows(path: Path, blocks: Iterable[bytes]) -> Iterator[tuple[int, object]]:
    """Each element's line and value, one by one: a broken one costs only itself.

    Where the array stands on one line, elements are numbered instead.

    Args:
        path: The file, for errors.
        blocks: Its content in UTF-8.

    Raises:
        BadInputError: The array isn't closed, or more follows it.
    """
    return _Array(path, blocks).rows()


class _Array:
    """The part of an array that has been read and not yet been handed on."""

    def __init__(self, path: Path, blocks: Iterable[bytes]) -> None:
        self._path = path
        self._blocks = iter(blocks)
        self._text = b""
        self._at = 0
        self._window = _WINDOW
        self._line = 1
        self._number = 0
        self._by_line = True
        self._closed = False
        self._tried = False
        self._separator: re.Pattern[bytes] | None = None

    def rows(self) -> Iterator[tuple[int, object]]:
        """The elements, then a look at what follows the array."""
        self._open()
        while not self._closed:
            self._read(self._window)
            window = self._text[self._at : self._at + self._window]
            ends, self._closed = element_ends(window)
            yield from self._elements(window, ends) if ends else self._unfinished(window)
        self._check_rest()

    def _open(self) -> None:
        while not self._text.lstrip():
            self._text += next(self._blocks)
        self._skip(self._text.index(b"[") + 1)
        self._read(_HEAD)
        head = self._text[self._at : self._at + _HEAD].strip()
        self._by_line = b"\n" in head
        if key := _FIRST_KEY.match(head):
            self._separator = re.compile(_NEXT_OBJECT % (rb"\s*" + re.escape(key[1])))

    def _read(self, size: int) -> None:
        while len(self._text) - self._at < size:
            block = next(self._blocks, None)
            if block is None:
                return
            self._text, self._at = self._text[self._at :] + block, 0

    def _skip(self, size: int) -> None:
        self._line += self._text.count(b"\n", self._at, self._at + size)
        self._at += size

    def _elements(self, window: bytes, ends: list[int]) -> Iterator[tuple[int, object]]:
        """The elements that end within the window; up to a broken one that may have swallowed others."""
        begin, line, counted = 0, self._line, 0
        for end in ends:
            element = window[begin:end].lstrip()
            line += window.count(b"\n", counted, end - len(element))
            counted = end - len(element)
            if element or not (self._closed and end == ends[-1]):  # else the array is empty, or has a comma too many
                value = _value(element.rstrip())
                yield self._place(line), value
                if isinstance(value, Unreadable):
                    if self._separator and (match := self._separator.search(element)):
                        self._resume(counted + match.end())
                        return
                elif not self._tried:
                    self._try_separator(element)
            begin = end + 1
        self._skip(begin)
        self._window = min(self._window * 2, _WIDEST_WINDOW)

    def _unfinished(self, window: bytes) -> Iterator[tuple[int, object]]:
        """A window without the end of an element: a long one, a broken one, or the end of the file."""
        all_read = len(window) < self._window
        if all_read or is_broken(window):
            line = self._line + window.count(b"\n", 0, len(window) - len(window.lstrip()))
            value = _value(window.strip())
            reason = value if isinstance(value, Unreadable) else Unreadable("no comma after it, expected the next row")
            separator = self._separator or re.compile(_NEXT_OBJECT % b"")
            if match := separator.search(window):
                yield self._place(line), reason
                self._resume(match.end())
                return
            if all_read:
                if not window.rstrip().endswith(b"]"):
                    raise self._cut_off(line)
                yield self._place(line), reason
                self._skip(len(window))
                self._closed = True
                return
        if self._window >= LONGEST_ROW:
            raise self._too_long()
        self._window *= 2

    def _resume(self, size: int) -> None:
        """Go on behind a broken element, in small steps: there may be more of them."""
        self._skip(size)
        self._window = _WINDOW
        self._closed = False

    def _try_separator(self, element: bytes) -> None:
        """Give up telling the next row by its first key where that also stands within a good one."""
        self._tried = True
        if self._separator and self._separator.search(element):
            self._separator = None

    def _place(self, line: int) -> int:
        self._number += 1
        return line if self._by_line else self._number

    def _check_rest(self) -> None:
        if any(block.strip() for block in chain([self._text[self._at :]], self._blocks)):
            where = f"{self._path}, line {self._line}"
            problem = Problem(where, "more after the closing bracket", "one JSON array")
            raise BadInputError("The source is no JSON array", [problem])

    def _cut_off(self, line: int) -> BadInputError:
        where = f"{self._path}, row beginning at line {line}"
        return BadInputError(
            "The source is cut off", [Problem(where, "the end of the file", "a JSON array closed by ]")]
        )

    def _too_long(self) -> BadInputError:
        where = f"{self._path}, row beginning at line {self._line}"
        expected = f"at most {LONGEST_ROW >> 20} MiB, with its quotes and brackets closed"
        return BadInputError("A row doesn't end", [Problem(where, f"{self._window >> 20} MiB", expected)])


def element_ends(text: bytes) -> tuple[list[int], bool]:
    """Where elements of a JSON array end.

    Args:
        text: A part of the array that begins with an element, or with the space before it, in UTF-8.

    Returns:
        Positions of the commas between elements, and of the bracket that closes the array if it is there; and whether
        it is.
    """
    import numpy as np

    plain = text.replace(rb"\\", b"__").replace(rb"\"", b"__")  # what is left of quotes begins and ends strings
    codes = np.frombuffer(plain, np.uint8)
    marks = np.flatnonzero(np.frombuffer(plain.translate(_MARKS), np.uint8))
    kinds = codes[marks]
    quotes = kinds == ord('"')
    outside = ~quotes & (np.cumsum(quotes) % 2 == 0)
    marks, kinds = marks[outside], kinds[outside]
    depths = np.cumsum(np.frombuffer(_STEPS, np.int8)[kinds], dtype=np.int64)
    beyond = np.flatnonzero(depths < 0)[:1]
    closed = bool(beyond.size) and int(kinds[beyond[0]]) == ord("]")
    last = int(beyond[0]) if beyond.size else len(marks)
    ends = marks[:last][(depths[:last] == 0) & (kinds[:last] == ord(","))].tolist()
    return (ends + marks[beyond].tolist() if closed else ends), closed


def is_broken(text: bytes) -> bool:
    """Whether a part of an array, in which no element ends, begins with an element that never will."""
    characters = text.decode(errors="replace").lstrip()
    try:
        _, end = json.JSONDecoder().raw_decode(characters)
    except json.JSONDecodeError as error:
        cut = error.msg.startswith("Unterminated string") or error.pos >= len(characters) - _NEAR_THE_END
        return not cut
    except RecursionError:
        return True
    return bool(characters[end:].strip())
