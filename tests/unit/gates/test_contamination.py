"""What a test set asks is found in training rows, however spaced; what only looks like it is not."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tollgate.gates import contamination
from tollgate.gates.quality import TURN

PASSAGE = (
    "콜라독립 815는 코카콜라를 대한민국에서 라이선스로 만들어 오던 범양식품이 1998년 4월 1일에 출시한 탄산음료다. "
    "당시 외환 위기의 분위기 속에서 국산 콜라라는 점을 내세워 한때 시장 점유율을 크게 높였다."
)
QUESTION = "하이패스 단말기 등록을 해지하려면 어디로 가야 하나요?"
TESTS = {"passages": pa.array([PASSAGE]), "cases": pa.array([QUESTION, "만족입니다", "사고요"])}
JSON = '{"분류":"하이패스"}'


def found(question: str, answer: str = JSON) -> list[tuple[str, str]]:
    hits = contamination.find([question], [answer], TESTS)
    return list(zip(hits.test, hits.kind, strict=True))


@pytest.mark.parametrize(
    ("question", "answer", "hit"),
    [
        (QUESTION, JSON, ("cases", "near_duplicate")),
        ("아" + QUESTION[1:], JSON, ("cases", "near_duplicate")),
        (f"안녕하세요. 어제 산 차에 대해 여쭙니다. {QUESTION} 답변 부탁드립니다.", JSON, ("cases", "ngram")),
        ("하이패스단말기, 등록을 해지하려면 어디로 가야하나요!! 알려 주세요 제발 급합니다", JSON, ("cases", "ngram")),
        (f"이건 다른 이야기입니다{TURN}{QUESTION}", f"네.{TURN}그렇습니다.", ("cases", "near_duplicate")),
        ("콜라에 대해 알려 주세요", f"네, {PASSAGE[20:100]}", ("passages", "ngram")),
    ],
)
def test_contaminated_rows(question: str, answer: str, hit: tuple[str, str]) -> None:
    assert found(question, answer) == [hit]


@pytest.mark.parametrize(
    "question",
    [
        "만족입니다",
        "사고요",
        "하이패스 단말기 등록은 어디서 하나요?",
        PASSAGE[20:50],
        "",
    ],
)
def test_clean_rows(question: str) -> None:
    assert found(question) == []


def test_the_overlap_is_the_share_of_the_test_text() -> None:
    letters = [sign for sign in PASSAGE if sign.isalnum()]
    part = "".join(letters[7:67])
    hits = contamination.find(["앞의 말 " + part + " 뒤의 말"], [JSON], TESTS)
    assert hits.kind == ["ngram"]
    assert hits.overlap[0] == pytest.approx(60 / len(letters))


def test_every_run_of_fifty_is_found_wherever_it_begins() -> None:
    letters = "".join(sign for sign in PASSAGE if sign.isalnum())
    runs = [letters[start : start + 50] for start in range(len(letters) - 49)]
    hits = contamination.find([f"{number}번 {run}" for number, run in enumerate(runs)], [JSON] * len(runs), TESTS)
    assert hits.row.tolist() == list(range(len(runs)))


def test_rows_are_told_apart_by_test_set() -> None:
    hits = contamination.find([QUESTION, "전혀 다른 질문입니다", PASSAGE + QUESTION], [JSON] * 3, TESTS)
    assert list(zip(hits.row.tolist(), hits.test, strict=True)) == [(0, "cases"), (2, "passages"), (2, "cases")]
    assert hits.overlap[0] == 1


def test_nothing_to_look_for() -> None:
    assert contamination.find(["무엇이든"], [JSON], {"empty": pa.array([], pa.string())}).row.tolist() == []
    assert contamination.find([], [], TESTS).row.tolist() == []


@pytest.mark.real_data
def test_planted_kobest_rows_are_found_among_reviews() -> None:
    data = Path(__file__).parents[4] / "shared" / "data"
    if not data.is_dir():
        pytest.skip("the data folder beside the project is not there")
    import polars as pl

    lines = (data / "kobest" / "BoolQ" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    passages = [line.split("\t")[1] for line in lines]
    reviews = pl.read_parquet(data / "nsmc" / "nsmc_reviews_651k_unique.parquet")["text"].head(20_000).to_list()
    rows = reviews + [f"읽어 보세요: {passage}" for passage in passages]
    hits = contamination.find(rows, [JSON] * len(rows), {"BoolQ": pa.array(passages)})
    assert set(hits.row.tolist()) == set(range(len(reviews), len(rows)))
