"""A look at an experiment and what follows from it, each of them twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
from sqlalchemy import func, select, text, update
from tests.unit.serving.fake_vllm import FakeVllm, write_adapter

from tollgate.errors import GateRefusedError
from tollgate.experiments import report, report_data
from tollgate.experiments.plan import ExperimentPlan, Guardrail
from tollgate.registry import lifecycle
from tollgate.serving import release, rollout
from tollgate.serving.client import VllmClient
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.store.tables import Experiment, ExperimentResult, RegisteredModel, RequestLog
from tollgate.workflow import experiments

LOW, HIGH = (1, 2, 1, 2, 1, 2), (4, 5, 4, 5, 4, 5)


@pytest.fixture
def experiment(server: FakeVllm, tmp_path: Path, request: pytest.FixtureRequest) -> int:
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
        plan = getattr(request, "param", ExperimentPlan(users_per_arm=6))
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


WATCHED = ExperimentPlan(users_per_arm=500, looks=5, guardrails=(Guardrail(metric="error_share", margin=0.02),))


@pytest.mark.parametrize("experiment", [WATCHED], indirect=True)
def test_a_challenger_that_fails_is_rolled_back_long_before_the_plans_end(
    experiment: int, server: FakeVllm, projected: list[str]
) -> None:
    rate(experiment, "a", [4, 5] * 20)
    rate(experiment, "b", [4, 5] * 20)
    assert experiments.look(experiment, "look 1")["decision"]["action"] == "continue"
    with transaction() as session:
        session.execute(update(RequestLog).where(RequestLog.variant == "b").values(status_code=502))
    outcome = experiments.look(experiment, "look 2")
    assert "error_share" in outcome["decision"]["reasons"][0]
    for _ in range(2):
        assert experiments.act(outcome, "analysis")["action"] == "rolled_back"
    assert (stages(), shares(), list(server.loaded)) == (["production", "archived"], [1.0], ["router@v1"])


@pytest.mark.parametrize("experiment", [ExperimentPlan(users_per_arm=40, looks=4)], indirect=True)
def test_planned_looks_are_counted_over_the_runs(experiment: int) -> None:
    rate(experiment, "a", LOW * 2)
    rate(experiment, "b", LOW * 2)
    assert experiments.look(experiment, "look 1")["decision"]["look"] == 1
    assert experiments.look(experiment, "look 1")["decision"]["look"] == 1, "repeated, it is the same look"
    assert experiments.look(experiment, "look 2")["decision"]["look"] is None, "no more users, no other look"
    rate(experiment, "a", LOW * 2, "second")
    rate(experiment, "b", LOW * 2, "second")
    third = experiments.look(experiment, "look 3")
    assert (third["decision"]["look"], third["analysis"]["earlier"]) == (2, [1])


@pytest.mark.parametrize("experiment", [ExperimentPlan(users_per_arm=6, look_interval_hours=5)], indirect=True)
def test_looks_keep_the_plans_interval(experiment: int) -> None:
    experiments.look(experiment, "look 1")
    rate(experiment, "a", LOW)
    rate(experiment, "b", HIGH)
    early = experiments.look(experiment, "look 2")
    assert (early["decision"]["action"], looks()) == ("continue", 2)
    assert "next look is due" in early["decision"]["reasons"][0]
    with transaction() as session:
        session.execute(update(ExperimentResult).values(calculated_at=func.now() - text("interval '6 hours'")))
    assert experiments.look(experiment, "look 3")["decision"]["action"] == "promote"


def test_a_person_stops_an_experiment_once_with_a_reason(
    experiment: int, server: FakeVllm, projected: list[str]
) -> None:
    done = experiments.stop("router-v1-v2", "wrong prompt", "kim")
    assert (done["action"], done["champion"], done["problem"]) == ("rolled_back", "router@v1", None)
    assert (stages(), shares(), list(server.loaded)) == (["production", "archived"], [1.0], ["router@v1"])
    with transaction() as session:
        ended = session.get_one(Experiment, experiment)
    assert (ended.status, ended.decision) == ("stopped", None)
    assert ended.decision_reasons[0]["en"] == "Stopped by kim: wrong prompt"
    with pytest.raises(GateRefusedError, match="has ended before: stopped"):
        experiments.stop("router-v1-v2", "again", "kim")
    late = {"experiment_id": experiment, "decision": experiments.look(experiment, "late")["decision"]}
    assert experiments.act(late, "analysis")["action"] == "kept"


@pytest.mark.parametrize(("winner", "expected"), [("a", ["production", "archived"]), ("b", ["archived", "production"])])
def test_a_person_concludes_an_experiment_with_a_winner(
    experiment: int, projected: list[str], winner: Literal["a", "b"], expected: list[str]
) -> None:
    experiments.conclude("router-v1-v2", winner, "customers prefer it", "kim")
    assert (stages(), shares()) == (expected, [1.0])
    with transaction() as session:
        ended = session.get_one(Experiment, experiment)
    assert ended.status == "completed"
    assert "customers prefer it" in ended.decision_reasons[0]["en"]
    with pytest.raises(GateRefusedError, match="has ended before"):
        experiments.conclude("router-v1-v2", "a", "no", "lee")


@pytest.mark.parametrize("experiment", [WATCHED], indirect=True)
def test_the_report_shows_all_looks_and_masks_personal_data(experiment: int) -> None:
    rate(experiment, "a", LOW * 20)
    rate(experiment, "b", HIGH * 20)
    with transaction() as session:
        asked = {"query": "제 번호는 010-1234-5678 입니다", "response": RequestLog.variant + " 답변"}
        session.execute(update(RequestLog).where(RequestLog.request_id.in_(["first-a-0", "first-b-0"])).values(asked))
    experiments.look(experiment, "look 1")
    with transaction() as session:
        data = report_data.of_experiment(session, "router-v1-v2")
    page = report.render(data)
    assert [pair.responses for pair in data.answers] == [{"a": "a 답변", "b": "b 답변"}]
    assert "010-1234-5678" not in page
    for shown in ("router@v1", "router@v2", "error_share", "신뢰 수열", "Confidence sequence", "<polygon"):
        assert shown in page
