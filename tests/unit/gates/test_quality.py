"""Short messages with structured answers are good; noise is not, and the part that says so is visible."""

from __future__ import annotations

import json
from pathlib import Path

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


QUESTION = "하이패스 단말기를 분실했는데 재발급 수수료는 얼마인가요?"
ANSWER = (
    "하이패스 단말기를 잃어버리셨다면 가까운 영업소에서 다시 발급받으실 수 있습니다. 재발급 수수료는 오천 원이며, "
    "신분증과 차량등록증을 가져오시면 그 자리에서 처리됩니다."
)
OTHER_ANSWER = (
    "육아휴직은 만 여덟 살 이하의 자녀를 둔 근로자가 신청할 수 있습니다. 사업주는 이를 허용해야 하며, 기간은 한 해를 "
    "넘지 않습니다. 자세한 내용은 고용센터에 물어보시기 바랍니다."
)


@pytest.mark.parametrize(
    ("question", "answer", "weak"),
    [
        (QUESTION, "죄송하지만 해당 내용은 답변드릴 수 없습니다.", "refusal"),
        (QUESTION, "As an AI language model, I can't access this. 죄송합니다.", "refusal"),
        (QUESTION, OTHER_ANSWER, "relevance"),
        ("Where can I get a new device for the toll road?", "Please visit the nearest sales office.", "hangul"),
        (QUESTION, "ÇÏÀÌÆÐ½º ´Ü¸»±â´Â ¿µ¾÷¼Ò¿¡¼ ¹Þ½À´Ï´Ù. 하이패스", "intact"),
        ("ㅎㅏㅇㅣㅍㅐㅅㅡ 단말기 어디서 사나요", JSON, "intact"),
        ("단말기 고장 단말기 고장났고 단말기 고장 단말기 고장났고 단말기 고장 단말기 고장났고", JSON, "repetition"),
    ],
)
def test_each_part_sees_its_fault(question: str, answer: str, weak: str) -> None:
    whole, fine = quality.score([QUESTION], [ANSWER])
    score, parts = quality.score([question], [answer])
    assert min(parts, key=parts.__getitem__) == weak
    assert parts[weak] < fine[weak] == 1
    assert score < whole


def test_a_refusal_is_dropped_but_not_a_remark_in_a_long_answer() -> None:
    refused, _ = quality.score([QUESTION], ["죄송하지만 답변드릴 수 없습니다."])
    remark, _ = quality.score([QUESTION], [f"{ANSWER * 3} 다만 개인별 처리 시각은 답변드릴 수 없습니다."])
    assert refused < 0.7 < remark


@pytest.mark.parametrize("answer", ["하이패스", "3", '["하이패스", "환불"]', JSON, '{"설명": "전혀 다른 이야기"}'])
def test_short_and_structured_answers_need_not_take_up_the_question(answer: str) -> None:
    _, parts = quality.score([QUESTION], [answer])
    assert parts["relevance"] == parts["ending"] == 1


def test_laughter_does_not_outweigh_words() -> None:
    score, _ = quality.score(["단말기 진짜 잘 되네요 감사합니다ㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋ"], [JSON])
    assert score >= 0.7


def test_a_column_scores_as_its_rows_do() -> None:
    rows = [([QUESTION], [ANSWER]), (["ㅋㅋ", QUESTION], ["네.", JSON]), ([""], [""]), (["환불 " * 9], [OTHER_ANSWER])]
    rows = rows * 40  # more rows than there are threads, so that each has several
    scores = quality.score_column(
        quality.join_turns(asked for asked, _ in rows), quality.join_turns(answered for _, answered in rows)
    )
    for number, (asked, answered) in enumerate(rows[:4]):
        total, parts = quality.score(asked, answered)
        assert scores.total[number::4] == pytest.approx([total] * 40, abs=1e-3)
        assert {name: part[number] for name, part in scores.parts.items()} == pytest.approx(parts, abs=1e-3)


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 questions, but 1 answers"):
        quality.score_column(["a", "b"], ["c"])


@pytest.mark.real_data
def test_real_answers_are_kept_and_exchanged_ones_are_less_relevant() -> None:
    source = Path(__file__).parents[4] / "shared" / "data" / "easylaw" / "easylaw.json"
    if not source.is_file():
        pytest.skip("the data folder beside the project is not there")
    rows = json.loads(source.read_text(encoding="utf-8"))
    asked, answered = [row["instruction"] for row in rows], [row["output"] for row in rows]
    right, wrong = quality.score_column(asked, answered), quality.score_column(asked, answered[7:] + answered[:7])
    assert (right.total >= 0.7).mean() > 0.99
    assert (right.parts["relevance"] < 0.7).mean() < 0.03
    assert (wrong.parts["relevance"] < 0.7).mean() > 0.5
