"""Batches hold what the row by row check lets through, in order, and name what it refuses."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollgate.dataset.batches import Unreadable, to_batches
from tollgate.dataset.layouts import FieldMapping, RowError, to_row
from tollgate.dataset.schema import ROW_SCHEMA

TEXTS = st.one_of(
    st.sampled_from(
        [
            "통행료",
            "hello",
            "",
            " \u3000",
            "\x1c\x85",
            "a\x00b",
            "\ud800",
            unicodedata.normalize("NFD", "하이패스"),
            "ᅡ각",
        ]
    ),
    st.text(max_size=4),
)
ODD: st.SearchStrategy[Any] = st.sampled_from([None, 3, True, 1.5, [], {}, b"x", ["text"]])
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "bot"]) | ODD, "content": TEXTS | ODD},
    optional={"order_state": ODD, "name": TEXTS},
)
DIALOGUE = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=2).map(
    lambda pairs: [
        {"role": ("user", "assistant")[side], "content": text} for pair in pairs for side, text in enumerate(pair)
    ]
)
LABEL = st.sampled_from([None, "a", " a ", "", "train", "test", "dev"]) | TEXTS | ODD
METADATA = st.fixed_dictionaries(
    {}, optional={"category": LABEL, "source": LABEL, "split": LABEL, "quality_score": ODD}
)
CHAT = st.fixed_dictionaries(
    {"messages": DIALOGUE | st.lists(TURN | ODD, max_size=3) | ODD},
    optional={
        "metadata": METADATA | ODD,
        "id": ODD,
        "Metadata": METADATA,
        "Messages": DIALOGUE,
        "category": LABEL,
        "system": LABEL,
    },
)
PAIR = st.fixed_dictionaries({"Q": TEXTS | ODD, "A": TEXTS | ODD}, optional={"metadata": METADATA | ODD})
VALUE = st.one_of(CHAT, PAIR, ODD, st.just(Unreadable("torn")))


def _expected(value: object) -> Any:
    if isinstance(value, Unreadable):
        return ("", value.reason)
    try:
        row = to_row(value)
    except RowError as error:
        return (error.field, error.reason)
    turns = [{"role": role, "content": text} for role, text in zip(row.roles, row.contents, strict=True)]
    return {"messages": turns, "category": row.category, "source": row.source, "declared": row.declared}


@settings(deadline=None)
@given(st.lists(VALUE, max_size=12), st.integers(1, 5))
def test_columns_accept_and_refuse_what_single_rows_do(values: list[object], batch_rows: int) -> None:
    found: dict[int, Any] = {}
    for batch in to_batches(enumerate(values, 1), FieldMapping(), batch_rows):
        batch.rows.validate(full=True)
        assert batch.rows.schema == ROW_SCHEMA
        assert batch.rows.num_rows + len(batch.problems) <= batch_rows
        rows = batch.rows.to_pylist()
        assert [row["line"] for row in rows] == sorted(row["line"] for row in rows)
        found |= {row.pop("line"): row for row in rows}
        found |= {problem.line: (problem.field, problem.reason) for problem in batch.problems}
    assert found == dict(enumerate(map(_expected, values), 1))


def test_long_texts_make_smaller_batches() -> None:
    turns = [{"role": "user", "content": "가" * 1_000_000}, {"role": "assistant", "content": "네"}]
    sizes = [
        batch.rows.num_rows for batch in to_batches(((1, {"messages": turns}) for _ in range(30)), FieldMapping(), 99)
    ]
    assert sum(sizes) == 30
    assert max(sizes) < 20


@pytest.mark.parametrize("count", [0, 2048, 4097])
def test_every_row_comes_out_once(count: int) -> None:
    rows = ((line, {"Q": f"질문 {line}", "A": "답"} if line % 3 else 0) for line in range(1, count + 1))
    batches = list(to_batches(rows, FieldMapping(), 2048))
    lines = [line for batch in batches for line in batch.rows["line"].to_pylist()]
    broken = [problem.line for batch in batches for problem in batch.problems]
    assert lines == [line for line in range(1, count + 1) if line % 3]
    assert broken == [line for line in range(1, count + 1) if not line % 3]
