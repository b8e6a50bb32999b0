"""Step 2: mask personal data, or drop or only report the rows that hold it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Full, Queue
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tollgate.dataset.turns import Turns, put_together, take_apart
from tollgate.gates import pii, workfolder
from tollgate.gates.gate_settings import GateSettings
from tollgate.gates.results import StageResult
from tollgate.gates.steps.previews import SAMPLES
from tollgate.gates.threads import in_order

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Integers = npt.NDArray[np.int64]

_WAITING = 2  # batches that may wait to be masked: more would only take memory
_LABELS = ("category", "source")  # the columns of metadata that are free text


@dataclass
class _Found:
    """What was found so far."""

    counts: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Pieces:
    """Pieces of personal data in a column: the place of the text that holds each, and the position in ``pii.KINDS``."""

    place: Integers
    kind: Integers


@dataclass(frozen=True)
class _Masked:
    """A batch, the same without personal data, its turns, and the pieces found in these and by row."""

    batch: pa.RecordBatch
    masked: pa.RecordBatch
    turns: Turns
    said: _Pieces
    pieces: list[_Pieces]

    def touched(self) -> npt.NDArray[np.bool_]:
        """Which rows held personal data."""
        touched = np.zeros(self.batch.num_rows, np.bool_)
        for some in self.pieces:
            touched[some.place] = True
        return touched


def mask_personal_data(workdir: Path, settings: GateSettings) -> StageResult:
    """Mask personal data in all messages, categories and sources, or drop or only report the rows that hold it."""
    return _mask(workdir, settings, workfolder.read_rows(workdir, "ingest"))


class MaskingAhead:
    """Masks in a thread what is handed to it while the step before still reads: the two share two cores.

    The rows as they were read are then nowhere but in memory.

    Usage:
        with MaskingAhead(workdir, settings) as ahead:
            ingest(source, workdir, settings, to=ahead.put)
            result = ahead.finish()
    """

    def __init__(self, workdir: Path, settings: GateSettings) -> None:
        self._batches: Queue[pa.RecordBatch | None] = Queue(_WAITING)
        self._pool = ThreadPoolExecutor(1)
        self._result = self._pool.submit(_mask, workdir, settings, iter(self._batches.get, None))

    def put(self, batch: pa.RecordBatch | None) -> None:
        """Hand on the next rows, or nothing after the last; waits while the thread has enough to do."""
        while not self._result.done():
            try:
                return self._batches.put(batch, timeout=0.1)
            except Full:
                continue
        self._result.result()  # it ended before its time: with an error
        return None

    def finish(self) -> StageResult:
        """What :func:`mask_personal_data` returns."""
        self.put(None)
        return self._result.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._result.done():  # the step before failed
            self.put(None)
        self._pool.shutdown()


def _mask(workdir: Path, settings: GateSettings, batches: Iterable[pa.RecordBatch]) -> StageResult:
    found, rows_in, kept = _Found(), 0, 0
    with workfolder.rows_writer(workdir, "personal_data") as write:
        for one in in_order(lambda each: _masked(*each, settings), _counted(batches)):
            _note(one, settings, found)
            rows = _left(one, settings)
            rows_in, kept = rows_in + one.batch.num_rows, kept + rows.num_rows
            write(rows)
    counts = {kind: found.counts[kind] for kind in pii.KINDS if found.counts[kind]}
    return workfolder.finish(
        workdir,
        StageResult(
            stage="personal_data",
            rows_in=rows_in,
            rows_kept=kept,
            dropped={"personal_data": rows_in - kept} if kept < rows_in else {},
            masked=counts if settings.personal_data == "mask" else {},
            details={"found": counts, "rows_with_personal_data": found.rows, "samples": found.samples},
        ),
    )


def _counted(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Each batch with the number of rows before it."""
    before = 0
    for batch in batches:
        yield before, batch
        before += batch.num_rows


