"""Following a run at a server that speaks Airflow's REST interface."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.unit.stack.fake_airflow import PASSWORD, FakeAirflow

from tollgate.demo import follow
from tollgate.demo.follow import RunFollower
from tollgate.stack.airflow_api import AirflowApi


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAirflow]:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with FakeAirflow() as airflow:
        yield airflow


def task(name: str, state: str, tries: int = 1, **fields: Any) -> dict[str, Any]:
    return {"task_id": name, "state": state, "try_number": tries, "map_index": -1, **fields}


def followed(airflow: FakeAirflow, answer: tuple[str, str] | None = None) -> tuple[RunFollower, str, list[str]]:
    """The follower after the run, the run's state, and the printed lines."""
    text = io.StringIO()
    console = Console(file=text, width=200, force_terminal=False)
    follower = RunFollower(AirflowApi(airflow.address, "admin", PASSWORD), console, answer)
    state = follower.follow("finetune", "run", "finetune")
    return follower, state, text.getvalue().splitlines()


def test_each_end_of_a_task_is_printed_once(airflow: FakeAirflow) -> None:
    first = task("validate", "success", end_date="1", duration=2.4)
    airflow.polls = [
        [task("train", "running"), first],
        [task("train", "up_for_retry"), first],
        [task("train", "success", 2, end_date="2"), first, task("later", "skipped"), task("refuse", "failed")],
    ]
    _, state, lines = followed(airflow)
    assert (state, [line.strip() for line in lines]) == (
        "success",
        ["✓ validate 2 s", "↻ train", "✓ train", "✗ refuse"],
    )


@pytest.mark.parametrize("answer", [("Approve", "seen"), None])
def test_a_question_is_answered_only_where_an_answer_was_given(
    airflow: FakeAirflow, answer: tuple[str, str] | None
) -> None:
    place = {"dag_id": "finetune", "dag_run_id": "run", "task_id": "approval", "map_index": -1}
    airflow.questions = [{"subject": "Release it?", "task_instance": place, "response_received": False}]
    airflow.polls = [[task("approval", "awaiting_input")], [task("approval", "awaiting_input")]]
    follower, _, lines = followed(airflow, answer)
    given = [body for path, body in airflow.written("PATCH") if path.endswith("hitlDetails")]
    if answer is None:
        assert (given, follower.answered, follower.asked) == ([], [], ["Release it?"])
        page = f"{airflow.address}/dags/finetune/runs/run/tasks/approval/required_actions"
        assert [line.strip() for line in lines].count(f"answer here: {page}") == 1
    else:
        assert given == [{"chosen_options": ["Approve"], "params_input": {"reason": "seen"}}]
        assert follower.answered == ["Release it?"]
        assert "? Release it? Approve (seen)" in [line.strip() for line in lines]


def test_a_training_says_where_it_is(airflow: FakeAirflow, tmp_path: Path) -> None:
    airflow.polls = [[task("train", "running")]]
    airflow.results[("validate", -1)] = {"folder": str(tmp_path)}
    follower = RunFollower(AirflowApi(airflow.address, "admin", PASSWORD), Console(file=io.StringIO()))
    assert follower._position("finetune", "run", ["train"]) == "train"
    (tmp_path / "progress.jsonl").write_text(
        json.dumps({"step": 1, "max_steps": 8, "percent": 12.5, "loss": 2.0})
        + "\n"
        + json.dumps({"step": 4, "max_steps": 8, "percent": 50.0, "loss": 0.51234})
        + "\n"
    )
    assert follower._position("finetune", "run", ["train"]) == "training, 50 % of 8 steps, loss 0.512"
    assert follower._position("finetune", "run", []) == "waiting for the scheduler"


@pytest.mark.parametrize("content", ["", '{"step": 1, "max_st', "\n"])
def test_progress_that_is_being_written_is_no_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "progress.jsonl"
    assert follow._last_progress(path) is None
    path.write_text(content)
    assert follow._last_progress(path) is None
