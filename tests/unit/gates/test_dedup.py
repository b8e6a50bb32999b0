"""Duplicates are found exactly; different answers, different places and unlike texts are none."""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any

import pyarrow as pa
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from tollgate.gates import dedup

LONG = "경부고속도로 부산 방향 칠곡휴게소 지나서 이차로에 큰 구멍이 생겨서 차가 많이 흔들렸습니다"
JSON_A = '{"분류":"포트홀신고","긴급":true}'
JSON_B = '{"분류":"하이패스","긴급":false}'
SYLLABLES = "가나다라마바사아자차카타파하"


def _find(rows: list[tuple[str, str]], ranks: list[Any] | None = None, threshold: float = 0.8) -> dedup.Duplicates:
    questions, answers = [row[0] for row in rows], [row[1] for row in rows]
    return dedup.find_duplicates(questions, answers, ranks or [0.0] * len(rows), threshold)


def _dropped(found: dedup.Duplicates) -> list[tuple[int, int, bool]]:
    return list(zip(found.row.tolist(), found.kept.tolist(), found.exact.tolist(), strict=True))


def _changed(text: str, rng: random.Random, changes: int) -> str:
    """A text with so many of its characters replaced."""
    characters = list(text)
    for place in rng.sample(range(len(text)), changes):
        characters[place] = rng.choice("힣흐흔흘")
    return "".join(characters)


def _random_text(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(SYLLABLES, k=length))


def _alike(texts: list[str], threshold: float = 0.8) -> set[tuple[int, int]]:
    """All pairs of texts at the threshold, by comparing each with each."""
    folded = [dedup.fold(text) for text in texts]
    return {
        (one, other)
        for one, other in combinations(range(len(texts)), 2)
        if dedup.jaccard(folded[one], folded[other]) >= threshold
    }


def test_spaces_and_case_make_no_difference() -> None:
    found = _find([("Hi-Pass  카드\n문의", "네"), ("hi-pass 카드 문의 ", " 네")])
    assert _dropped(found) == [(1, 0, True)]
    assert found.cluster.tolist() == [0, 0]


def test_json_answers_are_compared_by_value() -> None:
    assert _dropped(_find([(LONG, JSON_A), (LONG, '{ "긴급": true, "분류": "포트홀신고" }')])) == [(1, 0, True)]


def test_json_answers_that_differ_in_case_are_different() -> None:
    found = _find([(LONG, '{"노선": "A"}'), (LONG, '{"노선": "a"}')])
    assert _dropped(found) == []
    assert found.conflicts == [[0, 1]]


def test_what_only_looks_like_json_is_text() -> None:
    broken = "{ 이 답은 JSON이 아니고 그냥 괄호로 시작하는 문장입니다"
    assert _dropped(_find([(LONG, broken), (LONG, broken + "."), (LONG, "[" * 300 + "]" * 300)])) == [(1, 0, False)]


def test_a_near_duplicate_with_the_same_answer_goes() -> None:
    found = _find([(LONG, JSON_A), (LONG + ".", JSON_A)])
    assert _dropped(found) == [(1, 0, False)]
    assert found.jaccard[0] == pytest.approx(dedup.jaccard(dedup.fold(LONG), dedup.fold(LONG + ".")))


def test_another_answer_is_a_conflict_and_stays_in_the_cluster() -> None:
    found = _find([(LONG, JSON_A), (LONG, JSON_B), (LONG + ".", JSON_B)])
    assert _dropped(found) == [(2, 1, False)]
    assert (found.conflicts, found.conflict_count) == ([[0, 1]], 1)
    assert found.cluster.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("one", "other"), [("30일", "90일"), ("30일", "30일 2회"), ("３０일", "30일"), ("3 0일", "30일")]
)
def test_answers_that_differ_in_a_number_are_different(one: str, other: str) -> None:
    answer = "이의신청은 처분이 있음을 안 날부터 {} 이내에 관할 행정청에 서면으로 제기할 수 있습니다"
    found = _find([(LONG, answer.format(one)), (LONG, answer.format(other))], threshold=0.5)
    assert _dropped(found) == []
    assert found.conflicts == [[0, 1]]


