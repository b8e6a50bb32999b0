"""Lines and array elements come out with their places, whatever the blocks they are read in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollgate.dataset import json_rows
from tollgate.dataset.batches import Unreadable
from tollgate.errors import BadInputError

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers(-9, 9) | st.text(st.sampled_from('"\\{}[],: \n가é'), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('"\\}a', max_size=2), inner, max_size=3),
    max_leaves=8,
)
BROKEN = '{"messages": [{"role": "user", "content": %s}, {"role": "assistant", "content": "네, 그래요"}]}'


def _blocks(text: str, size: int) -> Iterator[bytes]:
    data = text.encode()
    return (data[begin : begin + size] for begin in range(0, len(data), size))


def _array(text: str, size: int = 1 << 16) -> list[tuple[int, Any]]:
    return list(json_rows.array_rows(Path("rows.json"), _blocks(text, size)))


@pytest.fixture(scope="module", autouse=True)
def small_windows() -> Iterator[None]:
    """Windows so small that elements end beyond them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "_WINDOW", 8)
        patch.setattr(json_rows, "_WIDEST_WINDOW", 64)
        yield


@settings(deadline=None)
@given(st.lists(VALUES, max_size=6), st.integers(1, 40), st.sampled_from([None, 0, 2]), st.booleans())
def test_an_array_is_read_as_a_whole_one_is(values: list[Any], size: int, indent: int | None, escaped: bool) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=escaped)
    assert [value for _, value in _array(text, size)] == values


@settings(deadline=None)
@given(st.lists(VALUES, max_size=6), st.integers(1, 40))
def test_lines_are_read_as_each_is(values: list[Any], size: int) -> None:
    text = "\n\n".join(json.dumps(value) for value in values)
    assert list(json_rows.line_rows(_blocks(text, size))) == [(2 * row + 1, value) for row, value in enumerate(values)]


@pytest.mark.parametrize(
    "torn",
    ['oops"', '"no end', 'no "begin"', '"a "quote" inside"', '"a\nline break"', "nothing", '"\\x"', "}", "]", "{"],
)
@pytest.mark.parametrize("separator", [",\n", ", "])
def test_a_broken_element_costs_only_itself(torn: str, separator: str) -> None:
    good = [BROKEN % f'"질문 {row}"' for row in range(9)]
    elements = [*good[:3], BROKEN % torn, *good[3:6], BROKEN % torn, *good[6:]]
    rows = _array("[\n" + separator.join(elements) + "\n]")
    found = [value["messages"][0]["content"] for _, value in rows if not isinstance(value, Unreadable)]
    assert found == [f"질문 {row}" for row in range(9)]
    assert len(rows) == 11


def test_a_broken_element_at_either_end() -> None:
    good = BROKEN % '"질문"'
    for elements in ((good, BROKEN % "oops"), (BROKEN % "oops", good), (good, BROKEN % '"no end')):
        text = f"[{', '.join(elements)}]"
        assert [isinstance(value, Unreadable) for _, value in _array(text)].count(False) == 1


def test_elements_of_one_line_are_numbered_and_others_have_their_line() -> None:
    assert [place for place, _ in _array('[{"a": 1}, {"b": 2},{"c": 3}]')] == [1, 2, 3]
    assert [place for place, _ in _array('\n[\n{"a":\n 1},\n\n {"b": 2}, {"c": 3}]')] == [3, 6, 6]


@pytest.mark.parametrize("text", ["[", "[ ", '[{"a": 1}', '[{"a": 1},', '[{"a": 1}, {"b": "', '[{"a": "]"'])
def test_an_array_without_an_end_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match=r"cut off.*\n.*rows.json, row beginning at line 1"):
        _array(text)


def test_an_element_without_an_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "LONGEST_ROW", 512)
    with pytest.raises(BadInputError, match="A row doesn't end"):
        _array('[{"a": 1}, {"b": "' + "가" * 1000, 10)
    rows = list(json_rows.line_rows(_blocks('{"a": 1}\n{"b": "' + "가" * 1000 + '"}\n{"c": 1}', 10)))
    assert [(place, isinstance(value, Unreadable)) for place, value in rows] == [(1, False), (2, True), (3, False)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]", True),
        (' \n [{"a": 1}]', True),
        ("[\n", True),
        ('[{"a": 1},\n{"b": 2}]', True),
        ('["no row"]\n{"a": 1}', False),
        ('{"a": 1}\n[]', False),
        ("", False),
    ],
)
def test_arrays_and_lines_are_told_apart(text: str, expected: bool) -> None:
    assert json_rows.is_array(_blocks(text, 3)) is expected
