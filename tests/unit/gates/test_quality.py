"""Short messages with structured answers are good; noise is not, and the part that says so is visible."""

from __future__ import annotations

import pytest

from tollgate.gates import quality

JSON = '{"분류":"하이패스","노선":null,"방향":null,"긴급":false}'


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("하이패스 안 찍혔어요", JSON),
        ("사고요", JSON),
        ("통행료 10,000원이 두 번 결제됐어요", JSON),
        ("면접은 언제 있나요?", "다음 주 월요일입니다."),
        ("무고죄가 성립하나요?", "네, 성립합니다."),
    ],
)
def test_good_rows_pass(question: str, answer: str) -> None:
    score, parts = quality.score([question], [answer])
    assert score >= 0.7
    assert parts.keys() == quality.WEIGHTS.keys()


@pytest.mark.parametrize(
    ("question", "answer", "weak"),
    [
        ("ㅋㅋㅋㅋㅋㅋㅋㅋ", JSON, "question_length"),
        ("?!?!?!?!", JSON, "question_length"),
        ("환불환불환불환불환불환불", JSON, "repetition"),
        ("네 네 네 네 네 네 네 네 네", JSON, "repetition"),
        ("통행료 환불은 어떻게 받나요?", "네", "answer_length"),
        ("통행료 ����� 환불", JSON, "intact"),
        ("통행료 환불은 어떻게 받나요?", "신청하세요. 신청하세요. 신청하세요. 신청하세요.", "repetition"),
    ],
)
def test_bad_rows_fail_by_the_part_that_is_bad(question: str, answer: str, weak: str) -> None:
    score, parts = quality.score([question], [answer])
    assert score < 0.7 or weak == "answer_length"
    assert min(parts, key=parts.__getitem__) == weak


def test_a_sentence_that_stops_in_the_middle_costs_a_little() -> None:
    whole, _ = quality.score(["통행료 환불은 어떻게 받나요?"], ["홈페이지에서 신청하시면 됩니다."])
    cut, parts = quality.score(["통행료 환불은 어떻게 받나요?"], ["홈페이지에서 신청하시면 됩니다. 그리고 <"])
    assert parts["ending"] == 0.5
    assert 0.7 < cut < whole


def test_the_weakest_turn_decides_in_a_longer_dialogue() -> None:
    good, _ = quality.score(
        ["하이패스 단말기를 등록하려고요", "어디서 하나요?"], ["네, 안내해 드리겠습니다.", "영업소에서 됩니다."]
    )
    bad, _ = quality.score(
        ["하이패스 단말기를 등록하려고요", "ㅇㅇㅇㅇㅇ"], ["네, 안내해 드리겠습니다.", "영업소에서 됩니다."]
    )
    assert bad < 0.7 <= good
