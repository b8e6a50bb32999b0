"""Texts of test sets: what a row asks, and no labels, answers or boilerplate."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tollgate.dataset.test_sets import read_texts
from tollgate.errors import BadInputError

PASSAGE = "로마 시대의 오리엔트는 제국의 동부 지방과 그 밖에 있는 다른 나라에 두루 쓰이는 말이었다고 한다."
CASE = {
    "messages": [
        {
            "role": "system",
            "content": "당신은 고속도로 고객센터의 상담원입니다. 친절하고 짧게, 아는 것만 답하세요.",
        },
        {"role": "user", "content": "통행료가 두 번 나갔어요"},
        {"role": "assistant", "content": '{"분류": "통행료"}'},
    ]
}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("cases.jsonl", json.dumps(CASE), ["통행료가 두 번 나갔어요"]),
        ("cases.json", json.dumps([CASE, CASE]), ["통행료가 두 번 나갔어요"]),
        (
            "boolq.tsv",
            f"ID\tText\tQuestion\tAnswer\n1\t{PASSAGE}\t오리엔트는 동부 지방인가?\tTrue\n",
            ["오리엔트는 동부 지방인가?", PASSAGE],
        ),
        (
            "copa.tsv",
            "sentence\tquestion\t1\t2\tAnswer\n전쟁이 시작되었다.\t결과\t병사들이 돌아왔다.\t병사들이 파견되었다.\t2\n",
            ["전쟁이 시작되었다.", "병사들이 돌아왔다.", "병사들이 파견되었다."],
        ),
        ("short.csv", "Text,Label\n만족,1\n", ["만족"]),
    ],
)
def test_what_counts(tmp_path: Path, name: str, text: str, expected: list[str]) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_texts(tmp_path / name).to_pylist() == expected
    with gzip.open(tmp_path / f"{name}.gz", "wt", encoding="utf-8") as file:
        file.write(text)
    assert read_texts(tmp_path / f"{name}.gz").to_pylist() == expected


def test_a_file_without_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"label": 1}\n')
    with pytest.raises(BadInputError, match="holds no text"):
        read_texts(tmp_path / "rows.jsonl")


def test_kobest_is_read() -> None:
    folder = Path(__file__).parents[4] / "shared" / "data" / "kobest"
    if not folder.is_dir():
        pytest.skip("KoBEST is not in the data folder beside the project")
    assert {path.parent.name: len(read_texts(path)) > 500 for path in folder.rglob("test.tsv")} == dict.fromkeys(
        ("BoolQ", "COPA", "HellaSwag", "SentiNeg", "WiC"), True
    )
