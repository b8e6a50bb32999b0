from __future__ import annotations

import pytest

from tollgate.evaluation.cases import Case, CaseResult, Message
from tollgate.evaluation.consistency import form_of, format_consistency, repeated, with_repeats
from tollgate.evaluation.scorers import ScoredCase


def test_repeats_find_back_to_their_case() -> None:
    cases = [Case(id=name, messages=(Message(role="user", content="q"),), expected="x") for name in ("a", "b#1")]
    asked = repeated(cases, 3)
    assert len({case.id for case in asked}) == 6
    results = [
        CaseResult(id=case.id, expected="x", model="m", key="0", answer=f"답 {number}", latency_ms=1)
        for number, case in enumerate(asked)
    ]
    first, further = with_repeats(results)
    assert [result.id for result in first] == ["a", "b#1"]
    assert further == {"a": ("답 2", "답 4"), "b#1": ("답 3", "답 5")}
    assert repeated(cases, 1) == cases


@pytest.mark.parametrize(
    ("answers", "same"),
    [
        (('{"a": 1, "b": "x"}', '{"b": "y", "a": 2.5}'), True),
        (('{"a": 1}', '{"a": true}'), False),
        (('{"a": 1}', '{"a": 1, "b": 1}'), False),
        (('{"a": [1, 2]}', '{"a": [3]}'), True),
        (('{"a": 1}', '```json\n{"a": 1}\n```'), False),
        (("서울입니다.", "부산입니다."), True),
        (("서울입니다.", "서울\n부산"), False),
        (("서울", ""), False),
    ],
)
def test_answers_have_the_same_form_or_not(answers: tuple[str, str], same: bool) -> None:
    assert (form_of(answers[0]) == form_of(answers[1])) is same
    case = ScoredCase(id="a", correct=True, answer=answers[0], repeats=answers[1:])
    found = format_consistency([case, ScoredCase(id="b", correct=True, answer="한 번")])
    assert found is not None
    assert (found.cases, found.correct) == (1, int(same))


def test_without_repeats_there_is_no_figure() -> None:
    assert format_consistency([ScoredCase(id="b", correct=True, answer="한 번")]) is None
