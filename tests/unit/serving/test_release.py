"""From candidate to production on a real PostgreSQL, beside a server that behaves as vLLM does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import func, select
from tests.unit.serving.fake_vllm import FakeVllm, write_adapter, write_base

from tollgate.errors import GateRefusedError, ServiceUnavailableError
from tollgate.experiments.decision import Action, Decision
from tollgate.experiments.plan import ExperimentPlan
from tollgate.registry import lifecycle
from tollgate.serving import release, rollout
from tollgate.serving.client import ProbeFailedError, VllmClient
from tollgate.serving.release import Release
from tollgate.store.session import transaction
from tollgate.store.tables import Deployment, Experiment, RegisteredModel, StageTransition

ROUTE = "router"
PLAN = ExperimentPlan(users_per_arm=20, split={"a": 0.75, "b": 0.25})


@pytest.fixture
def server() -> Iterator[FakeVllm]:
    with FakeVllm() as server:
        yield server


@pytest.fixture
def client(server: FakeVllm, tmp_path: Path) -> Iterator[VllmClient]:
    with VllmClient([server.address], base_model=write_base(tmp_path / "base"), max_rank=32) as client:
        yield client


@pytest.fixture
def candidates(postgres_url: str, tmp_path: Path) -> list[int]:
    """Ids of three candidates that passed, with real adapter folders."""
    base = write_base(tmp_path / "base")
    with transaction() as session:
        rows = [
            RegisteredModel(
                model_name=ROUTE,
                version=version,
                base_model=str(base),
                model_path=str(write_adapter(tmp_path / f"v{version}", base)),
                verdict="pass",
            )
            for version in (1, 2, 3)
        ]
        session.add_all(rows)
        session.flush()
        return [row.id for row in rows]


def promote(model_id: int, client: VllmClient) -> Release:
    with transaction() as session:
        return release.promote(session, model_id, "kim", "it passed", ["ping"], client)


def open_test(model_id: int, client: VllmClient) -> Release:
    with transaction() as session:
        return release.open_test(session, model_id, "kim", "it passed", PLAN, ["ping"], client)


def decided(action: Action, final: bool = True) -> Decision:
    return Decision(action=action, final=final, reasons=["seen"], reasons_ko=["보았음"])


def settle(experiment_id: int, action: Action, final: bool = True) -> Release:
    with transaction() as session:
        return release.settle(session, experiment_id, decided(action, final), "analysis")


def state() -> tuple[list[str], dict[str, float]]:
    """Stages of v1, v2, v3, and the route's shares by version."""
    with transaction() as session:
        names = {model.id: f"v{model.version}" for model in lifecycle.versions(session, ROUTE)}
        stages = [lifecycle.get(session, model_id).status for model_id in sorted(names)]
        return stages, {names[key]: share for key, share in rollout.current(session, ROUTE).items()}


def written() -> tuple[int, ...]:
    """Rows of everything that a release writes."""
    with transaction() as session:
        tables = (Deployment, Experiment, StageTransition)
        return tuple(session.scalar(select(func.count()).select_from(table)) or 0 for table in tables)


def experiment(experiment_id: int | None) -> Experiment:
    with transaction() as session:
        return session.get_one(Experiment, experiment_id)


@pytest.fixture
def running(candidates: list[int], client: VllmClient) -> int:
    """Id of a running experiment: v1, the champion, against v2."""
    promote(candidates[0], client)
    opened = open_test(candidates[1], client)
    assert opened.experiment_id is not None
    return opened.experiment_id


def test_the_first_version_gets_the_whole_route_once(
    candidates: list[int], client: VllmClient, server: FakeVllm
) -> None:
    first, _, _ = candidates
    with transaction() as session:
        assert not release.has_champion(session, first)
    done = promote(first, client)
    assert done == Release(action="promoted", route=ROUTE, served_name="router@v1")
    assert state() == (["production", "candidate", "candidate"], {"v1": 1.0})
    assert list(server.loaded) == ["router@v1"]

    before = written()
    assert promote(first, client) == done
    assert written() == before


