"""Single gates by hand: a JSON object a text, in the order of the input, and nothing of the text in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tollgate.dataset.commands import app

PHONE, MAIL = "010-2345-6789", "hong@example.co.kr"
TEXTS = [
    f"제 번호는 {PHONE}이고 메일은 {MAIL}입니다.",
    "고속도로 노면에 큰 구멍이 생겨 차가 심하게 흔들렸습니다.",
    "",
    "고속도로 노면에 큰 구멍이 생겨 차가 심하게 흔들렸습니다!",
    "야 이 씨발 개새끼야",
]


def _run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def _answers(*words: object) -> list[dict[str, Any]]:
    result = _run(*words)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"q": text, "a": "네, 알겠습니다. 바로 처리하겠습니다."}, ensure_ascii=False) for text in TEXTS]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("gate", ["pii", "duplicates", "toxicity", "quality"])
def test_every_text_has_its_answer_in_order(gate: str, file: Path, rows: Path) -> None:
    plain, from_json = _answers(gate, file), _answers(gate, rows, "--field", "q")
    assert [answer["line"] for answer in plain] == [1, 2, 3, 4, 5]
    assert plain == from_json


def test_personal_data_is_placed_but_never_shown(file: Path) -> None:
    result = _run("pii", file)
    assert PHONE not in result.output
    assert MAIL not in result.output
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    found = {one["kind"]: TEXTS[0][one["start"] : one["end"]] for one in answers[0]["findings"]}
    assert found == {"phone": PHONE, "email": MAIL}
    assert all(0 < one["confidence"] <= 1 for one in answers[0]["findings"])
    assert [answer["findings"] for answer in answers[1:]] == [[]] * 4
    (only,) = _answers("pii", file, "--kind", "email")[0]["findings"]
    assert only["kind"] == "email"
    assert [one["kind"] for one in _answers("pii", file, "--allow", PHONE)[0]["findings"]] == ["email"]


def test_duplicates_name_the_line_that_is_kept(file: Path) -> None:
    answers = _answers("duplicates", file)
    assert [answer["kept"] for answer in answers] == [1, 2, 3, 2, 5]
    assert [answer["cluster"] for answer in answers] == [1, 2, 3, 2, 5]
    assert 0.8 <= answers[3]["jaccard"] < 1
    assert [answer["kept"] for answer in _answers("duplicates", file, "--threshold", "0.99")] == [1, 2, 3, 4, 5]


def test_toxicity_has_a_score_and_a_label(file: Path) -> None:
    answers = _answers("toxicity", file)
    assert [answer["label"] for answer in answers] == ["none"] * 4 + ["hate"]
    assert all(0 <= answer[key] <= 1 for answer in answers for key in ("score", "hate"))
    everything = _answers("toxicity", file, "--threshold", "1")
    assert [answer["label"] for answer in everything][:4] == ["none"] * 4


def test_quality_of_texts_and_of_pairs(file: Path, rows: Path) -> None:
    alone, pairs = _answers("quality", file), _answers("quality", rows, "--field", "q", "--answer-field", "a")
    assert alone[1]["score"] > 0.8
    assert alone[2]["score"] == 0
    assert "relevance" not in alone[1]["parts"]
    assert {"relevance", "question_length", "answer_length"} <= set(pairs[1]["parts"])
    assert all(0 <= value <= 1 for answer in alone + pairs for value in [answer["score"], *answer["parts"].values()])


def test_wrong_uses_end_with_2_and_say_why(file: Path, rows: Path, tmp_path: Path) -> None:
    for words, said in (
        (("pii", tmp_path / "none.txt"), "nothing there"),
        (("pii", rows), "one of: q, a"),
        (("pii", rows, "--field", "x"), "line 1, x"),
        (("pii", file, "--kind", "shoe"), "resident_number"),
        (("pii", file, "--names", "best"), "fast, accurate, off"),
        (("duplicates", file, "--threshold", "0"), "above 0"),
        (("toxicity", file, "--threshold", "1.5"), "at most 1"),
        (("quality", rows, "--answer-field", "a"), "--field"),
    ):
        result = _run(*words)
        assert (result.exit_code, result.stdout) == (2, ""), words
        assert said in result.stderr
