"""Lines of JSON as Arrow batches: chats of the plain shape are parsed and checked by whole columns.

The plain shape is ``{"messages": [{"role", "content"}, ...], "metadata": {"category", "source", "split"}}``, with or
without the metadata, one object a line. Rows of it never become Python objects. Whatever is not surely plain and right,
a single row or a whole block, takes the way of all others (:mod:`tollgate.dataset.batches`), which has the last word.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tollgate.dataset.batches import Batch, Labels, Part, Unreadable, gather, to_parts
from tollgate.dataset.json_rows import rows_of, whole_lines
from tollgate.dataset.layouts import DEFAULT_MAPPING, RowError
from tollgate.dataset.schema import ROLES, SPLITS

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Integers = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]

_IN_VAIN = 3  # by how many more blocks may turn out not to be plain than to be, until no more are tried
_LABELS = ("category", "source", "split")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # may stand alone, which parsers treat differently


def _first_bytes_of_spaces() -> Flags:
    """First bytes of UTF-8 with which a character may begin that Python calls a space, but for U+3000's."""
    table = np.zeros(256, np.bool_)
    for code in range(0x3000):
        if chr(code).isspace():
            table[chr(code).encode()[0]] = True
    return table


_SPACES = _first_bytes_of_spaces()
_WIDE_SPACE = 0xE3, 0x80  # U+3000; Hangul jamo begin with the first of them too


def line_batches(blocks: Iterable[bytes], batch_rows: int) -> Iterator[Batch]:
    """Rows of a JSONL file in batches.

    Args:
        blocks: The file's content in UTF-8.
        batch_rows: Most rows of a batch, usable or not. A batch of long texts has fewer, about 32 MiB.
    """
    return gather(_parts(blocks, batch_rows), batch_rows)


def _parts(blocks: Iterable[bytes], most: int) -> Iterator[Part]:
    labels, in_vain = Labels(), 0
    for first, text in whole_lines(blocks):
        if isinstance(text, Unreadable):
            yield from to_parts([(first, text)], DEFAULT_MAPPING, most)
            continue
        for start, lines in _Lines.of(text).pieces(most):
            plain = _plain_rows(lines, first + start, labels) if in_vain < _IN_VAIN else None
            in_vain += 1 if plain is None else -1
            if plain is None:
                yield from to_parts(rows_of(lines.each(), first + start), DEFAULT_MAPPING, most)
            else:
                yield _with_others(plain, lines, first + start)


class _Lines(NamedTuple):
    """Lines of a text, and where they begin and end, without the line feed."""

    text: bytes
    begins: Integers
    ends: Integers

    @classmethod
    def of(cls, text: bytes) -> _Lines:
        """Find the lines of a text."""
        text = text if text.endswith(b"\n") else text + b"\n"
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
        return cls(text, np.concatenate([[0], ends[:-1] + 1]), ends)

    def pieces(self, most: int) -> Iterator[tuple[int, _Lines]]:
        """The lines, so many at a time, each with how many came before."""
        for start in range(0, len(self.begins), most):
            yield start, _Lines(self.text, self.begins[start : start + most], self.ends[start : start + most])

    def each(self) -> Iterator[bytes]:
        """The text of each line."""
        return map(self.line, range(len(self.begins)))

    def line(self, number: int) -> bytes:
        """The text of a line, counted from 0."""
        return self.text[self.begins[number] : self.ends[number]]

    def look_whole(self) -> Flags:
        """Which lines begin and end as an object does: together they can't hold one that spans several lines."""
        data = np.frombuffer(self.text, np.uint8)
        return (data[self.begins] == ord("{")) & (data[self.ends - 1] == ord("}")) & (self.ends > self.begins)

    def without(self, some: Flags) -> bytes:
        """The text without some lines."""
        left, start = [], int(self.begins[0])
        for line in np.flatnonzero(some).tolist():
            left.append(self.text[start : self.begins[line]])
            start = int(self.ends[line]) + 1
        return b"".join([*left, self.text[start : self.ends[-1] + 1]])


def _plain_rows(lines: _Lines, first: int, labels: Labels) -> pa.RecordBatch | None:
    """The lines that are surely plain chats and right; nothing where a line, unknown which, is no plain chat."""
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = lines.look_whole()
    table = _parsed(lines.without(~whole))
    if table is None or table.num_rows != int(whole.sum()):
        return None
    numbers = np.flatnonzero(whole) + first
    messages, metadata = (table[name].combine_chunks() for name in ("messages", "metadata"))
    right = _right_rows(messages)
    if right is None:
        return None
    try:
        columns = [_cleaned(metadata, name, labels) for name in _LABELS]
    except RowError:
        return None
    declared = pc.is_in(columns[-1], value_set=pa.array([None, *SPLITS], pa.string()))
    return _batch(numbers, messages, columns).filter(pc.and_(pa.array(right), declared))


