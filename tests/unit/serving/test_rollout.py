from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from tests.unit.serving.fake_vllm import FakeVllm, write_adapter, write_base

from tollgate.errors import BadInputError, ServiceUnavailableError
from tollgate.serving import rollout
from tollgate.serving.client import ProbeFailedError, VllmClient
from tollgate.store.session import transaction
from tollgate.store.tables import Deployment, Experiment, RegisteredModel

ROUTE = "router"


@pytest.fixture
def servers() -> Iterator[list[FakeVllm]]:
    with FakeVllm() as first, FakeVllm() as second:
        yield [first, second]


@pytest.fixture
def client(servers: list[FakeVllm], tmp_path: Path) -> Iterator[VllmClient]:
    base = write_base(tmp_path / "base")
    with VllmClient([server.address for server in servers], base_model=base, max_rank=32) as client:
        yield client


@pytest.fixture
def models(postgres_url: str, tmp_path: Path) -> list[int]:
    """Ids of three production-like versions with real adapter folders."""
    base = write_base(tmp_path / "base")
    with transaction() as session:
        rows = [
            RegisteredModel(
                model_name=ROUTE,
                version=version,
                base_model=str(base),
                model_path=str(write_adapter(tmp_path / f"v{version}", base)),
                status="archived",
                verdict="pass",
            )
            for version in (1, 2, 3)
        ]
        session.add_all(rows)
        session.flush()
        return [row.id for row in rows]


def deploy(model_id: int, client: VllmClient, share: float = 1.0) -> rollout.Deployed:
    with transaction() as session:
        return rollout.deploy(session, ROUTE, model_id, "tester", ["ping"], client, share)


def current() -> dict[int, float]:
    with transaction() as session:
        return rollout.current(session, ROUTE)


def rows(session: Session) -> int:
    return session.scalar(select(func.count(Deployment.id))) or 0


def test_a_route_keeps_its_history_and_repeating_changes_nothing(models: list[int]) -> None:
    first, second, _ = models
    with transaction() as session:
        assert rollout.set_route(session, ROUTE, {first: 1.0}, "a")
        assert rollout.set_route(session, ROUTE, {first: 3, second: 1}, "b")
        assert not rollout.set_route(session, ROUTE, {second: 0.25, first: 0.75}, "c")
        assert rollout.current(session, ROUTE) == {first: 0.75, second: 0.25}
        assert rows(session) == 3


@pytest.mark.parametrize("weights", [{}, {1: 0.0}, {1: -1.0}, {1: float("nan")}, {999: 1.0}])
def test_weights_that_make_no_sense_are_refused(models: list[int], weights: dict[int, float]) -> None:
    with transaction() as session:
        with pytest.raises(BadInputError):
            rollout.set_route(session, ROUTE, weights, "a")
        assert rows(session) == 0


def test_a_switch_loads_looks_moves_and_keeps_the_former(
    models: list[int], client: VllmClient, servers: list[FakeVllm]
) -> None:
    first, second, _ = models
    deploy(first, client)
    done = deploy(second, client)
    assert (done.moved, done.former, current()) == (True, ("router@v1",), {second: 1.0})
    assert [sorted(server.loaded) for server in servers] == [["router@v1", "router@v2"]] * 2
    assert not deploy(second, client).moved


def test_a_canary_takes_its_share_and_the_rest_keeps_its_proportions(models: list[int], client: VllmClient) -> None:
    first, second, third = models
    deploy(first, client)
    deploy(second, client, share=0.2)
    deploy(third, client, share=0.5)
    assert current() == pytest.approx({first: 0.4, second: 0.1, third: 0.5})


def test_a_version_that_answers_nothing_takes_no_traffic_and_leaves_nothing(
    models: list[int], client: VllmClient, servers: list[FakeVllm], tmp_path: Path
) -> None:
    deploy(models[0], client)
    (tmp_path / "v2" / "serves_nan").touch()
    with pytest.raises(ProbeFailedError):
        deploy(models[1], client)
    assert current() == {models[0]: 1.0}
    assert [list(server.loaded) for server in servers] == [["router@v1"]] * 2


