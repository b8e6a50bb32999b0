"""The road of full weights behind the gate: a server of their own, the route, the next candidate's champion."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.unit.serving.fake_vllm import FakeVllm, write_adapter
from tests.unit.serving.server_host import FakeHost
from tests.unit.training.example_base import write_base_model
from tests.unit.workflow.test_finetune import PARAMS, candidate, route, validate, verdict

from tollgate.errors import BadInputError
from tollgate.evaluation.examination import read_examination
from tollgate.serving import server_keeper, servers
from tollgate.serving.client import ProbeFailedError
from tollgate.settings import settings
from tollgate.stack import lifecycle as stack
from tollgate.store.session import transaction
from tollgate.store.tables import RegisteredModel
from tollgate.workflow import finetune, rollouts
from tollgate.workflow import servers as work
from tollgate.workflow.reconcile import reconcile

BLOCKED = "airflow-db-not-allowed:///"
"""As ``block_orm_access`` of Airflow's supervisor writes it into a task's environment."""


@pytest.fixture(autouse=True)
def host(server: FakeVllm, projected: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHost]:
    """What runs the servers, in the place of the keeper's own process."""
    monkeypatch.setattr(rollouts, "project_model", projected.append)
    monkeypatch.setattr(work, "POLL_SECONDS", 0.01)
    with ExitStack() as stack:
        host = FakeHost(stack)
        monkeypatch.setattr(work, "_keep", lambda environment: server_keeper.keep(host))
        yield host


