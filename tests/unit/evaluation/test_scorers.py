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
    with pytest.raises(BadInputError, match="contains, exact, json_exact"):
        find_scorer("rouge")