def test_a_replica_that_is_down_stops_the_switch(
    models: list[int], client: VllmClient, servers: list[FakeVllm]
) -> None:
    deploy(models[0], client)
    servers[1].__exit__()
    with pytest.raises(ServiceUnavailableError):
        deploy(models[1], client)
    assert current() == {models[0]: 1.0}
    assert list(servers[0].loaded) == ["router@v1"]


def test_the_way_back_is_taken_once_and_loads_what_is_gone(
    models: list[int], client: VllmClient, servers: list[FakeVllm]
) -> None:
    first, second, third = models
    for model in (first, second, third):
        deploy(model, client)
    servers[0].restart_empty()
    for _ in range(2):
        with transaction() as session:
            now = rollout.roll_back(session, ROUTE, "tester", client, away_from=third)
        assert now == current() == {second: 1.0}
    assert "router@v2" in servers[0].loaded
    with transaction() as session:
        rollout.roll_back(session, ROUTE, "tester", client, away_from=second)
    assert current() == {third: 1.0}


def test_there_must_be_something_to_go_back_to(models: list[int], client: VllmClient) -> None:
    deploy(models[0], client)
    with pytest.raises(BadInputError, match="nothing to go back to"), transaction() as session:
        rollout.roll_back(session, ROUTE, "tester", client)


def test_what_is_in_use_is_not_unloaded(models: list[int], client: VllmClient, servers: list[FakeVllm]) -> None:
    first, second, third = models
    for model in models:
        deploy(model, client)
    with transaction() as session:
        session.add(
            Experiment(
                experiment_name="e",
                route=ROUTE,
                model_a_id=third,
                model_b_id=second,
                salt="s",
                plan={},
                traffic_split={},
            )
        )
    with transaction() as session:
        assert list(rollout.adapters_in_use(session)) == ["router@v2", "router@v3"]
        assert [rollout.unload_if_unused(session, model, client) for model in models] == [True, False, False]
        assert first not in rollout.current(session, ROUTE)
    assert sorted(servers[0].loaded) == ["router@v2", "router@v3"]


def test_reconciling_restores_an_empty_replica_and_removes_only_orphans(
    models: list[int], client: VllmClient, servers: list[FakeVllm], tmp_path: Path
) -> None:
    first, second, third = models
    deploy(first, client)
    deploy(second, client)
    with transaction() as session:
        candidate = session.get_one(RegisteredModel, third)
        candidate.status, candidate.verdict = "candidate", None
    folder = tmp_path / "v3"
    for name in ("router@v3", "router@v9", "tuned-by-hand"):
        client.load_adapter(name, folder)
    servers[0].restart_empty()
    with transaction() as session:
        done = rollout.reconcile(session, client)
    assert sorted(servers[0].loaded) == ["router@v1", "router@v2"]
    assert sorted(servers[1].loaded) == ["router@v1", "router@v2", "router@v3", "tuned-by-hand"]
    assert (len(done.loaded), done.unloaded, done.problems) == (2, [f"router@v9 at {servers[1].address}"], [])
    with transaction() as session:
        session.get_one(RegisteredModel, third).verdict = "fail"
    with transaction() as session:
        assert rollout.reconcile(session, client).unloaded == [f"router@v3 at {servers[1].address}"]


def test_reconciling_does_what_it_can_and_names_the_rest(
    models: list[int], client: VllmClient, servers: list[FakeVllm], tmp_path: Path
) -> None:
    with transaction() as session:
        rollout.set_route(session, ROUTE, {models[0]: 1, models[1]: 1}, "tester")
    (tmp_path / "v1" / "adapter_model.safetensors").unlink()
    servers[0].__exit__()
    with transaction() as session:
        done = rollout.reconcile(session, client)
    assert done.loaded == [f"router@v2 at {servers[1].address}"]
    assert len(done.problems) == 2
    assert servers[0].address in done.problems[0]
    assert "adapter_model.safetensors" in done.problems[1]
