"""``tollgate dataset``: one JSON object on standard output, progress beside it, and the exit status that says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tollgate.dataset.commands import app
from tollgate.settings import settings


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of twenty good rows, and a home for this test alone."""
    monkeypatch.setattr(settings(), "home", tmp_path / "home")
    roads = ["경부", "영동", "서해안", "중부내륙", "남해", "호남", "중앙", "동해", "울산", "서울양양"]
    troubles = ("노면에 큰 구멍이 생겨 차가 흔들렸습니다", "화장실 청소가 안 되어 냄새가 심합니다")
    rows = [
        {"question": f"{road}고속도로 {trouble}", "answer": f"접수번호 {number}-{kind}번으로 알렸습니다."}
        for number, road in enumerate(roads)
        for kind, trouble in enumerate(troubles)
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def _run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def _json(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_prepare_log_and_stats(source: Path) -> None:
    first, again = (_run("prepare", source, "--name", "calls", "--json") for _ in range(2))
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert (_json(first)["version"], _json(first)["created"], _json(again)["created"]) == ("calls@v1", True, False)
    assert "Duplicates · 중복" in first.stderr
    listed = _json(_run("log", "calls", "--json"))
    assert [one["version"] for one in listed["versions"]] == ["calls@v1"]
    assert _json(_run("stats", "calls@latest", "--json"))["statistics"]["rows"] == {
        "train": 16,
        "validation": 2,
        "test": 2,
    }
    for command in (["log", "calls"], ["stats", "calls@v1"]):
        shown = _run(*command)
        assert (shown.exit_code, "calls@v1" in shown.stdout) == (0, True)


def test_exit_statuses_say_why(source: Path, tmp_path: Path) -> None:
    strict = tmp_path / "strict.json"
    strict.write_text('{"min_rows": 100}')
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"min_row": 100}')
    refused = _run("prepare", source, "-n", "calls", "--settings", strict, "--json")
    assert (refused.exit_code, _json(refused)["ok"]) == (1, False)
    assert "at least 100 rows" in _json(refused)["error"]
    for command in (
        ["prepare", tmp_path / "nothing.json", "-n", "calls"],
        ["prepare", source, "-n", "../calls"],
        ["prepare", source, "-n", "calls", "--settings", wrong],
        ["prepare", source, "-n", "calls", "--settings", source],
        ["log", "calls"],
        ["stats", "calls"],
    ):
        result = _run(*command)
        assert result.exit_code == 2, command
        assert result.stderr.strip()
        assert result.stdout == ""
