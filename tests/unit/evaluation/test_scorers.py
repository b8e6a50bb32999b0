from __future__ import annotations

import unicodedata

import pytest

from tollgate.errors import BadInputError
from tollgate.evaluation.cases import CaseResult
from tollgate.evaluation.scorers import contains, detect, exact, find_scorer, json_exact, score_results, scorer

WANTED = '{"분류": "하이패스", "노선": null, "긴급": true}'


@pytest.mark.parametrize(
    ("answer", "correct", "valid"),
    [
        (' {"긴급":true,"노선":null,"분류":"하이패스"}\n', True, True),
        (unicodedata.normalize("NFD", WANTED), True, True),
        ('{"분류": "하이패스", "노선": null, "긴급": 1}', False, True),
        ('{"분류": "하이패스", "긴급": true}', False, True),
        ('{"분류": "하이패스", "노선": null, "긴급": true, "방향": null}', False, True),
        ('{"분류": "통행료", "분류": "하이패스", "노선": null, "긴급": true}', False, False),
        (WANTED + " 입니다", False, False),
        ("```json\n" + WANTED + "\n```", False, False),
        ('{"긴급": NaN}', False, False),
        ('"하이패스"', False, False),
        ('{"a":' * 100_000, False, False),
        ("", False, False),
    ],
)
def test_json_is_right_only_as_the_same_object(answer: str, correct: bool, valid: bool) -> None:
    score = json_exact(answer, WANTED)
    assert (score.correct, score.valid) == (correct, valid)


def test_json_fields_are_counted_one_by_one() -> None:
    assert json_exact('{"분류": "통행료", "노선": null}', WANTED).fields == {"분류": False, "노선": True, "긴급": False}
    assert json_exact('{"n": [1, {"b": true}]}', '{"n": [1.0, {"b": 1}]}').fields == {"n": False}


def test_text_scorers_pass_over_form_only() -> None:
    assert exact("  서울\u00a0 요금소\n", unicodedata.normalize("NFD", "서울 요금소")).correct
    assert exact("Hi-Pass", "HI-PASS").correct
    assert not exact("서울요금소", "서울 요금소").correct
    assert contains("가까운 곳은 서울 요금소입니다.", "서울  요금소").correct
    assert not contains("아무 답", "").correct


@pytest.mark.parametrize(
    ("expected", "name"), [([WANTED, "{}"], "json_exact"), ([WANTED, "[1]"], "exact"), (["예"], "exact"), ([], "exact")]
)
def test_the_scorer_is_detected_from_all_right_answers(expected: list[str], name: str) -> None:
    assert detect(expected) == name


def test_results_keep_what_they_were_scored_from() -> None:
    result = CaseResult(id="c", category="k", expected=WANTED, model="m", key="0", answer=WANTED, latency_ms=2.5)
    [scored] = score_results([result])
    assert scored.correct
    assert scored.valid
    assert (scored.id, scored.category, scored.answer, scored.latency_ms) == ("c", "k", WANTED, 2.5)
    assert score_results([result], "exact")[0].valid is None


def test_names_are_unique_and_unknown_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="exact"):
        scorer("exact")(exact)
    with pytest.raises(BadInputError, match="choice, chrf, contains, exact, json_exact"):
        find_scorer("bleu")


@pytest.mark.parametrize(
    ("answer", "expected", "options", "correct"),
    [
        ("요금은 12,000원입니다.", "12000", {}, True),
        ("1만 2천 원", "12,000", {}, True),
        ("3억 5,000만", "350000000", {}, True),
        ("-3.5도", "-3.5", {}, True),
        ("3.5도", "-3.5", {}, False),
        ("2 아니면 3", "3", {}, False),
        ("2 아니면 3", "3", {"which": "last"}, True),
        ("2 아니면 3", "3", {"which": "first"}, False),
        ("3만원", "3", {}, False),
        ("3.14", "3.1416", {"tolerance": 0.01}, True),
        ("3.14", "3.1416", {"relative": 0.0001}, False),
        ("101", "100", {"relative": 0.01}, True),
        ("1.2e4", "12000", {}, True),
        ("모름", "3", {}, False),
        ("２０개", "20", {}, True),
    ],
)
def test_numbers_are_compared_as_numbers(answer: str, expected: str, options: dict, correct: bool) -> None:
    assert find_scorer("numeric", options)(answer, expected).correct is correct


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        ("예", True),
        ("예, 맞습니다.", True),
        ("예입니다", True),
        ("아니오", False),
        ("아니오, 예가 아닙니다", False),
        ("차례", False),
        ("", False),
    ],
)
def test_a_choice_is_right_where_it_alone_is_named(answer: str, correct: bool) -> None:
    assert find_scorer("choice", {"choices": ["아니오", "예"]})(answer, "예").correct is correct