def _masked(before: int, batch: pa.RecordBatch, settings: GateSettings) -> _Masked:
    """Search a batch; ``before`` rows came before it."""
    import pyarrow as pa

    turns = take_apart(batch.column("messages"))
    texts, said = _masked_turns(turns, before, settings)
    columns = {name: batch.column(name) for name in batch.schema.names}
    columns["messages"] = put_together(replace(turns, content=texts), batch.schema.field("messages").type)
    pieces = [_Pieces(turns.row[said.place], said.kind)]
    for name in _LABELS:
        clean, more = _masked_repeated(columns[name], settings)
        columns[name] = clean.cast(batch.schema.field(name).type)
        pieces.append(more)
    return _Masked(batch, pa.record_batch(columns, schema=batch.schema), turns, said, pieces)


def _note(one: _Masked, settings: GateSettings, found: _Found) -> None:
    """Count what a batch held, and keep the first excerpts."""
    for some in one.pieces:
        counted = np.bincount(some.kind, minlength=len(pii.KINDS)).tolist()
        found.counts.update(dict(zip(pii.KINDS, counted, strict=True)))
    found.rows += int(one.touched().sum())
    _sample(one, settings, found)


def _left(one: _Masked, settings: GateSettings) -> pa.RecordBatch:
    """The rows of a batch that go on."""
    import pyarrow as pa

    if settings.personal_data == "drop":
        return one.batch.filter(pa.array(~one.touched()))
    return one.batch if settings.personal_data == "report" else one.masked


def _masked_turns(turns: Turns, before: int, settings: GateSettings) -> tuple[pa.LargeStringArray, _Pieces]:
    """The turns' texts without personal data; a system message that many rows share is searched once."""
    import pyarrow as pa

    system = turns.of("system")
    if settings.personal_data_pseudonyms or not system.any():
        return _masked_texts(turns.content, settings, turns.row + before)
    places = np.concatenate([np.flatnonzero(~system), np.flatnonzero(system)])
    spoken, said = _masked_texts(turns.content.filter(pa.array(~system)), settings)
    shared, set_up = _masked_repeated(turns.content.filter(pa.array(system)), settings)
    texts = pa.concat_arrays([spoken, shared]).take(pa.array(np.argsort(places)))
    place = np.concatenate([places[said.place], places[set_up.place + len(spoken)]])
    return texts, _Pieces(place, np.concatenate([said.kind, set_up.kind]))


def _masked_texts(
    texts: pa.LargeStringArray, settings: GateSettings, dialogues: Integers | None = None
) -> tuple[pa.LargeStringArray, _Pieces]:
    masked = pii.mask_column(texts, settings.personal_data_settings(), groups=dialogues)
    return masked.texts, _Pieces(masked.findings.row, masked.findings.kind.astype(np.int64))


def _masked_repeated(column: pa.Array, settings: GateSettings) -> tuple[pa.Array, _Pieces]:
    """A column of few different texts, of which each is searched once; nothing stays nothing."""
    import pyarrow as pa

    encoded = column.dictionary_encode()
    clean, found = _masked_texts(encoded.dictionary, settings)
    if not len(found.place):
        return column, found
    entries = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    uses = [np.flatnonzero(entries == entry) for entry in found.place]
    pieces = _Pieces(np.concatenate(uses), np.repeat(found.kind, [len(rows) for rows in uses]))
    return pa.DictionaryArray.from_arrays(encoded.indices, clean).cast(pa.large_string()), pieces


def _sample(one: _Masked, settings: GateSettings, found: _Found) -> None:
    """Keep the first few excerpts of each kind."""
    accurate = settings.personal_data_names == "accurate"
    for code in np.unique(one.said.kind).tolist():
        kind = pii.KINDS[code]
        kept = found.samples.setdefault(kind, [])
        for place in one.said.place[one.said.kind == code][: SAMPLES - len(kept)].tolist():
            text = one.turns.content[place].as_py()
            masked = pii.mask(text, pii.KINDS, settings.personal_data_allowed, accurate).text
            line = one.batch.column("line")[int(one.turns.row[place])].as_py()
            kept.append({"line": line, "excerpt": pii.excerpt(masked, kind)})
