"""``tollgate dataset``: one JSON object on standard output, progress beside it, and the exit status that says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.dataset.example_version import write_version
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
        ["diff", "calls@v1", "calls@v2"],
        ["tag", "calls@v1", "golden"],
        ["archive", "calls@v1", "--reason", "old"],
    ):
        result = _run(*command)
        assert result.exit_code == 2, command
        assert result.stderr.strip()
        assert result.stdout == ""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with two versions of one dataset."""
    monkeypatch.setattr(settings(), "home", tmp_path / "home")
    folder = settings().datasets
    write_version(folder, "calls", ["같은 질문", "제 번호는 010-1234-5678입니다"])
    write_version(folder, "calls", ["같은 질문", "새 질문", "또 새 질문"])
    return folder


def test_a_difference_in_numbers_and_samples(home: Path) -> None:
    found = _json(_run("diff", "calls@v1", "calls@latest", "--json"))
    assert (found["unchanged"], found["added"], found["removed"], found["changed"]) == (6, 2, 1, 0)
    assert [one["question"] for one in found["added_samples"]] == ["새 질문", "또 새 질문"]
    assert [one["question"] for one in found["removed_samples"]] == ["제 번호는 [전화번호]입니다"]
    shown = _run("diff", "calls@v1", "calls@v2")
    assert (shown.exit_code, "새 질문" in shown.stdout, "010-1234" in shown.stdout) == (0, True, False)
    assert _json(_run("diff", "calls@v1", "calls@v2", "--samples", "1", "--json"))["added_samples"][1:] == []


def test_tags_and_states_show_in_the_log_with_who_and_why(home: Path) -> None:
    assert _json(_run("tag", "calls@v1", "golden", "--by", "kim", "--json"))["tags"] == ["golden"]
    assert _run("deprecate", "calls@v2", "--reason", "wrong labels", "--by", "lee").exit_code == 0
    assert _json(_run("diff", "calls@golden", "calls@latest", "--json"))["identical"]
    newest, oldest = _json(_run("log", "calls", "--json"))["versions"]
    assert (newest["state"], newest["reason"], newest["by"]) == ("deprecated", "wrong labels", "lee")
    assert (oldest["state"], oldest["tags"]) == ("active", ["golden"])
    assert [(event["action"], event["by"]) for event in newest["events"]] == [("deprecate", "lee")]
    shown = _run("log", "calls").stdout
    assert "golden" in shown
    assert "deprecate by lee: wrong labels" in shown
    for words, said in (
        (["archive", "calls@v1", "--reason", "old"], "is archived (old), tags: golden"),
        (["untag", "calls@v1", "golden"], "is archived"),
        (["restore", "calls@v2", "--reason", "fixed"], "is active"),
    ):
        result = _run(*words)
        assert (result.exit_code, said in result.stdout) == (0, True), words


def test_the_report_is_named_and_can_be_written_anew(home: Path, tmp_path: Path) -> None:
    page = home / "calls" / "v2" / "report.html"
    assert _run("report", "calls@latest").stdout == f"{page}\n"
    copy = tmp_path / "copy.html"
    assert _run("report", "calls@latest", copy).exit_code == 0
    assert copy.read_text() == page.read_text()
    page.unlink()
    assert _run("report", "calls@v2").exit_code == 2


def test_settings_can_be_given_one_by_one(source: Path) -> None:
    words = ["prepare", source, "-n", "calls", "--json", "--set"]
    made = _json(_run(*words, "seed=5", "--set", "duplicates=report"))
    assert (made["manifest"]["gate_settings"]["seed"], made["manifest"]["gate_settings"]["duplicates"]) == (5, "report")
    assert Path(made["report"]).is_file()
    for wrong in ("seed", "sead=5", "seed=x"):
        result = _run(*words, wrong)
        assert (result.exit_code, result.stderr.strip() != "") == (2, True), wrong


def test_an_order_form_from_the_command_line(tmp_path: Path) -> None:
    form, chats, more = tmp_path / "form.json", tmp_path / "chats.jsonl", tmp_path / "more.jsonl"
    form.write_text(_run("order-form", "show").stdout, encoding="utf-8")
    chat = {
        "prompt": "안녕하세요, 저는 김민수입니다. 발렌타인 디너 심플로 주문할게요.",
        "completion": "접수되었습니다.",
    }
    chats.write_text(json.dumps(chat, ensure_ascii=False) + "\n", encoding="utf-8")
    refused = _run("order-form", "check", chats, "--form", form)
    assert (refused.exit_code, "50" in refused.stdout) == (1, True)
    assert "dialogues (1 of 50)" in refused.stderr
    found = {one["name"]: one["found"] for one in _json(_run("order-form", "check", chats, "--json"))["items"]}
    assert (found["dinner: valentine"], found["dinner: french"], found["valentine × simple"]) == (1, 0, 1)
    form.write_text('{"min_dialogues": 1}')
    assert _run("order-form", "check", chats, "--form", form).exit_code == 0
    made = _json(_run("order-form", "augment", chats, more, "--seed", "4", "--copies", "2", "--json"))
    assert (made["seed"], made["originals"], made["copied"]) == (4, 1, 2)
    assert len(more.read_text(encoding="utf-8").splitlines()) == 3
    for words in (["augment", chats, more], ["augment", chats, tmp_path / "x", "--vary", "shoes"], ["check", form]):
        assert _run("order-form", *words).exit_code == 2, words
