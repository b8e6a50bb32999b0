"""Raw rows of every layout become the same example; what is wrong with a row is named by its field."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from pydantic import ValidationError

from tollgate.dataset.layouts import FieldMapping, RowError, needed_columns, to_example
from tollgate.errors import BadInputError

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
        {"instruction": USER["content"], "context": None, "response": ASSISTANT["content"]},
        {
            "conversations": [
                {"from": "human", "value": USER["content"]},
                {"from": "gpt", "value": ASSISTANT["content"]},
            ]
        },
        {"conversations": [USER, ASSISTANT]},
        {"customer_name": "김민수", "messages": [USER, ASSISTANT], "order_state": None},
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
        ({"Q": "질문\x00", "A": "답"}, "Q"),
        ({"Q": "질문", "A": "답", "system": 3}, "system"),
        ({"conversations": [{"from": "human", "value": "질문"}]}, "conversations[0]"),
        ({"conversations": [{"from": "질문", "value": "질문"}]}, "conversations[0].from"),
        ({"conversations": [{"from": "gpt", "value": "질문"}]}, "conversations[0].from"),
        ({"messages": [USER, ASSISTANT | {"order_state": ["질문"]}]}, "messages[1].order_state"),
    ],
)
def test_a_wrong_row_is_named_by_its_field(row: object, field: str) -> None:
    with pytest.raises(RowError) as caught:
        to_example(row)
    assert caught.value.field == field
    assert "질문" not in caught.value.reason


STATES: list[dict[str, Any]] = [{"dinner": None}, {"dinner": "프렌치", "needsMoreInfo": []}]
LOG: dict[str, Any] = {
    "customer_name": "김민수",
    "messages": [
        USER,
        ASSISTANT | {"order_state": STATES[0]},
        USER,
        ASSISTANT | {"order_state": STATES[1]},
        USER,
        ASSISTANT,
    ],
}


@pytest.mark.parametrize(
    ("orders", "expected"),
    [("final", [None, None, STATES[1]]), ("every", [STATES[0], STATES[1], None]), ("ignore", [None, None, None])],
)
def test_an_order_stands_below_its_answer(orders: Any, expected: list[dict[str, Any] | None]) -> None:
    answers = to_example(LOG, FieldMapping(order_state=orders)).messages[1::2]
    found = [answer.content.removeprefix(ASSISTANT["content"]) for answer in answers]
    states = [json.loads(text.removeprefix("\n\n```json\n").removesuffix("\n```")) if text else None for text in found]
    assert states == expected


def test_the_order_of_the_whole_log_is_the_final_one() -> None:
    assert (
        to_example(LOG | {"order_state": {"dinner": "샴페인"}})
        .messages[-1]
        .content.endswith('```json\n{"dinner":"샴페인"}\n```')
    )


def test_a_mapping_names_the_columns() -> None:
    mapping = FieldMapping(
        question=("지문", "물음"), answer="정답", system="역할", category="갈래", split="부분", source="출처"
    )
    row = {"지문": "긴 글", "물음": "맞나요?", "정답": "예", "역할": "교사", "갈래": 3, "부분": "test", "출처": "책"}
    example = to_example(row | {"question": "다른", "answer": "것"}, mapping)
    assert [turn.content for turn in example.messages] == ["교사", "긴 글\n\n맞나요?", "예"]
    assert example.metadata.model_dump() == {"source": "책", "category": "3", "split": "test"}
    with pytest.raises(RowError) as caught:
        to_example({"지문": "긴 글", "정답": "예"}, mapping)
    assert caught.value.field == "물음"


def test_a_system_message_is_put_only_where_there_is_none() -> None:
    mapping = FieldMapping(system_text="기본")
    rows = [
        {"messages": [USER, ASSISTANT]},
        {"messages": [SYSTEM, USER, ASSISTANT]},
        {"Q": "ㄱ", "A": "ㄴ", "system": "줄"},
    ]
    assert [to_example(row, mapping).messages[0].content for row in rows] == ["기본", "안내원", "줄"]


def test_columns_that_are_needed() -> None:
    names = ["id", "A", "Q", "label", "source"]
    assert needed_columns(names, FieldMapping(category="label"), "f.csv") == ["A", "Q", "label", "source"]
    with pytest.raises(BadInputError, match=r"f.csv: found 'id', .*expected column 'kind' \(category\)"):
        needed_columns(names, FieldMapping(category="kind"), "f.csv")
    with pytest.raises(BadInputError, match="no known layout"):
        needed_columns(["id", "text"], FieldMapping(), "f.csv")


@pytest.mark.parametrize("wrong", [{"question": "Q"}, {"answer": "A"}, {"answers": "A"}, {"system_text": " "}])
def test_a_wrong_mapping_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FieldMapping.model_validate(wrong)