def merged(run_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A trained candidate whose adapter was merged, and that passed; its adapter is still there."""
    job = finetune.validate(PARAMS | {"serve_adapter_as": "merged"}, ["lora_rank", "serve_adapter_as"], run_id, "kim")
    assert finetune.prepare_merging(job)
    write_adapter(Path(job["folder"]) / "adapter", settings().served_base_model)
    write_base_model(Path(job["folder"]) / "model")
    version = finetune.serve_candidate(job, "kim")
    with transaction() as session:
        session.get_one(RegisteredModel, version["model_id"]).verdict = "pass"
    return job, version


def full(run_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A trained candidate of full weights that passed."""
    job = validate(run_id, method="full")
    write_base_model(Path(job["folder"]) / "model")
    version = finetune.serve_candidate(job, "kim")
    with transaction() as session:
        session.get_one(RegisteredModel, version["model_id"]).verdict = "pass"
    return job, version


def test_full_weights_go_into_production_and_back(host: FakeHost) -> None:
    _, adapter = candidate("run 1", "pass")
    finetune.promote(validate("run 1"), adapter, verdict("pass"), None, "kim")
    assert finetune.start_server(adapter, "kim") == {"address": None}
    job, version = full("run 2")
    started = finetune.start_server(version, "kim")
    assert finetune.start_server(version, "kim") == started == {"address": host.servers["router@v2"].address}
    assert route() == {adapter["model_id"]: 1.0}
    done = finetune.promote(job, version, verdict("pass"), None, "kim")
    assert finetune.promote(job, version, verdict("pass"), None, "kim")["served_name"] == done["served_name"]
    assert (done["champion"], route()) == ("router@v1", {version["model_id"]: 1.0})
    left = rollouts.roll_back("router", "worse", "kim", "router@v2")
    assert (left["action"], route()) == ("rolled_back", {adapter["model_id"]: 1.0})
    assert host.started == ["router@v2"]


def test_a_merged_adapter_goes_the_way_of_full_weights(server: FakeVllm, host: FakeHost) -> None:
    _, adapter = candidate("run 1", "pass")
    finetune.promote(validate("run 1"), adapter, verdict("pass"), None, "kim")
    loaded = set(server.loaded)
    job, version = merged("run 2")
    assert (finetune.serves_full_weights(job), finetune.serves_full_weights(validate("run 1"))) == (True, False)
    assert set(server.loaded) == loaded, "the shared server has nothing to do with it"
    assert read_examination(Path(version["examination"])).model == Path(job["folder"]) / "model"
    assert finetune.serve_candidate(job, "kim") == version
    finetune.start_server(version, "kim")
    finetune.promote(job, version, verdict("pass"), None, "kim")
    assert route() == {version["model_id"]: 1.0}
    left = rollouts.roll_back("router", "worse", "kim", "router@v2")
    assert (left["action"], route()) == ("rolled_back", {adapter["model_id"]: 1.0})
    assert host.started == ["router@v2"]


def test_an_adapter_that_was_not_merged_gets_no_version(host: FakeHost) -> None:
    job = finetune.validate(PARAMS | {"serve_adapter_as": "merged"}, ["serve_adapter_as"], "run 1", "kim")
    write_adapter(Path(job["folder"]) / "adapter", settings().served_base_model)
    with pytest.raises(BadInputError, match="a folder model, which the merging leaves"):
        finetune.serve_candidate(job, "kim")
    assert host.started == []


def test_a_champion_of_full_weights_is_asked_at_its_own_server(server: FakeVllm, host: FakeHost) -> None:
    job, version = full("run 1")
    finetune.promote(job, version, verdict("pass"), None, "kim")
    server.requests.clear()
    asked_before = len(host.servers["router@v1"].requests)
    next_job, challenger = candidate("run 2")
    figures = finetune.evaluate(next_job, challenger, "kim", max_tokens=9, rules=finetune.rules_of({}))
    assert figures["contestants"]["champion"] == "router@v1"
    assert {request["model"] for request in server.requests} == {"router@v2", "base"}
    assert len(host.servers["router@v1"].requests) == asked_before + figures["champion"]["cases"]


def test_an_adapter_and_full_weights_share_a_route_in_an_experiment_and_by_steps(host: FakeHost) -> None:
    _, adapter = candidate("run 1", "pass")
    finetune.promote(validate("run 1"), adapter, verdict("pass"), None, "kim")
    job, version = full("run 2")
    begun = finetune.begin_rollout(job, version, verdict("pass"), None, "kim")
    assert begun["share"] == 0.05
    assert route() == pytest.approx({adapter["model_id"]: 0.95, version["model_id"]: 0.05})
    rollouts.roll_back("router", "worse", "kim", "router@v2")
    job, third = full("run 3")
    opened = finetune.open_experiment(job, third, {"users_per_arm": 7}, verdict("pass"), None, "kim")
    assert opened["action"] == "experiment"
    assert host.started == ["router@v2", "router@v3"]


def test_weights_that_answer_nothing_are_refused_and_their_server_stops(host: FakeHost) -> None:
    job, version = full("run 1")
    finetune.start_server(version, "kim")
    host.servers["router@v1"].says = " "
    with pytest.raises(ProbeFailedError):
        finetune.promote(job, version, verdict("pass"), None, "kim")
    assert route() == {}
    assert reconcile_servers() == ["router@v1 is drained: nothing leads to it any more"]


def test_the_reconciler_starts_a_dead_server_again_and_status_shows_it(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, version = full("run 1")
    finetune.promote(job, version, verdict("pass"), None, "kim")
    shown = stack._model_servers(settings())
    assert [(one.name, one.state, one.healthy) for one in shown] == [("router@v1", "ready", True)]
    host.kill("router@v1")
    assert not stack._model_servers(settings())[0].healthy
    with transaction() as session:
        for row in servers.unstopped(session):
            row.looked_at = None
    monkeypatch.setattr(server_keeper, "_may_start", lambda *_: True)
    told: list[str] = []
    work.start_all({"PATH": ""}, settings().tollgate_database, told.append)
    assert [line.partition(" at ")[0] for line in told[1:]] == ["started a server of router@v1", "router@v1 is ready"]
    assert host.started == ["router@v1", "router@v1"]
    assert reconcile_servers() == []


def test_the_keeper_can_import_airflow_also_when_a_task_starts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(work, "KEEPER", (sys.executable, "-c", "import airflow; print('kept')"))
    blocked = dict.fromkeys(("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN"), BLOCKED)
    assert work._keep({"PATH": os.environ["PATH"], "AIRFLOW_HOME": str(tmp_path), **blocked}) == ["kept"]


def reconcile_servers() -> list[str]:
    return reconcile("kim", with_mlflow=False).servers