def test_a_longer_choice_hides_a_shorter_one() -> None:
    score = find_scorer("choice", {"choices": ["환불", "환불 불가"]})
    assert score("환불 불가입니다", "환불 불가").correct
    assert not score("환불 불가입니다", "환불").correct


def test_rouge_l_counts_common_units_in_order() -> None:
    # Longest common subsequence "서울 ... 가세요" of 3 and 4 words: F1 = 2 * 2 / 7.
    score = find_scorer("rouge_l")("서울 요금소로 가세요.", "서울 요금소 쪽으로 가세요")
    assert (score.value, score.correct) == (pytest.approx(4 / 7), True)
    by_character = find_scorer("rouge_l", {"unit": "character"})
    # 서울요금소로가세요 and 서울요금소쪽으로가세요 share 9 of 9 and 11 characters.
    assert by_character("서울 요금소로 가세요.", "서울 요금소 쪽으로 가세요").value == pytest.approx(18 / 20)
    assert (
        find_scorer("rouge_l", {"minimum": 0.6})("서울 요금소로 가세요.", "서울 요금소 쪽으로 가세요").correct is False
    )
    assert not find_scorer("rouge_l", {"minimum": 0})("", "답").correct, "an empty answer is never right"


def test_chrf_is_that_of_sacrebleu() -> None:
    score = find_scorer("chrf")
    assert score("서울 요금소", "서울 요금소").value == pytest.approx(1)
    # Characters without spaces: unigrams 2 of 3 match, no pair does beyond one of two; F2 over the orders there are.
    assert 0 < (score("가나다", "가나라").value or 0) < 0.67
    assert score("가나다", "라마바").value == 0
    plus = find_scorer("chrf", {"words": 2})("서울 요금소로", "서울 요금소")
    assert plus.value != score("서울 요금소로", "서울 요금소").value


def test_fields_may_be_scored_by_their_share() -> None:
    half = find_scorer("json_fields", {"minimum": 0.5})
    wanted = '{"분류": "요금", "긴급": true}'
    assert half('{"분류": "요금", "긴급": 1}', wanted).value == 0.5
    assert half('{"분류": "요금", "긴급": 1}', wanted).correct
    assert not find_scorer("json_fields")('{"분류": "요금", "긴급": 1}', wanted).correct
    assert find_scorer("json_fields")('{"분류": "요금", "긴급": true, "노선": 1}', wanted).correct, (
        "more fields are free"
    )
    assert find_scorer("json_valid")("{}", wanted).correct
    assert not find_scorer("json_valid")("[]", wanted).correct


def test_options_that_a_scorer_lacks_are_refused() -> None:
    with pytest.raises(BadInputError, match=r"'tolerence', expected an option of numeric: tolerance, relative, which"):
        find_scorer("numeric", {"tolerence": 1})
    with pytest.raises(BadInputError, match="it has none"):
        find_scorer("exact", {"minimum": 1})


def test_the_best_of_several_right_answers_counts_and_each_case_has_its_scorer() -> None:
    def result(name: str, answer: str, **fields: object) -> CaseResult:
        return CaseResult.model_validate(
            {"id": name, "model": "m", "key": "0", "answer": answer, "latency_ms": 1, **fields}
        )

    scored = score_results(
        [
            result("a", "서울", expected="부산", alternatives=("서울", "대구")),
            result("b", "예", expected="예", choices=("아니오", "예"), scorer="choice"),
            result("c", "약 11", expected="10", scorer="numeric", options={"tolerance": 1}),
            result("d", "좋은 답", expected="답", scorer="judge"),
        ],
        "exact",
    )
    assert [(case.correct, case.scorer) for case in scored] == [
        (True, "exact"),
        (True, "choice"),
        (True, "numeric"),
        (False, "judge"),
    ]
