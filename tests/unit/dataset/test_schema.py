"""Raw rows of every layout become the same example; what is wrong with a row is named by its field."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest

from tollgate.dataset.layouts import RowError, to_example

USER = {"role": "user", "content": "통행료가 두 번 결제됐어요"}
ASSISTANT = {"role": "assistant", "content": "환불해 드리겠습니다."}
SYSTEM = {"role": "system", "content": "안내원"}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ASSISTANT]},
        {"instruction": USER["content"], "input": "", "output": ASSISTANT["content"]},
        {"prompt": USER["content"], "completion": ASSISTANT["content"]},
        {"question": USER["content"], "answer": ASSISTANT["content"]},
        {"Q": USER["content"], "A": ASSISTANT["content"], "label": "0"},
        {"질문": USER["content"], "답변": ASSISTANT["content"]},
    ],
)
def test_every_layout_becomes_the_same_chat(row: dict[str, Any]) -> None:
    assert [turn.model_dump() for turn in to_example(row).messages] == [USER, ASSISTANT]


def test_the_input_stands_below_the_instruction() -> None:
    example = to_example({"instruction": "요약하세요", "input": "긴 글", "output": "짧은 글"})
    assert example.messages[0].content == "요약하세요\n\n긴 글"


def test_text_is_composed() -> None:
    decomposed = unicodedata.normalize("NFD", "하이패스")
    assert to_example({"Q": decomposed, "A": "네, 됩니다"}).messages[0].content == "하이패스"


def test_metadata_is_taken_from_its_object_or_the_row() -> None:
    inside = to_example({"Q": "ㄱ", "A": "ㄴ", "metadata": {"source": "call", "category": "환불", "split": "test"}})
    beside = to_example({"Q": "ㄱ", "A": "ㄴ", "source": "call", "category": "환불", "split": "test"})
    assert inside == beside
    assert inside.metadata.split == "test"


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("text", ""),
        ({"text": "only this"}, ""),
        ({"messages": []}, "messages"),
        ({"messages": [USER, {"role": "bot", "content": "네"}]}, "messages[1].role"),
        ({"messages": [USER, {"role": "assistant", "content": "  "}]}, "messages[1].content"),
        ({"messages": [USER, {"role": "assistant"}]}, "messages[1].content"),
        ({"messages": [SYSTEM, USER]}, "messages[1]"),
        ({"messages": [SYSTEM]}, "messages[0]"),
        ({"messages": [USER, USER, ASSISTANT]}, "messages[1].role"),
        ({"messages": [USER, ASSISTANT, ASSISTANT]}, "messages[2].role"),
        ({"messages": [ASSISTANT]}, "messages[0].role"),
        ({"messages": [USER, SYSTEM, ASSISTANT]}, "messages[1].role"),
        ({"instruction": "질문", "output": None}, "output"),
        ({"prompt": "질문", "completion": 3}, "completion"),
        ({"Q": "질문\udc80", "A": "답"}, "Q"),
        ({"Q": "질문", "A": "답", "metadata": {"split": "dev"}}, "metadata.split"),
        ({"Q": "질문", "A": "답", "metadata": []}, "metadata"),
    ],
)
def test_a_wrong_row_is_named_by_its_field(row: object, field: str) -> None:
    with pytest.raises(RowError) as caught:
        to_example(row)
    assert caught.value.field == field
    assert "질문" not in caught.value.reason