def test_a_promotion_replaces_the_champion_which_stays_loaded(
    candidates: list[int], client: VllmClient, server: FakeVllm
) -> None:
    first, second, _ = candidates
    promote(first, client)
    with transaction() as session:
        assert release.has_champion(session, second)
        assert not release.has_champion(session, first)
    assert promote(second, client).champion == "router@v1"
    assert state() == (["archived", "production", "candidate"], {"v2": 1.0})
    assert sorted(server.loaded) == ["router@v1", "router@v2"]


@pytest.mark.parametrize("verdict", [None, "fail"])
@pytest.mark.parametrize("way", [promote, open_test])
def test_nothing_that_did_not_pass_is_released(
    verdict: str | None,
    way: Callable[[int, VllmClient], Release],
    candidates: list[int],
    client: VllmClient,
    server: FakeVllm,
) -> None:
    promote(candidates[0], client)
    with transaction() as session:
        session.get_one(RegisteredModel, candidates[1]).verdict = verdict
    before = written()
    with pytest.raises(GateRefusedError, match="verdict is"):
        way(candidates[1], client)
    assert (state()[1], written(), list(server.loaded)) == ({"v1": 1.0}, before, ["router@v1"])


@pytest.mark.parametrize("way", [promote, open_test])
def test_a_version_that_answers_nothing_changes_neither_route_nor_stages(
    way: Callable[[int, VllmClient], Release],
    candidates: list[int],
    client: VllmClient,
    server: FakeVllm,
    tmp_path: Path,
) -> None:
    promote(candidates[0], client)
    (tmp_path / "v2" / "serves_nan").touch()
    before = written()
    with pytest.raises(ProbeFailedError):
        way(candidates[1], client)
    assert state() == (["production", "candidate", "candidate"], {"v1": 1.0})
    assert (written(), list(server.loaded)) == (before, ["router@v1"])


def test_a_server_that_is_down_leaves_everything_for_a_retry(candidates: list[int], client: VllmClient) -> None:
    client.replicas[0].address = "http://127.0.0.1:9"
    with pytest.raises(ServiceUnavailableError):
        promote(candidates[0], client)
    assert state() == (["candidate"] * 3, {})
    assert written() == (0, 0, 0)


def test_a_test_shares_the_champions_route_and_is_opened_once(candidates: list[int], client: VllmClient) -> None:
    promote(candidates[0], client)
    opened = open_test(candidates[1], client)
    assert (opened.action, opened.served_name, opened.champion) == ("experiment", "router@v2", "router@v1")
    assert state() == (["production", "staging", "candidate"], {"v1": 0.75, "v2": 0.25})
    row = experiment(opened.experiment_id)
    assert (row.status, row.model_a_id, row.model_b_id) == ("running", *candidates[:2])
    assert ExperimentPlan.model_validate(row.plan) == PLAN

    before = written()
    assert open_test(candidates[1], client) == opened
    assert (written(), experiment(opened.experiment_id).salt) == (before, row.salt)


def test_without_a_champion_there_is_nothing_to_test_against(candidates: list[int], client: VllmClient) -> None:
    with pytest.raises(GateRefusedError, match="no production version"):
        open_test(candidates[0], client)
    assert state() == (["candidate"] * 3, {})


def test_one_experiment_at_a_time_runs_on_a_route(running: int, candidates: list[int], client: VllmClient) -> None:
    before = state(), written()
    with pytest.raises(GateRefusedError, match=r"router-v1-v2 is running on router"):
        open_test(candidates[2], client)
    assert (state(), written()) == before


