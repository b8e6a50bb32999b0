"""Rows as Arrow batches: most are of the common shape and are checked by whole columns, the others one by one.

The common shape is ``{"messages": [{"role", "content"}, ...], "metadata": {...}}`` and nothing else that counts. What
it allows and refuses is what :func:`tollgate.dataset.layouts.to_row` does, only faster.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from tollgate.dataset.layouts import (
    DEFAULT_MAPPING,
    FieldMapping,
    RowError,
    is_plain_chat,
    label_of,
    text_of,
    to_row,
    turn_problem,
)
from tollgate.dataset.schema import SPLITS, RowProblem

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK_ROWS = 2048  # rows whose texts are Python strings at a time
_CHUNK_CHARACTERS = 2 << 20
_BATCH_BYTES = 32 << 20
_LABELS_KEPT = 65_536
_PARTS = (None, *SPLITS)

# What a Row holds, and how many characters its texts have; a plain tuple, for there are millions of them.
_Parts = tuple[tuple[str, ...], list[str], str | None, str | None, str | None, int]


class Unreadable(NamedTuple):
    """Stands for a row that can't be parsed."""

    reason: str


@dataclass(frozen=True)
class Batch:
    """Some of a source's rows in their order (``ROW_SCHEMA``), and the rows among them that can't be used."""

    rows: pa.RecordBatch
    problems: list[RowProblem]


class Part(NamedTuple):
    """Some rows on their way into a batch, and how many were taken from the source for them."""

    rows: pa.RecordBatch
    problems: list[RowProblem]
    taken: int


def to_batches(rows: Iterable[tuple[int, object]], mapping: FieldMapping, batch_rows: int) -> Iterator[Batch]:
    """Gather raw rows in batches.

    Args:
        rows: Each row's line and value, or :class:`Unreadable`.
        mapping: What was said about the rows' fields.
        batch_rows: Most rows of a batch, usable or not. A batch of long texts has fewer, about 32 MiB.
    """
    return gather(to_parts(rows, mapping, batch_rows), batch_rows)


def to_parts(rows: Iterable[tuple[int, object]], mapping: FieldMapping, most: int) -> Iterator[Part]:
    """Check raw rows, a few at a time; ``most`` is the most rows of a part."""
    rows, labels = iter(rows), Labels()
    while (chunk := _chunk(rows, mapping, labels, min(most, _CHUNK_ROWS))).taken:
        batch = chunk.to_arrow()
        yield Part(batch, sorted(chunk.problems, key=lambda problem: problem.line), chunk.taken)


def gather(parts: Iterable[Part], batch_rows: int) -> Iterator[Batch]:
    """Join parts, of at most ``batch_rows`` rows each, to batches of at most as many; of long texts about 32 MiB."""
    joined, size = list[Part](), 0
    for part in parts:
        if joined and sum(one.taken for one in joined) + part.taken > batch_rows:
            yield _joined(joined)
            joined, size = [], 0
        joined.append(part)
        size += part.rows.nbytes
        if size >= _BATCH_BYTES:
            yield _joined(joined)
            joined, size = [], 0
    if joined:
        yield _joined(joined)


def _joined(parts: list[Part]) -> Batch:
    import pyarrow as pa

    problems = [problem for part in parts for problem in part.problems]
    return Batch(pa.concat_batches([part.rows for part in parts]), problems)


class Labels(dict[Any, str | None]):
    """Cleaned values of the metadata by what stands in the file; any but text and nothing are unknown here."""

    def __missing__(self, value: object) -> str | None:
        if value is not None and type(value) is not str:
            raise KeyError(value)
        if len(self) >= _LABELS_KEPT:
            self.clear()
        self[value] = cleaned = label_of(value, "")
        return cleaned


def _chunk(rows: Iterator[tuple[int, object]], mapping: FieldMapping, labels: Labels, most: int) -> _Chunk:
    """Take the next rows: ``most`` of them, or fewer if their texts are long."""
    chunk = _Chunk()
    common = mapping == DEFAULT_MAPPING
    for line, value in rows:
        row = _common_row(value, labels) if common else None
        if row is None:
            try:
                row = _any_row(value, mapping)
            except RowError as error:
                chunk.problems.append(RowProblem(line=line, field=error.field, reason=error.reason))
        if row is not None:
            chunk.add(line, row)
        chunk.taken += 1
        if chunk.taken >= most or chunk.characters >= _CHUNK_CHARACTERS:
            break
    return chunk


