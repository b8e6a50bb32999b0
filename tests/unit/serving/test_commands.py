"""``tollgate rollout`` and ``tollgate reconcile`` on a real PostgreSQL, with a server that behaves as vLLM does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.registry.conftest import mlflow_down
from tests.unit.serving.fake_vllm import FakeVllm, write_adapter, write_base
from typer import Typer
from typer.testing import CliRunner

from tollgate.cli import application
from tollgate.errors import BadInputError, GateRefusedError
from tollgate.registry import lifecycle
from tollgate.serving import rollout
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.store.tables import RegisteredModel
from tollgate.workflow import rollouts

__all__ = ["mlflow_down"]  # the fixture
ROUTE = "router"


@pytest.fixture
def server(mlflow_down: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVllm]:
    """A server of which the settings know, and two versions that passed, the first in production."""
    with FakeVllm() as server:
        monkeypatch.setenv("TOLLGATE_VLLM_URLS", json.dumps([server.address]))
        monkeypatch.setenv("TOLLGATE_BASE_MODEL", str(write_base(tmp_path / "base")))
        settings.cache_clear()
        with transaction() as session:
            session.add_all(
                RegisteredModel(
                    model_name=ROUTE,
                    version=version,
                    base_model="base",
                    model_path=str(write_adapter(tmp_path / f"v{version}", tmp_path / "base")),
                    verdict="pass",
                )
                for version in (1, 2)
            )
        rollouts.begin("router@v1", "first", "kim")
        yield server


def run(*words: str, status: int = 0) -> str:
    app: Typer = application(words)
    result = CliRunner().invoke(app, words, catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == status, result.output
    return result.stdout


def told(*words: str, status: int = 0) -> dict[str, Any]:
    return dict(json.loads(run(*words, "--json", status=status)))


def test_a_rollout_is_begun_looked_at_and_given_up(server: FakeVllm) -> None:
    begun = told("rollout", "start", "router@v2", "--why", "better", "--steps", "0.1,1", "--users", "5")
    assert (begun["status"], begun["share"], begun["former"]) == ("running", 0.1, "router@v1")
    assert "0 of 5 users of the new version so far" in run("rollout", "look", ROUTE)
    assert told("rollout", "abort", ROUTE, "--why", "not today")["status"] == "rolled_back"
    [shown] = told("rollout", "status", ROUTE)["rollouts"]
    assert [event["action"] for event in shown["events"]] == ["begin", "hold", "roll_back"]
    assert "not today" in run("rollout", "status")
    with pytest.raises(BadInputError, match="No rollout runs"):
        run("rollout", "look", ROUTE)


@pytest.mark.parametrize("steps", ["a", "0.5", "1,0.5"])
def test_steps_that_make_no_sense_are_refused_before_anything_is_loaded(server: FakeVllm, steps: str) -> None:
    with pytest.raises(BadInputError, match="steps"):
        run("rollout", "start", "router@v2", "--why", "better", "--steps", steps)
    assert list(server.loaded) == ["router@v1"]


def test_reconciling_brings_back_what_a_replica_lost_and_names_what_is_away(server: FakeVllm) -> None:
    server.restart_empty()
    done = told("reconcile", status=3)
    assert done["loaded"] == [f"router@v1 at {server.address}"]
    assert "MLflow" in done["problems"][0]
    assert "Everything is as it should be." in run("reconcile", "--no-mlflow")


def test_a_watch_has_no_end_to_print_an_object_of(server: FakeVllm) -> None:
    with pytest.raises(BadInputError, match="--json: found with --watch"):
        run("reconcile", "--watch", "1", "--json")


def test_reconciling_takes_a_rollout_further(server: FakeVllm) -> None:
    told("rollout", "start", "router@v2", "--why", "better")
    with transaction() as session:
        first = lifecycle.find(session, "router@v1")
        rollout.set_route(session, ROUTE, {first.id: 1.0}, "lee")
    assert told("reconcile", "--no-mlflow")["rollouts"] == [
        "router@v2 on router: stop. Somebody has given the route to other versions."
    ]


def test_the_history_says_what_served_when(server: FakeVllm) -> None:
    assert told("model", "history", ROUTE, "--at", "2999-01-01")["versions"] == {"router@v1": 1.0}
    assert "nothing" in run("model", "history", ROUTE, "--at", "2000-01-01T00:00:00+0900")


def test_a_version_is_left_once_by_its_name(server: FakeVllm) -> None:
    rollouts.begin("router@v2", "better", "kim", {"steps": [1.0]})
    done = rollouts.leave("router@v2", "worse", "the run")
    assert (done["action"], done["champion"], done["mlflow"]) == ("rolled_back", "router@v1", False)
    assert rollouts.leave("router@v2", "worse", "the run")["action"] == "kept"
    with pytest.raises(BadInputError, match="Which version"):
        rollouts.leave(None, "worse", "the run")
    with pytest.raises(BadInputError, match="of another route"):
        rollouts.roll_back("other", "worse", "lee", "router@v2")


def test_a_run_says_in_both_languages_what_became_of_its_version(server: FakeVllm) -> None:
    begun = rollouts.begin("router@v2", "better", "kim")
    rollouts.look(begun.rollout_id or 0, "the run")
    [shown] = told("rollout", "status", ROUTE)["rollouts"]
    held = shown["events"][-1]
    assert held["why"].startswith("0 of 20 users of the new version so far.")
    assert held["why_ko"].startswith("지금까지 새 버전의 사용자는 20명 중 0명입니다.")
    assert "지금까지 새 버전의" in run("rollout", "status")
    rollouts.leave("router@v2", "고객 불만", "lee")
    with pytest.raises(GateRefusedError, match=r"(?s)not in production .*고객 불만.*않습니다\(되돌림\). 고객 불만"):
        rollouts.outcome(begun.model_copy(update={"status": "rolled_back"}).model_dump(mode="json"))
    first = rollouts.begin("router@v1", "first", "kim").model_dump(mode="json")
    assert "router@v1이(가) router 경로 전체를 맡았습니다. 이 경로에 다른" in rollouts.outcome(first)
