"""Insults are found, also disguised; the words of highways and law that look like them are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.gates import toxicity
from tollgate.gates.text_buffers import text_column
from tollgate.gates.training import train_toxicity


@pytest.mark.parametrize(
    "text",
    [
        "이 씨발 놈들아",
        "시 발 환불 안 해줘?",
        "씨1발 진짜",
        "ㅅㅂ 왜 안 돼",
        "병신 같은 직원",
        "개 새 끼들",
        "미친놈들이네",
        "닥쳐라",
        "ㅄ아",
        "죽여버린다",
    ],
)
def test_toxic_texts(text: str) -> None:
    assert toxicity.score(text) >= 0.5


@pytest.mark.parametrize(
    "text",
    [
        "카드를 다시 발급해 주세요",
        "혹시 발생하면 시발역에서 즉시 발송",
        "단말기 전원이 꺼져 버려요. 불이 꺼져 있어요",
        "사고에 영향을 미친 운전자와 미친 듯이 달리는 차",
        "고라니 새끼가 죽어 있어요. 저 새끼 고라니를 치워 주세요",
        "휴게소에 쓰레기 같은 것이 쌓여 있고 음식이 쓰레기통에",
        "5개년 계획, 병신년, 등신대, 새끼손가락",
    ],
)
def test_clean_texts(text: str) -> None:
    assert toxicity.lexicon_score(text) == 0
    assert toxicity.score(text) < 0.5


def test_the_worst_turn_counts() -> None:
    assert toxicity.worst(["안녕하세요", "이 병신아"]) == toxicity.score("이 병신아")
    assert toxicity.worst([]) == 0


INSULT = "이 기자는 진짜 역겹다 나가 죽어라 쓰레기야"
CLEAN = "하이패스 단말기를 새로 등록하려고 합니다. 어디로 가면 되는지 알려 주세요. "


def test_what_the_lexicon_does_not_know_is_learned() -> None:
    assert toxicity.lexicon_score(INSULT) == 0
    assert toxicity.score(INSULT) >= 0.5


def test_a_long_text_is_as_toxic_as_its_worst_passage() -> None:
    assert toxicity.score(CLEAN * 20) < 0.1
    assert toxicity.score(f"{CLEAN * 20}\n{INSULT}\n{CLEAN * 20}") == toxicity.score(INSULT)


def test_a_column_scores_as_its_texts_do() -> None:
    texts = [INSULT, "", CLEAN * 20, "ㅅㅂ", "?!~ㅋㅎ^^", "plain English", "개\n새끼"]
    scores = toxicity.score_column(texts)
    assert scores.dtype == np.float32
    assert scores.round(3).tolist() == pytest.approx([toxicity.score(text) for text in texts], abs=1e-3)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert toxicity.score_column([]).tolist() == []


def test_all_scores_at_once_are_those_of_each() -> None:
    texts = [INSULT, "", CLEAN * 20, "한남충", "개\n새끼", "여자들이 뭐 어쨌다고"]
    found = toxicity.score_columns(texts)
    assert found.toxicity.tolist() == toxicity.score_column(texts).tolist()
    assert found.hate.tolist() == toxicity.hate_column(texts).tolist()
    assert found.bias.tolist() == toxicity.bias_column(texts).tolist()


RUDE = "연기 진짜 못하네"


def test_texts_are_graded() -> None:
    found = toxicity.score_columns([INSULT, "병신 같은 직원", RUDE, CLEAN * 20, "", "?!~ㅋㅎ^^"])
    assert found.grades() == ["hate", "hate", "offensive", "none", "none", "none"]


def test_a_higher_threshold_never_makes_a_grade_worse() -> None:
    found = toxicity.score_columns([INSULT, "병신 같은 직원", RUDE, "나가 죽어라", "한심한 기사", CLEAN])
    order = ["none", "offensive", "hate"]
    grades = np.array([[order.index(grade) for grade in found.grades(cut)] for cut in (0.0, 0.3, 0.5, 0.7, 0.9, 1.0)])
    assert (np.diff(grades, axis=0) <= 0).all()
    assert grades[0].min() == 1  # everything is offensive from 0 on
    assert grades.max() == 2


def test_every_slur_is_met_in_a_column() -> None:
    slurs = "한남충 김치녀 된장녀 맘충 틀딱 급식충 짱깨 쪽발이 깜둥이 똥꼬충 흑형충 장애년 보지년 걸레년 창녀"
    texts = [*slurs.split(), "조선족 새끼", "애자새끼", "개자식", "니 엄마 년", "돌대가리", "인간 쓰레기"]
    by_lexicon = [toxicity.lexicon_score(text) for text in texts]
    assert min(by_lexicon) >= 0.7
    assert toxicity.lexicon_column(text_column(texts)).tolist() == pytest.approx(by_lexicon)
    assert (toxicity.score_column(texts) >= np.array(by_lexicon, np.float32)).all()


@pytest.mark.parametrize("entry", toxicity._LEXICON, ids=lambda entry: entry.pairs[0])
@given(data=st.data())
def test_whatever_an_entry_of_the_lexicon_matches_is_searched_for_it(
    entry: toxicity._Entry, data: st.DataObject
) -> None:
    text = data.draw(st.from_regex(entry.pattern))
    found = toxicity.lexicon_column(text_column([text]))[0]
    assert found == pytest.approx(toxicity.lexicon_score(text))
    assert found > 0


def test_signs_alone_are_not_toxic() -> None:
    assert toxicity.score(":::ㅋㅠ?.ㅎㅋ!ㅇ,ㅇ?~:") == 0


def test_bias_is_told_from_what_is_none() -> None:
    biased, rude, clean = toxicity.bias_column(["한남들은 군대나 가라 여자들이 뭐 어쨌다고", "연기 진짜 못하네", CLEAN])
    assert biased >= 0.5 > max(rude, clean)


def test_what_is_in_between_sets_no_threshold() -> None:
    bad = [f"{number}번 기자 꺼져라 역겨운 쓰레기" for number in range(40)]
    good = [f"{number}번째 방송 정말 재밌게 봤어요" for number in range(40)]
    between = [f"{number}번 배우는 노래만 불러라" for number in range(40)]
    grade = {**dict.fromkeys(bad, 1.0), **dict.fromkeys(good, -1.0), **dict.fromkeys(between, 0.0)}
    comments = [train_toxicity.Comment(text, {"hate": value}) for text, value in grade.items()]
    clean = [f"{number}번 창구에서 접수합니다." for number in range(40)]
    scorer = train_toxicity.train(comments, clean, ["hate"], 3)["hate"]
    low, middle, high = (np.median(scorer.raw(text_column(some))) for some in (good, between, bad))
    assert low < middle < high
    turned = [train_toxicity.Comment(text, {"hate": value or 1.0}) for text, value in grade.items()]
    assert train_toxicity.train(turned, clean, ["hate"], 3)["hate"].centre != scorer.centre
    assert [comments[-1].shows("hate"), comments[-1].judged("hate")] == [False, False]
    assert [turned[-1].shows("hate"), turned[-1].judged("hate")] == [True, True]


def test_training_gives_the_same_weights_again() -> None:
    bad = [f"{number}번 기자 꺼져라 역겨운 쓰레기" for number in range(40)]
    good = [f"{number}번째 방송 정말 재밌게 봤어요" for number in range(40)]
    comments = [train_toxicity.Comment(text, {"toxicity": 1.0 if text in bad else -1.0}) for text in bad + good]
    clean = [f"{number}번 창구에서 접수합니다." for number in range(40)]
    first, second = (train_toxicity.train(comments, clean, ["toxicity"], 3)["toxicity"] for _ in range(2))
    assert (first.target.weights == second.target.weights).all()
    assert (first.slope, first.centre) == (second.slope, second.centre)
    scores = first(text_column(["저 기자 꺼져라 역겨운 쓰레기", "정말 재밌게 봤어요"]))
    assert scores[0] > 0.5 > scores[1]


@pytest.mark.real_data
def test_no_hit_of_the_lexicon_is_missed_by_what_goes_before_it() -> None:
    data = Path(__file__).parents[4] / "shared" / "data"
    if not data.is_dir():
        pytest.skip("the data folder beside the project is not there")
    comments = train_toxicity.read_comments(data / "korean-hate-speech" / "train.tsv")
    texts = [comment.text for comment in comments]
    by_lexicon = np.array([toxicity.lexicon_score(text) for text in texts], np.float32)
    assert (by_lexicon > 0).sum() > 100
    assert (toxicity.lexicon_column(text_column(texts)) == by_lexicon).all()
    assert (toxicity.score_column(texts) >= by_lexicon).all()