def test_alike_answers_with_the_same_numbers_are_the_same() -> None:
    answer = "이의신청은 처분이 있음을 안 날부터 30일 이내에 관할 행정청에 서면으로 제기할 수 있습니다"
    assert _dropped(_find([(LONG, answer), (LONG, answer + ".")])) == [(1, 0, False)]


def test_the_same_answer_to_other_questions_is_no_duplicate() -> None:
    rows = [(f"{route}선에서 사고가 났어요", JSON_A) for route in ("경부", "영동", "서해안", "중부내륙")]
    found = _find(rows)
    assert (found.cluster.tolist(), _dropped(found), found.conflicts) == ([0, 1, 2, 3], [], [])


@pytest.mark.parametrize("ranks", [[0.1, 0.9, 0.5], [(1, 0.1), (1, 0.9), (0, 1.0)], [(0, 1), (1, 0), (0, 2)]])
def test_the_best_is_kept(ranks: list[Any]) -> None:
    found = _find([(LONG, JSON_A), (LONG + ".", JSON_A), (LONG, JSON_A)], ranks)
    assert [(row, kept) for row, kept, _ in _dropped(found)] == [(0, 1), (2, 1)]


def test_an_exact_duplicate_names_the_row_kept_for_its_like() -> None:
    found = _find([(LONG, JSON_A), (LONG + ".", JSON_A), (LONG, JSON_A)], [0.1, 0.9, 0.5])
    assert _dropped(found) == [(0, 1, True), (2, 1, False)]
    assert found.jaccard[0] == found.jaccard[1] < 1


def test_no_row_goes_through_a_chain_of_others() -> None:
    words = [f"낱말{number:03d}" for number in range(60)]
    texts = [" ".join(words[start : start + 40]) for start in (0, 3, 6)]
    assert dedup.jaccard(texts[0], texts[1]) >= 0.8 > dedup.jaccard(texts[0], texts[2])
    found = _find([(text, "네") for text in texts])
    assert _dropped(found) == [(1, 0, False)]
    assert found.cluster.tolist() == [0, 0, 0]


def test_nothing_in_nothing_out() -> None:
    found = _find([])
    assert (found.cluster.size, found.row.size, found.conflicts) == (0, 0, [])
    assert _dropped(_find([("", ""), ("", ""), (" ", "네")])) == [(1, 0, True)]


def test_conflicts_shown_are_capped_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "CONFLICTS_SHOWN", 2)
    monkeypatch.setattr(dedup, "CONFLICT_ROWS_SHOWN", 3)
    found = _find([(f"질문 {letter}", answer) for answer in "가나다라" for letter in "abc"])
    assert (found.conflicts, found.conflict_count) == ([[0, 3, 6], [1, 4, 7]], 3)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_small_inputs_against_all_pairs(data: st.DataObject) -> None:
    """Clusters are the components of all true pairs; who is dropped repeats who is kept, and nobody kept repeats."""
    text = st.text(alphabet="가나A b1", max_size=14)
    rows = data.draw(
        st.lists(st.tuples(text, st.sampled_from(["네", "네 ", "아니오", '{"a":1}', '{ "a": 1}'])), max_size=25)
    )
    ranks = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    found = _find(rows, ranks, 0.6)
    true = _alike([question for question, _ in rows], 0.6)
    parent = list(range(len(rows)))
    for _ in rows:
        for one, other in true:
            parent[one] = parent[other] = min(parent[one], parent[other])
    assert found.cluster.tolist() == parent
    answers = [{"네": 0, "네 ": 0, "아니오": 1}.get(answer, 2) for _, answer in rows]
    repeats = {(one, other) for one, other in true if answers[one] == answers[other]}
    dropped = set(found.row.tolist())
    for row, kept, likeness in zip(found.row.tolist(), found.kept.tolist(), found.jaccard.tolist(), strict=True):
        assert kept not in dropped
        assert (min(row, kept), max(row, kept)) in repeats
        assert likeness == pytest.approx(dedup.jaccard(dedup.fold(rows[row][0]), dedup.fold(rows[kept][0])))
        assert (-ranks[kept], kept) < (-ranks[row], row)
    assert not [pair for pair in repeats if not dropped & set(pair)]


