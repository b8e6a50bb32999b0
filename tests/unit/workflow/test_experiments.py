"""A look at an experiment and what follows from it, each of them twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import func, select
from tests.unit.serving.fake_vllm import FakeVllm, write_adapter

from tollgate.experiments.plan import ExperimentPlan
from tollgate.registry import lifecycle
from tollgate.serving import release, rollout
from tollgate.serving.client import VllmClient
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.store.tables import ExperimentResult, RegisteredModel, RequestLog
from tollgate.workflow import experiments

LOW, HIGH = (1, 2, 1, 2, 1, 2), (4, 5, 4, 5, 4, 5)


@pytest.fixture
def experiment(server: FakeVllm, tmp_path: Path) -> int:
    """A running experiment of v1, the champion, against v2."""
    base = settings().served_base_model
    with VllmClient() as client, transaction() as session:
        rows = [
            RegisteredModel(
                model_name="router",
                version=version,
                base_model=str(base),
                model_path=str(write_adapter(tmp_path / f"v{version}", base)),
                verdict="pass",
            )
            for version in (1, 2)
        ]
        session.add_all(rows)
        session.flush()
        release.promote(session, rows[0].id, "kim", "first", ["ping"], client)
        plan = ExperimentPlan(users_per_arm=6)
        opened = release.open_test(session, rows[1].id, "kim", "second", plan, ["ping"], client)
    assert opened.experiment_id is not None
    return opened.experiment_id


def rate(experiment_id: int, variant: str, ratings: Sequence[int], wave: str = "first") -> None:
    """One rating of each user of an arm."""
    with transaction() as session:
        version = 1 if variant == "a" else 2
        model = lifecycle.find(session, f"router@v{version}")
        session.add_all(
            RequestLog(
                request_id=f"{wave}-{variant}-{number}",
                experiment_id=experiment_id,
                route="router",
                user_hash=f"{wave}-{variant}-{number}",
                variant=variant,
                model_id=model.id,
                user_rating=rating,
                status_code=200,
                response_time_ms=1.0,
            )
            for number, rating in enumerate(ratings)
        )


def stages() -> list[str]:
    with transaction() as session:
        return [lifecycle.find(session, f"router@v{version}").status for version in (1, 2)]


def shares() -> list[float]:
    with transaction() as session:
        return list(rollout.current(session, "router").values())


def looks() -> int:
    with transaction() as session:
        return session.scalar(select(func.count(ExperimentResult.id))) or 0


def test_before_the_planned_size_nothing_changes(experiment: int, server: FakeVllm, projected: list[str]) -> None:
    rate(experiment, "a", LOW)
    outcome = experiments.look(experiment, "look 1")
    assert (outcome["name"], outcome["decision"]["action"]) == ("router-v1-v2", "continue")
    assert experiments.act(outcome, "analysis")["action"] == "kept"
    assert (stages(), sorted(shares()), projected) == (["production", "staging"], [0.5, 0.5], [])
    assert sorted(server.loaded) == ["router@v1", "router@v2"]


def test_a_better_challenger_is_promoted_once_and_the_way_back_stays_loaded(
    experiment: int, server: FakeVllm, projected: list[str]
) -> None:
    rate(experiment, "a", LOW)
    rate(experiment, "b", HIGH)
    outcome = experiments.look(experiment, "look 1")
    done = experiments.act(outcome, "analysis")
    assert experiments.act(outcome, "analysis") == done
    assert (done["action"], done["served_name"], done["champion"]) == ("promoted", "router@v2", "router@v1")
    assert (stages(), shares()) == (["archived", "production"], [1.0])
    assert sorted(server.loaded) == ["router@v1", "router@v2"]
    assert projected == ["router", "router"], "a repetition repairs MLflow"


def test_a_worse_challenger_is_archived_and_unloaded_once(
    experiment: int, server: FakeVllm, projected: list[str]
) -> None:
    rate(experiment, "a", HIGH)
    rate(experiment, "b", LOW)
    outcome = experiments.look(experiment, "look 1")
    for _ in range(2):
        assert experiments.act(outcome, "analysis")["action"] == "rolled_back"
        assert (stages(), shares(), list(server.loaded)) == (["production", "archived"], [1.0], ["router@v1"])


def test_of_a_repeated_look_the_first_record_stands(experiment: int) -> None:
    rate(experiment, "a", LOW[:5])
    first = experiments.look(experiment, "look 1")
    rate(experiment, "a", LOW, "second")
    rate(experiment, "b", HIGH, "second")
    again = experiments.look(experiment, "look 1")
    assert again["decision"] == first["decision"]
    assert looks() == 2, "a row an arm"
    assert experiments.look(experiment, "look 2")["decision"]["action"] == "promote"
    assert looks() == 4
