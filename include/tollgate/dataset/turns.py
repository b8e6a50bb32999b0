"""The turns of a column of dialogues as columns of their own: who says what, without a Python object for each.

A batch holds dialogues as ``list<struct<role, content>>``. Taken apart, its turns are three flat columns, on which
searches and measures run at the speed of the memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tollgate.dataset.schema import ROLES
from tollgate.gates.threads import in_order

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt
    import pyarrow as pa

    Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Turns:
    """All turns of a number of dialogues, one after the other.

    Args:
        lengths: Number of turns of each dialogue.
        row: For each turn the position of its dialogue.
        role: For each turn the position of its role in :data:`tollgate.dataset.schema.ROLES`.
        content: For each turn what is said.
    """

    lengths: Integers
    row: Integers
    role: Integers
    content: pa.LargeStringArray

    def of(self, role: str) -> npt.NDArray[np.bool_]:
        """Which turns are of a role."""
        return self.role == ROLES.index(role)


def take_apart(messages: pa.ListArray) -> Turns:
    """Take the dialogues of a batch apart; :func:`put_together` is the way back."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = pc.list_value_length(messages).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = messages.flatten()
    roles = pc.index_in(pc.struct_field(flat, "role"), value_set=pa.array(ROLES))
    return Turns(
        lengths=lengths,
        row=np.repeat(np.arange(len(messages)), lengths),
        role=roles.to_numpy(zero_copy_only=False).astype(np.int64),
        content=pc.struct_field(flat, "content").cast(pa.large_string()),
    )


def put_together(turns: Turns, kind: pa.ListType) -> pa.ListArray:
    """Dialogues of the given Arrow type from their turns."""
    import pyarrow as pa

    fields = [kind.value_type.field(name) for name in ("role", "content")]
    roles = pa.DictionaryArray.from_arrays(pa.array(turns.role, pa.int8()), pa.array(ROLES)).cast(fields[0].type)
    offsets = np.concatenate([[0], np.cumsum(turns.lengths)]).astype(np.int32)
    flat = pa.StructArray.from_arrays([roles, turns.content.cast(fields[1].type)], fields=fields)
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=kind)


def said_by(turns: Turns, role: str, separator: str) -> pa.LargeStringArray:
    """What one role says in each dialogue; the separator stands between its turns."""
    import pyarrow as pa
    import pyarrow.compute as pc

    chosen = turns.of(role)
    content = turns.content.filter(pa.array(chosen))
    counts = np.bincount(turns.row[chosen], minlength=len(turns.lengths))
    if (counts == 1).all():
        return content
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), content), pa.scalar(separator, pa.large_string()))


def sides(batches: Iterable[pa.RecordBatch], separator: str) -> tuple[pa.LargeStringArray, pa.LargeStringArray]:
    """The user's and the assistant's side of each dialogue in the ``messages`` of some batches."""
    import pyarrow as pa

    def of(batch: pa.RecordBatch) -> tuple[pa.LargeStringArray, pa.LargeStringArray]:
        turns = take_apart(batch.column("messages"))
        return said_by(turns, "user", separator), said_by(turns, "assistant", separator)

    none = pa.array([], pa.large_string())
    asked, answered = zip((none, none), *in_order(of, batches), strict=True)
    return pa.concat_arrays(asked), pa.concat_arrays(answered)


def characters(turns: Turns, role: str) -> Integers:
    """How many characters a role writes in each dialogue."""
    import pyarrow.compute as pc

    lengths = pc.utf8_length(turns.content).to_numpy(zero_copy_only=False)
    return np.bincount(turns.row, weights=np.where(turns.of(role), lengths, 0), minlength=len(turns.lengths)).astype(
        np.int64
    )


def take_turns(turns: Turns) -> npt.NDArray[np.bool_]:
    """Which dialogues are well formed: at most a system turn first, then user and assistant in turn, to an answer."""
    system, user, assistant = (turns.of(role) for role in ("system", "user", "assistant"))
    starts = np.concatenate([[0], np.cumsum(turns.lengths)[:-1]]).astype(np.int64)
    place = np.arange(len(turns.row)) - starts[turns.row]
    begins = np.zeros(len(turns.lengths), np.int64)
    begins[turns.row[(place == 0) & system]] = 1
    step = place - begins[turns.row]
    right = np.where(step < 0, system, np.where(step % 2 == 0, user, assistant))
    wrong = np.bincount(turns.row[~right], minlength=len(turns.lengths))
    spoken = turns.lengths - begins
    return (wrong == 0) & (spoken > 0) & (spoken % 2 == 0)
