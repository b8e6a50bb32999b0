from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tollgate.evaluation.cases import write_json_lines
from tollgate.evaluation.commands import read_scored, verdict_command
from tollgate.evaluation.scorers import ScoredCase

app = typer.Typer()
app.command("verdict")(verdict_command)


def write(path: Path, lines: list[dict]) -> str:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def answers(correct: int, total: int) -> list[dict]:
    return [
        {"id": str(i), "expected": '{"분류": "요금"}', "answer": '{"분류":"요금"}' if i < correct else "{}", "x": 1}
        for i in range(total)
    ]


@pytest.mark.parametrize(
    ("correct", "status", "outcome"), [(190, 0, "pass"), (184, 1, "inconclusive"), (170, 1, "fail")]
)
def test_exit_status_and_json(tmp_path: Path, correct: int, status: int, outcome: str) -> None:
    results = write(tmp_path / "cases.jsonl", answers(correct, 200))
    run = CliRunner().invoke(app, ["--results", results, "--json"])
    assert run.exit_code == status
    verdict = json.loads(run.stdout)
    assert (verdict["outcome"], verdict["correct"]) == (outcome, correct)


def test_people_read_the_reasons_in_both_languages(tmp_path: Path) -> None:
    results = write(tmp_path / "cases.jsonl", answers(170, 200))
    champion = write(tmp_path / "champion.jsonl", [{"id": str(i), "correct": i < 195} for i in range(200)])
    run = CliRunner().invoke(app, ["--results", results, "--champion", champion])
    assert run.exit_code == 1
    assert "fail" in run.stdout
    assert "significantly worse than the champion" in run.stdout
    assert "운영 모델보다 유의하게 나쁩니다" in run.stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"id": "a", "correct": true}\n\n{"id": "b", "correct": "yes"}\n', "line 3, correct: found str"),
        (b'{"id": "a", "correct": true}\n{"correct": true}\n', "line 2, id: found no value"),
        (b'{"id": "a", "expected": "x"}\n', "line 1, answer: found no value"),
        (b'{"id": "a", "correct": true}\n\n{"id": "a", "correct": true}\n', "line 3, id: found 'a'"),
        (b'{"id": "a", "corr', "line 1: found a line that is no JSON"),
        (b"", "is empty"),
        (b'{"id": "\xb0\xa1"}', "not text in UTF-8"),
    ],
)
def test_bad_lines_are_named_with_line_and_field(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_bytes(content)
    run = CliRunner().invoke(app, ["--results", str(path), "--json"])
    assert run.exit_code == 2
    assert run.stdout == ""
    assert said in run.stderr


def test_scored_cases_written_to_disk_are_judged_as_they_were(tmp_path: Path) -> None:
    scored = [ScoredCase(id=str(i), correct=i < 190, answer="답", fields={"분류": True}) for i in range(200)]
    path = tmp_path / "deep" / "scored.jsonl"
    write_json_lines(path, scored)
    assert read_scored(path) == scored
    assert [file.name for file in path.parent.iterdir()] == ["scored.jsonl"]


def test_a_missing_file_and_an_unknown_scorer_are_bad_input(tmp_path: Path) -> None:
    absent = CliRunner().invoke(app, ["--results", str(tmp_path / "none.jsonl")])
    assert absent.exit_code == 2
    assert "No such file" in absent.stderr
    results = write(tmp_path / "cases.jsonl", answers(1, 2))
    assert CliRunner().invoke(app, ["--results", results, "--scorer", "rouge"]).exit_code == 2


def test_a_scorer_given_by_name_scores_anew(tmp_path: Path) -> None:
    lines = [{"id": str(i), "correct": False, "expected": "요금", "answer": "통행 요금 안내"} for i in range(200)]
    results = write(tmp_path / "cases.jsonl", lines)
    assert CliRunner().invoke(app, ["--results", results]).exit_code == 1
    assert CliRunner().invoke(app, ["--results", results, "--scorer", "contains"]).exit_code == 0