def test_recall_at_least_that_of_datasketch() -> None:
    rng = random.Random(4)
    texts = [_random_text(rng, 80) for _ in range(600)]
    texts += [_changed(text, rng, rng.randint(0, 3)) for text in texts[:400]]
    found = _find([(text, "네") for text in texts])
    met = {(min(row, kept), max(row, kept)) for row, kept, _ in _dropped(found)}
    true = {
        pair
        for pair in ((row, row + 600) for row in range(400))
        if dedup.jaccard(texts[pair[0]], texts[pair[1]]) >= 0.8
    }
    index = MinHashLSH(threshold=0.8, num_perm=128)
    peers: set[tuple[int, int]] = set()
    for row, text in enumerate(texts):
        signature = MinHash(num_perm=128)
        signature.update_batch([text[start : start + 5].encode() for start in range(len(text) - 4)])
        peers.update((other, row) for other in index.query(signature))
        index.insert(row, signature)
    assert met <= true
    assert len(met) >= 0.998 * len(true)
    assert len(met) >= len(peers & true)


def test_duplicates_are_found_behind_a_boilerplate() -> None:
    """Most of each text is the same: all share their bands, and few are duplicates."""
    rng = random.Random(5)
    boilerplate = _random_text(rng, 150)
    own = [_random_text(rng, 60) for _ in range(300)]
    own += [_changed(text, rng, 2) for text in own[:100]]
    texts = [boilerplate + text for text in own]
    assert dedup.jaccard(texts[0], texts[1]) < 0.8 <= dedup.jaccard(texts[0], texts[300])
    assert _dropped(_find([(text, "네") for text in texts])) == [(row, row - 300, False) for row in range(300, 400)]


def test_a_crowd_of_alike_questions_keeps_one_row_for_each_answer() -> None:
    texts = [f"{LONG}. {LONG[::-1]} 주문번호 {number}번 취소해 주세요" for number in range(1000, 1600)]
    answers = [f'{{"분류": {number % 7}}}' for number in range(600)]
    found = _find(list(zip(texts, answers, strict=True)))
    assert set(found.cluster.tolist()) == {0}
    assert sorted(set(range(600)) - set(found.row.tolist())) == list(range(7))


def test_alike_answers_are_found_in_a_crowd_of_the_same_question() -> None:
    rng = random.Random(6)
    answers = [_random_text(rng, 80) for _ in range(300)]
    answers += [_changed(text, rng, 1) for text in answers[:100]]
    found = _find([("계속해 줘", answer) for answer in answers])
    assert _dropped(found) == [(row, row - 300, False) for row in range(300, 400)]
    assert found.jaccard.tolist() == [1.0] * 100


def test_rows_known_from_before() -> None:
    earlier = pa.table({"question": ["다른 질문입니다", LONG + ".", LONG], "answer": ["네", JSON_A, JSON_A]})
    questions = [LONG.replace(" ", "  "), LONG + "!", LONG, "새로운 질문입니다", LONG + "!"]
    answers = [JSON_A, JSON_A, JSON_B, "네", JSON_A]
    known = dedup.find_known(questions, answers, earlier["question"], earlier["answer"])
    assert list(zip(known.row.tolist(), known.earlier_row.tolist(), strict=True)) == [(0, 2), (1, 2), (4, 2)]
    assert known.jaccard.tolist() == pytest.approx([1.0] + [dedup.jaccard(LONG, LONG + "!")] * 2)
    only_questions = dedup.find_known(questions, None, earlier["question"], None)
    assert only_questions.row.tolist() == [0, 1, 2, 4]
    assert dedup.find_known(questions, None, [], None).row.size == 0


def test_a_known_row_is_found_in_a_crowd() -> None:
    rng = random.Random(7)
    boilerplate = _random_text(rng, 150)
    earlier = [boilerplate + _random_text(rng, 60) for _ in range(200)]
    known = dedup.find_known([_changed(text, rng, 2) for text in earlier[50:90]], None, earlier, None)
    assert known.row.tolist() == list(range(40))
    assert known.earlier_row.tolist() == list(range(50, 90))
