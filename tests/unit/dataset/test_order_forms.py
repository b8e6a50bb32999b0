"""A checklist counts dialogues, not words, and says what is missing."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from tollgate.dataset import order_forms
from tollgate.dataset.order_forms import OrderForm
from tollgate.dataset.schema import Example, Message, Metadata
from tollgate.errors import BadInputError

FORM = OrderForm.model_validate(
    {
        "min_dialogues": 2,
        "slots": {
            "dinner": {"values": {"valentine": ["발렌타인"], "french": ["프렌치 디너", "프렌치"]}},
            "style": {"values": {"grand": ["그랜드"]}, "said_by": "user"},
        },
        "cross": [["dinner", "style"]],
        "flow": {
            "steps": [
                {"name": "greeting", "words": ["안녕"]},
                {"name": "order", "words": ["주문"], "said_by": "user"},
                {"name": "confirmation", "words": ["확정"], "said_by": "assistant"},
            ]
        },
        "situations": {"refused": {"words": ["도와드릴 수 없"], "said_by": "assistant"}},
        "categories": {"저녁": 1},
    }
)


def dialogue(*turns: str, category: str | None = None) -> Example:
    """A dialogue in which the user begins."""
    roles = ("user", "assistant")
    messages = tuple(Message(role=roles[place % 2], content=text) for place, text in enumerate(turns))  # type: ignore[arg-type]
    return Example(messages=messages, metadata=Metadata(category=category))


def _found(*dialogues: Example | None) -> dict[str, int]:
    return {item.name: item.found for item in order_forms.check(FORM, dialogues).items}


def test_a_dialogue_counts_once_and_by_who_speaks() -> None:
    found = _found(
        dialogue("발렌타인, 발렌타인 디너요", "그랜드로 드릴까요?", "발렌타인이요", "네", category="저녁"),
        dialogue("프렌치디너 그랜드", "네, 도와드릴수 없습니다"),
    )
    assert (found["dinner: valentine"], found["dinner: french"]) == (1, 1)
    assert found["style: grand"] == 1, "only the user chooses a style"
    assert (found["valentine × grand"], found["french × grand"]) == (0, 1)
    assert (found["refused"], found["저녁"], found["dialogues"]) == (1, 1, 2)


@pytest.mark.parametrize(
    ("turns", "complete"),
    [
        (("안녕하세요, 주문할게요", "확정했습니다"), 1),
        (("안녕하세요", "어서 오세요", "주문이요", "주문이 확정되었습니다"), 1),
        (("주문이요", "확정했습니다", "안녕히 계세요", "네"), 0),
        (("안녕하세요", "주문이 확정되었습니다"), 0),
        (("안녕하세요, 주문 확정해 주세요", "네"), 0),
    ],
)
def test_the_steps_must_come_in_their_order(turns: tuple[str, ...], complete: int) -> None:
    assert _found(dialogue(*turns))["greeting → order → confirmation"] == complete


def test_what_is_missing_is_named_and_broken_rows_are_counted() -> None:
    coverage = order_forms.check(FORM, [dialogue("발렌타인", "네"), None])
    assert (coverage.dialogues, coverage.unreadable) == (1, 1)
    assert {item.name for item in coverage.missing} == {item.name for item in coverage.items} - {"dinner: valentine"}


def test_the_form_that_comes_along_is_covered_by_what_it_asks_for() -> None:
    form = order_forms.example()
    assert set(form.slots["dinner"].values) == {"valentine", "french", "english", "champagne"}
    assert set(form.slots["serving_style"].values) == {"simple", "grand", "deluxe"}
    dinners, styles = ("발렌타인", "프렌치", "잉글리시", "샴페인"), ("심플", "그랜드", "디럭스")
    whole = [
        dialogue("안녕하세요", "환영합니다", f"{dinner} {style}로 주문할게요", "주문이 확정되었습니다")
        for dinner in dinners
        for style in styles
    ] * 5
    odd = [dialogue("ㅁㄴㅇ", "이해하지 못했습니다"), dialogue("오늘 날씨는?", "그건 도와드릴 수 없습니다")] * 3
    assert order_forms.check(form, [*whole, *odd]).missing == ()
    assert "wrong_input" in {item.name for item in order_forms.check(form, whole).missing}


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("{", "no JSON"),
        ('{"min_dialogues": -1}', "min_dialogues"),
        ('{"slot": {}}', "slot"),
        ('{"slots": {"a": {"values": {}}}}', "slots.a.values"),
        ('{"cross": [["a", "b"]]}', "cross names slots"),
    ],
)
def test_a_wrong_form_names_its_field(tmp_path: Path, form: str, said: str) -> None:
    path = tmp_path / "form.json"
    path.write_text(form)
    with pytest.raises(BadInputError, match=said) as refused:
        order_forms.read(path)
    assert str(path) in str(refused.value)


def test_the_form_shown_is_the_form_used(tmp_path: Path) -> None:
    path = tmp_path / "form.json"
    path.write_bytes(order_forms.example_text())
    assert order_forms.read(path) == order_forms.example()
    assert orjson.loads(order_forms.example_text())["min_dialogues"] == 50
