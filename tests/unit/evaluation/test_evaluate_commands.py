"""The command from a suite to a report, against a fast server in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from tests.performance.served import PROJECT, fast_server
from typer.testing import CliRunner

from tollgate.evaluation.commands import verdict_command
from tollgate.evaluation.evaluate_commands import evaluate_command

app = typer.Typer()
app.command("evaluate")(evaluate_command)
app.command("verdict")(verdict_command)


@pytest.fixture
def server() -> Iterator[str]:
    with fast_server(delay=0.02) as address:
        yield address


def suite(path: Path, count: int, wrong: int = 0) -> Path:
    """Cases whose right answer is the question, which is what the server answers; the first ``wrong`` ones are not."""
    lines = [
        {"id": n, "category": f"k{n % 2}", "question": f"q{n}", "expected": "다른 답" if n < wrong else f"q{n}"}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def asked(server: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{server}/asked") as answer:
        return json.loads(answer.read())


def test_a_suite_becomes_cases_a_report_and_a_verdict(server: str, tmp_path: Path) -> None:
    words = [
        "evaluate",
        "--suite",
        str(suite(tmp_path / "own.jsonl", 120, wrong=4)),
        "--server",
        server,
        "--model",
        "m",
    ]
    run = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "out"), "--repeats", "2"])
    assert run.exit_code == 0, run.output
    assert "0.9667" in run.stdout
    out = tmp_path / "out"
    assert {"answers.jsonl", "cases.jsonl", "report.html", "report.json"} <= {path.name for path in out.iterdir()}
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert (report["suite"], report["summary"]["correct"], report["further"]["consistency"]["accuracy"]) == (
        "own",
        116,
        1,
    )
    assert set(asked(server).values()) == {2}
    judged = CliRunner().invoke(app, ["verdict", "--results", str(out / "cases.jsonl"), "--json"])
    assert json.loads(judged.stdout)["correct"] == 116
    beside = CliRunner().invoke(
        app, [*words, "--output", str(tmp_path / "again"), "--champion", str(out / "cases.jsonl")]
    )
    assert beside.exit_code == 0, beside.output
    assert json.loads((tmp_path / "again" / "report.json").read_text(encoding="utf-8"))["counts"]["both_wrong"] == 4


def test_a_killed_evaluation_goes_on_without_asking_again(server: str, tmp_path: Path) -> None:
    path, out = suite(tmp_path / "own.jsonl", 1000), tmp_path / "out"
    words = ["evaluate", "--suite", str(path), "--server", server, "--model", "m", "--output", str(out)]
    words += ["--concurrency", "4"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", "from tollgate.cli import main; main()", *words]
    with subprocess.Popen(command, cwd=PROJECT, env=environment) as process:
        answers = out / "answers.jsonl"
        while process.poll() is None and (not answers.exists() or answers.read_bytes().count(b"\n") < 40):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was killed before it was done"
    kept = {json.loads(line)["messages"][-1]["content"] for line in answers.read_bytes().splitlines(keepends=True)[:-1]}
    assert 39 <= len(kept) < 1000
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 0, run.output
    times = asked(server)
    assert len(times) == 1000
    assert all(times[question] == 1 for question in kept)
    assert sum(times.values()) <= 1000 + 4, "at most what was under way when it was killed is asked twice"
    assert len((out / "cases.jsonl").read_bytes().splitlines()) == 1000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--choose", "guess"], "--choose: found 'guess'"),
        (["--judge-model", "j"], "--judge-server: found no value"),
        (["--scorer", "judge"], "needs an LLM judge"),
        (["--scorer", "bleu"], "no such scorer"),
        (["--scorers", "absent.py"], "absent.py: found no such Python file"),
        (["--champion", "absent.jsonl"], "absent.jsonl"),
    ],
)
def test_what_cannot_be_done_is_said_before_it_is_begun(
    server: str, tmp_path: Path, words: list[str], said: str
) -> None:
    path = suite(tmp_path / "own.jsonl", 2)
    given = ["--suite", str(path), "--server", server, "--model", "m", "--output", str(tmp_path / "out")]
    run = CliRunner().invoke(app, ["evaluate", *given, *words])
    assert run.exit_code == 2
    assert said in run.stderr
    assert asked(server) == {}


def test_settings_of_the_verdict_are_read_by_name(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(json.dumps({"id": str(n), "correct": n < 45}) + "\n" for n in range(50)), encoding="utf-8")
    words = ["verdict", "--results", str(path), "--threshold", "0.5", "--json"]
    assert json.loads(CliRunner().invoke(app, words).stdout)["outcome"] == "inconclusive"
    assert json.loads(CliRunner().invoke(app, [*words, "--setting", "minimum_cases=20"]).stdout)["outcome"] == "pass"
    for wrong, said in [("minimum=20", "verdict.minimum"), ("power=2", "verdict.power"), ("power", "name=value")]:
        refused = CliRunner().invoke(app, [*words, "--setting", wrong])
        assert refused.exit_code == 2
        assert said in refused.stderr
