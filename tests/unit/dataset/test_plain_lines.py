"""Lines read by whole columns give the rows and problems that lines read one by one give."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.dataset.test_batches import CHAT, DIALOGUE, ODD, TEXTS

from tollgate.dataset import plain_lines
from tollgate.dataset.batches import Batch, Unreadable, to_batches
from tollgate.dataset.json_rows import line_rows
from tollgate.dataset.layouts import DEFAULT_MAPPING

LABEL = st.sampled_from([None, " a ", "", "train", "test", "dev", "분류"]) | TEXTS
PLAIN = st.fixed_dictionaries(
    {"messages": DIALOGUE},
    optional={
        "metadata": st.none() | st.fixed_dictionaries({}, optional={"category": LABEL, "source": LABEL, "split": LABEL})
    },
)
HURT: list[Callable[[str], str]] = [
    lambda line: line,
    lambda line: line[:-1],
    lambda line: line + line,
    lambda line: f" {line}\r",
    lambda line: line.replace("user", "human", 1),
    lambda line: line.replace('"content"', '"role"', 1),
    lambda line: line.replace('"content"', '"content": "x", "content"', 1),
    lambda line: line.replace(", ", "\n, ", 1),
    lambda line: line.replace("}, {", "}\n{", 1),
    lambda line: "",
    lambda line: "null",
    lambda line: "{}",
]


def _dumped(value: object, escaped: bool) -> str:
    return json.dumps(value, ensure_ascii=escaped, default=repr)


def _blocks(data: bytes, size: int) -> Iterator[bytes]:
    return (data[begin : begin + size] for begin in range(0, len(data), size))


def _found(batches: Iterator[Batch]) -> tuple[list[Any], list[Any]]:
    rows, problems = [], []
    for batch in batches:
        batch.rows.validate(full=True)
        rows += batch.rows.to_pylist()
        problems += [problem.model_dump() for problem in batch.problems]
    return rows, sorted(problems, key=lambda problem: problem["line"])


def _agree(data: bytes, size: int, most: int) -> None:
    one_by_one = to_batches(line_rows(_blocks(data, size)), DEFAULT_MAPPING, most)
    assert _found(plain_lines.line_batches(_blocks(data, size), most)) == _found(one_by_one)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(PLAIN | CHAT | ODD, st.sampled_from([HURT[0]] * 12 + HURT), st.booleans()), max_size=8),
    st.integers(1, 900),
    st.integers(1, 5),
)
def test_plain_lines_are_read_as_each_is(lines: list[Any], size: int, most: int) -> None:
    text = "\n".join(hurt(_dumped(value, escaped)) for value, hurt, escaped in lines)
    _agree(text.encode(errors="surrogatepass"), size, most)


@pytest.mark.parametrize(
    "content", ["a", " ", "　", "　가", "ㅋ", "\x1c", "“가", "é", "é", "\\u0000", "\\ud800", "\\ud83d\\ude00", "\t"]
)
def test_a_text_alone_among_plain_ones(content: str) -> None:
    line = '{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "네"}]}'
    _agree("\n".join([line % "가", line % content, line % "나", ""]).encode(), 1 << 20, 99)


def test_plain_rows_take_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def noted(lines: Any, first: int) -> Any:
        seen.append(first)
        return iter([(first, Unreadable("x"))])

    monkeypatch.setattr(plain_lines, "rows_of", noted)
    turns = [{"role": "user", "content": "가"}, {"role": "assistant", "content": "네"}]
    lines = [_dumped({"messages": turns, "metadata": {"category": "a"}}, escaped=False)] * 5
    lines[3] = lines[3][:-2]
    (batch,) = plain_lines.line_batches(iter(["\n".join(lines).encode()]), 99)
    assert (batch.rows["line"].to_pylist(), [problem.line for problem in batch.problems], seen) == (
        [1, 2, 3, 5],
        [4],
        [4],
    )