def _any_row(value: object, mapping: FieldMapping) -> _Parts:
    if isinstance(value, Unreadable):
        raise RowError("", value.reason)
    row = to_row(value, mapping)
    return (*row, sum(map(len, row.contents)))


def _common_row(value: Any, labels: Labels) -> _Parts | None:
    """The row if it is of the common shape and nothing is wrong with it but perhaps its texts; else nothing."""
    try:
        turns = value["messages"]
        roles = tuple([turn["role"] for turn in turns])
        contents = [turn["content"] for turn in turns]
        if (
            turn_problem(roles) is not None
            or sum(map(len, turns)) != 2 * len(turns)
            or type(value) is not dict
            or type(turns) is not list
            or (len(value) != 1 + ("metadata" in value) and not is_plain_chat(tuple(value)))
        ):
            return None
        size = sum(map(len, contents))
        metadata = value.get("metadata")
        if metadata is None:
            return roles, contents, None, None, None, size
        if type(metadata) is not dict:
            return None
        declared = metadata.get("split")
        if declared is not None and (declared := labels[declared]) not in _PARTS:
            return None
        return roles, contents, labels[metadata.get("category")], labels[metadata.get("source")], declared, size
    except (KeyError, TypeError, RowError):
        return None


@dataclass
class _Chunk:
    """Rows as flat columns of Python values: a role and a text a turn, the others a row."""

    taken: int = 0
    characters: int = 0
    problems: list[RowProblem] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)
    categories: list[str | None] = field(default_factory=list)
    sources: list[str | None] = field(default_factory=list)
    declared: list[str | None] = field(default_factory=list)

    def add(self, line: int, row: _Parts) -> None:
        """Append a row whose texts may still be wrong."""
        roles, contents, category, source, declared, characters = row
        self.lines.append(line)
        self.turns.append(len(roles))
        self.roles += roles
        self.contents += contents
        self.categories.append(category)
        self.sources.append(source)
        self.declared.append(declared)
        self.characters += characters

    def to_arrow(self) -> pa.RecordBatch:
        """The rows as one batch, without those whose texts are wrong: they become problems."""
        import pyarrow as pa

        from tollgate.dataset.schema import ROW_SCHEMA

        contents = _text_array(self.contents)
        if contents is None:
            good = self._checked()
            return good.to_arrow()
        offsets = pa.array(list(accumulate(self.turns, initial=0)), pa.int32())
        kind = ROW_SCHEMA.field("messages").type
        turns = pa.StructArray.from_arrays([pa.array(self.roles, pa.string()), contents], fields=list(kind.value_type))
        columns = [
            pa.array(self.lines, pa.int64()),
            pa.ListArray.from_arrays(offsets, turns, type=kind),
            *(pa.array(labels, pa.string()) for labels in (self.categories, self.sources, self.declared)),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=ROW_SCHEMA)

    def _checked(self) -> _Chunk:
        """The rows whose texts are right, each text looked at by itself; the others are added to the problems."""
        good = _Chunk()
        end = 0
        for row, turns in enumerate(self.turns):
            begin, end = end, end + turns
            try:
                texts = [
                    text_of(text, f"messages[{turn}].content") for turn, text in enumerate(self.contents[begin:end])
                ]
            except RowError as error:
                problem = RowProblem(line=self.lines[row], field=error.field, reason=error.reason)
                self.problems.append(problem)
            else:
                labels = self.categories[row], self.sources[row], self.declared[row]
                good.add(self.lines[row], (tuple(self.roles[begin:end]), texts, *labels, 0))
        return good


def _text_array(texts: list[str]) -> pa.StringArray | None:
    """Texts as an Arrow column; nothing if one of them is empty, not in NFC, or holds what no text can.

    All at once: joined by zero characters, which no text may hold, they are normalised and encoded if each of them is,
    and the zero bytes say where each begins.
    """
    import numpy as np
    import pyarrow as pa

    try:
        joined = "\0".join(texts)
        encoded = joined.encode()
    except (TypeError, UnicodeEncodeError):
        return None
    if not all(texts) or any(map(str.isspace, texts)) or not unicodedata.is_normalized("NFC", joined):
        return None
    (marks,) = np.nonzero(np.frombuffer(encoded, np.uint8) == 0)
    if len(marks) != max(len(texts) - 1, 0):
        return None
    offsets = np.zeros(len(texts) + 1, np.int32)
    offsets[1:-1] = marks - np.arange(len(marks))
    offsets[-1] = len(encoded) - len(marks)
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(encoded.replace(b"\0", b"")))