def _batch(numbers: Integers, messages: pa.ListArray, labels: list[pa.StringArray]) -> pa.RecordBatch:
    import pyarrow as pa

    from tollgate.dataset.schema import ROW_SCHEMA

    return pa.RecordBatch.from_arrays([pa.array(numbers, pa.int64()), messages, *labels], schema=ROW_SCHEMA)


def _parsed(text: bytes) -> pa.Table | None:
    """Lines of plain chats as a table; nothing if one of them is something else."""
    import pyarrow as pa
    from pyarrow import json

    from tollgate.dataset.schema import ROW_SCHEMA

    if not text or _SURROGATE.search(text):
        return None
    kind = pa.struct([(name, pa.string()) for name in _LABELS])
    schema = pa.schema([ROW_SCHEMA.field("messages"), ("metadata", kind)])
    try:
        return json.read_json(
            io.BytesIO(text),
            json.ReadOptions(use_threads=False, block_size=len(text) + 1),
            json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
        )
    except pa.ArrowInvalid:
        return None


def _right_rows(messages: pa.ListArray) -> Flags | None:
    """Which dialogues have nothing wrong with them; nothing if it must be found out text by text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from tollgate.dataset.turns import take_apart, take_turns

    flat = messages.flatten()
    role, content = (pc.struct_field(flat, name) for name in ("role", "content"))
    known = pc.is_in(role, value_set=pa.array(ROLES))
    if messages.null_count or flat.null_count or content.null_count or not pc.all(known).as_py():
        return None
    offsets, data = _buffers(content)
    if not len(data) or not data.all() or not _is_normal(content, data):
        return None
    turns = take_apart(messages)
    right = take_turns(turns)
    right[turns.row[_may_be_empty(offsets, data)]] = False
    return right


def _may_be_empty(offsets: Integers, data: npt.NDArray[np.uint8]) -> Flags:
    """Which texts have no characters, or begin with what may be a space: perhaps nothing else follows."""
    starts = offsets[:-1]
    first = data[np.minimum(starts, len(data) - 1)]
    found = (starts == offsets[1:]) | _SPACES[first]
    wide = np.flatnonzero(~found & (first == _WIDE_SPACE[0]))
    found[wide] = data[starts[wide] + 1] == _WIDE_SPACE[1]
    return found


def _buffers(texts: pa.StringArray) -> tuple[Integers, npt.NDArray[np.uint8]]:
    from tollgate.gates.text_buffers import buffers, text_column

    offsets, data = buffers(text_column(texts))
    return offsets - offsets[0], data[offsets[0] : offsets[-1]]


def _is_normal(texts: pa.StringArray, data: npt.NDArray[np.uint8]) -> bool:
    """Whether texts are UTF-8 in NFC; ``data`` is all of them, and what is in NFC as a whole is so in its parts."""
    import pyarrow as pa

    from tollgate.gates.character_kernels import are_in_nfc, characters_in_nfc

    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return bool(are_in_nfc(data, characters_in_nfc())) or unicodedata.is_normalized("NFC", data.tobytes().decode())


def _cleaned(metadata: pa.StructArray, name: str, labels: Labels) -> pa.StringArray:
    """A column of labels as they are kept.

    Raises:
        RowError: One of them can't be kept.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = pc.struct_field(metadata, name).dictionary_encode()
    try:
        values = [labels[value] for value in encoded.dictionary.to_pylist()]
    except UnicodeDecodeError:
        raise RowError(f"metadata.{name}", "not text in UTF-8") from None
    return pa.array(values, pa.string()).take(encoded.indices)


def _with_others(plain: pa.RecordBatch, lines: _Lines, first: int) -> Part:
    """All rows of some lines: those known as plain, and the others between them, looked at one by one."""
    import pyarrow as pa

    others = np.ones(len(lines.begins), np.bool_)
    others[plain.column("line").to_numpy() - first] = False
    rows = [row for line in np.flatnonzero(others).tolist() for row in rows_of([lines.line(line)], first + line)]
    parts = list(to_parts(rows, DEFAULT_MAPPING, max(1, len(rows))))
    problems = [problem for part in parts for problem in part.problems]
    found = pa.concat_batches([plain, *(part.rows for part in parts)])
    if found.num_rows > plain.num_rows:
        found = found.take(pa.array(np.argsort(found.column("line").to_numpy())))
    return Part(found, problems, plain.num_rows + len(rows))
