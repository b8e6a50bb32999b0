"""Duplicates are found exactly; different answers, different places and unlike texts are none."""

from __future__ import annotations

import random
from itertools import combinations

from tollgate.gates import dedup

LONG = "경부고속도로 부산 방향 칠곡휴게소 지나서 이차로에 큰 구멍이 생겨서 차가 많이 흔들렸습니다"
JSON_A = '{"분류":"포트홀신고","긴급":true}'
JSON_B = '{"분류":"하이패스","긴급":false}'


def _find(rows: list[tuple[str, str]], ranks: list[tuple[float, ...]] | None = None) -> dedup.Duplicates:
    questions, answers = zip(*rows, strict=True)
    return dedup.find_duplicates(questions, answers, ranks or [(0.0,)] * len(rows))


def _dropped(found: dedup.Duplicates) -> list[tuple[int, int, bool]]:
    return [(one.row, one.kept, one.exact) for one in found.duplicates]


def test_spaces_and_case_make_no_difference() -> None:
    found = _find([("Hi-Pass  카드\n문의", "네"), ("hi-pass 카드 문의 ", " 네")])
    assert _dropped(found) == [(1, 0, True)]
    assert found.cluster == [0, 0]


def test_json_answers_are_compared_by_value() -> None:
    assert _dropped(_find([(LONG, JSON_A), (LONG, '{ "긴급": true, "분류": "포트홀신고" }')])) == [(1, 0, True)]


def test_a_near_duplicate_with_the_same_answer_goes() -> None:
    found = _find([(LONG, JSON_A), (LONG + ".", JSON_A)])
    assert _dropped(found) == [(1, 0, False)]
    assert found.duplicates[0].jaccard == dedup.jaccard(dedup.fold(LONG), dedup.fold(LONG + "."))


def test_another_answer_is_a_conflict_and_stays_in_the_cluster() -> None:
    found = _find([(LONG, JSON_A), (LONG, JSON_B), (LONG + ".", JSON_B)])
    assert _dropped(found) == [(2, 1, False)]
    assert found.conflicts == [[0, 1]]
    assert found.cluster == [0, 0, 0]


def test_answers_that_differ_in_a_number_are_different() -> None:
    answer = "이의신청은 처분이 있음을 안 날부터 {} 이내에 관할 행정청에 서면으로 제기할 수 있습니다"
    found = _find([(LONG, answer.format("30일")), (LONG, answer.format("90일"))])
    assert found.duplicates == []
    assert found.conflicts == [[0, 1]]


def test_the_same_answer_to_other_questions_is_no_duplicate() -> None:
    rows = [(f"{route}선에서 사고가 났어요", JSON_A) for route in ("경부", "영동", "서해안", "중부내륙")]
    assert _find(rows) == dedup.Duplicates([0, 1, 2, 3], [], [])


def test_the_best_is_kept() -> None:
    found = _find([(LONG, JSON_A), (LONG + ".", JSON_A), (LONG, JSON_A)], [(0.1,), (0.9,), (0.5,)])
    assert _dropped(found) == [(0, 1, True), (2, 1, False)]


def test_no_row_goes_through_a_chain_of_others() -> None:
    words = [f"낱말{number:03d}" for number in range(60)]
    texts = [" ".join(words[start : start + 40]) for start in (0, 3, 6)]
    assert dedup.jaccard(texts[0], texts[1]) >= 0.8 > dedup.jaccard(texts[0], texts[2])
    found = _find([(text, "네") for text in texts])
    assert _dropped(found) == [(1, 0, False)]
    assert found.cluster == [0, 0, 0]


def test_recall_and_precision_against_all_pairs() -> None:
    rng = random.Random(4)
    texts = ["".join(rng.choices("가나다라마바사아자차카타파하", k=80)) for _ in range(150)]
    for text in texts[:100]:
        characters = list(text)
        for place in rng.sample(range(80), rng.randint(0, 3)):
            characters[place] = "힣"
        texts.append("".join(characters))
    true = {
        (one, other)
        for one, other in combinations(range(len(texts)), 2)
        if dedup.jaccard(texts[one], texts[other]) >= 0.8
    }
    found = _find([(text, "네") for text in texts])
    met = {tuple(sorted((one.row, one.kept))) for one in found.duplicates}
    assert met <= true
    assert len(met) >= 0.98 * len(true)
