"""Full weights on a server of their own: it answers, it ends, and nothing of it is left."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.unit.serving.fake_vllm import write_base

from tollgate.evaluation.cases import Case, CaseResult, Message, read_json_lines
from tollgate.evaluation.examination import CASES, Examination, write_examination
from tollgate.evaluation.perplexity import perplexity
from tollgate.settings import PROJECT

SERVER = Path(__file__).with_name("example_server.py")
RUN = """
import sys
from pathlib import Path
from vllm.examine import main
sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
"""
QUESTIONS = [f"q{number}" for number in range(6)]


def order(folder: Path, **changes: Any) -> Path:
    """An order to put six questions to weights, one at a time."""
    fields: dict[str, Any] = {
        "model": write_base(folder / "model"),
        "served_name": "router@v2",
        "cases": folder / CASES,
        "answers": folder / "evaluation" / "router@v2.answers.jsonl",
        "max_tokens": 9,
        "max_model_len": 77,
        "concurrency": 1,
    }
    cases = [Case(id=text, messages=(Message(role="user", content=text),), expected="x") for text in QUESTIONS]
    return write_examination(folder, Examination(**{**fields, **changes}), cases)


def start(folder: Path, mode: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join(str(PROJECT / name) for name in ("include", "containers"))
    command = [sys.executable, "-c", RUN, str(folder), sys.executable, str(SERVER), str(folder), mode]
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def server_lives(folder: Path) -> bool:
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if words[1:3] == [str(SERVER), str(folder)] and process.info["status"] != psutil.STATUS_ZOMBIE:
            return True
    return False


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().split()


def error(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "error.json").read_text())


def test_every_case_is_answered_by_the_weights_and_the_server_is_gone(tmp_path: Path) -> None:
    code, said = finish(start(order(tmp_path), "answer"))
    assert (code, said.count("Traceback")) == (0, 0), said
    answers = [result for _, result in read_json_lines(tmp_path / "evaluation/router@v2.answers.jsonl", CaseResult)]
    assert {answer.answer for answer in answers} == {"router@v2, 9"}
    assert sorted(answer.id for answer in answers) == QUESTIONS
    assert json.loads((tmp_path / "result.json").read_text())["cases"] == len(QUESTIONS)
    settings = json.loads((tmp_path / "server.json").read_text())["settings"]
    assert settings["TOLLGATE_BASE_MODEL"] == str(tmp_path / "model")
    assert (settings["TOLLGATE_BASE_MODEL_NAME"], settings["TOLLGATE_MAX_MODEL_LEN"]) == ("router@v2", "77")
    assert not server_lives(tmp_path)


def test_the_right_answers_likelihood_is_measured_where_it_is_asked_for(tmp_path: Path) -> None:
    kept = tmp_path / "evaluation" / "perplexity.jsonl"
    code, said = finish(start(order(tmp_path, perplexity=kept), "answer"))
    assert code == 0, said
    measured = perplexity([result for _, result in read_json_lines(kept, CaseResult)])
    assert measured is not None
    assert (measured.value, measured.cases) == (pytest.approx(math.e), len(QUESTIONS))


def test_a_stop_ends_the_server_and_the_next_attempt_asks_for_the_rest(tmp_path: Path) -> None:
    process = start(order(tmp_path), "stall")
    wait_until((tmp_path / "stalled").exists)
    process.send_signal(signal.SIGTERM)
    code, _ = finish(process)
    assert code == 10
    assert not server_lives(tmp_path)
    assert not (tmp_path / "result.json").exists()
    assert finish(start(tmp_path, "answer"))[0] == 0
    assert asked(tmp_path) == QUESTIONS, "none twice"


def test_the_server_dies_with_an_examination_that_is_killed(tmp_path: Path) -> None:
    process = start(order(tmp_path), "stall")
    wait_until((tmp_path / "stalled").exists)
    assert server_lives(tmp_path)
    process.kill()
    finish(process)
    wait_until(lambda: not server_lives(tmp_path))


def test_a_server_that_ends_is_a_failure_that_says_so(tmp_path: Path) -> None:
    code, _ = finish(start(order(tmp_path), "end"))
    assert code == 1
    assert error(tmp_path)["kind"] == "server_failed"
    assert "status 3" in error(tmp_path)["message"]


def test_a_server_that_never_gets_healthy_is_stopped(tmp_path: Path) -> None:
    code, _ = finish(start(order(tmp_path, patience_seconds=0.5), "hang"))
    assert code == 1
    assert "has not loaded the weights within" in error(tmp_path)["message"]
    assert not server_lives(tmp_path)


@pytest.mark.parametrize(("missing", "place"), [("model/config.json", "model: "), ("spec.json", "spec.json")])
def test_a_wrong_order_is_refused_before_a_server_starts(tmp_path: Path, missing: str, place: str) -> None:
    order(tmp_path)
    (tmp_path / missing).unlink()
    code, _ = finish(start(tmp_path, "answer"))
    assert code == 2
    assert error(tmp_path)["kind"] == "bad_specification"
    assert place in error(tmp_path)["message"]
    assert not (tmp_path / "server.json").exists()