@pytest.mark.parametrize(
    ("action", "stages", "route"),
    [
        (Action.PROMOTE, ["archived", "production", "candidate"], {"v2": 1.0}),
        (Action.ROLL_BACK, ["production", "archived", "candidate"], {"v1": 1.0}),
        (Action.HOLD, ["production", "archived", "candidate"], {"v1": 1.0}),
    ],
)
def test_a_final_decision_is_carried_out_once(
    running: int, action: Action, stages: list[str], route: dict[str, float]
) -> None:
    done = settle(running, action)
    assert done.action == ("promoted" if action is Action.PROMOTE else "rolled_back")
    assert (done.served_name, done.champion, done.experiment_id) == ("router@v2", "router@v1", running)
    assert state() == (stages, route)
    assert (experiment(running).status, experiment(running).decision) == ("completed", action.value)
    with transaction() as session:
        last = lifecycle.history(session, ROUTE)[-1]
    assert (last.why, last.why_ko) == ("experiment router-v1-v2: seen", "실험 router-v1-v2: 보았음")

    before = written()
    assert settle(running, action) == done
    assert written() == before


@pytest.mark.parametrize("action", [Action.CONTINUE, Action.HOLD])
def test_a_decision_that_is_not_final_changes_nothing(running: int, action: Action) -> None:
    before = state(), written()
    assert settle(running, action, final=False).action == "kept"
    assert (state(), written(), experiment(running).status) == (*before, "running")


@pytest.mark.parametrize(("first", "then"), [(Action.ROLL_BACK, Action.PROMOTE), (Action.PROMOTE, Action.ROLL_BACK)])
def test_what_somebody_else_decided_stands(running: int, first: Action, then: Action) -> None:
    done = settle(running, first)
    before = state(), written()
    assert settle(running, then).action == done.action
    assert (state(), written(), experiment(running).decision) == (*before, first.value)


@pytest.mark.parametrize("action", [Action.PROMOTE, Action.ROLL_BACK])
def test_an_old_decision_repeated_does_not_undo_what_came_later(
    running: int, candidates: list[int], client: VllmClient, action: Action
) -> None:
    settle(running, action)
    promote(candidates[2], client)
    before = state(), written()
    settle(running, action)
    assert (state(), written()) == before
    assert before[0][1] == {"v3": 1.0}


@pytest.mark.parametrize("action", [Action.PROMOTE, Action.ROLL_BACK])
def test_a_tested_version_is_not_tested_again_by_a_late_repetition(
    running: int, candidates: list[int], client: VllmClient, action: Action
) -> None:
    settle(running, action)
    before = state(), written()
    with pytest.raises(GateRefusedError, match="only a candidate can be tested"):
        open_test(candidates[1], client)
    assert (state(), written()) == before


def test_a_person_who_moves_the_whole_route_stops_the_experiment(
    running: int, candidates: list[int], client: VllmClient
) -> None:
    promote(candidates[2], client)
    assert (experiment(running).status, experiment(running).decision) == ("stopped", None)
    assert state()[1] == {"v3": 1.0}
    assert settle(running, Action.ROLL_BACK).action == "kept"
    assert state()[1] == {"v3": 1.0}


def test_a_retired_route_serves_nothing_and_its_experiment_cannot_bring_it_back(running: int) -> None:
    def retire() -> Sequence[str]:
        with transaction() as session:
            return release.retire(session, ROUTE, "kim", "a new beginning")

    assert sorted(retire()) == ["router@v1", "router@v2", "router@v3"]
    gone: tuple[list[str], dict[str, float]] = (["archived"] * 3, {})
    assert state() == gone
    assert experiment(running).status == "stopped"
    before = written()
    assert retire() == []
    for action in (Action.PROMOTE, Action.ROLL_BACK):
        assert settle(running, action).action == "kept"
    assert (state(), written()) == (gone, before)


def test_a_retired_routes_next_version_begins_anew(running: int, candidates: list[int], client: VllmClient) -> None:
    with transaction() as session:
        release.retire(session, ROUTE, "kim", "a new beginning")
        fourth = RegisteredModel(
            model_name=ROUTE,
            version=4,
            base_model="base",
            model_path=lifecycle.get(session, candidates[2]).model_path,
            verdict="pass",
        )
        session.add(fourth)
        session.flush()
        assert not release.has_champion(session, fourth.id)
    assert promote(fourth.id, client).champion is None
    assert state()[1] == {"v4": 1.0}
