from __future__ import annotations

import datetime as dt
import itertools
import threading
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tollgate.errors import BadInputError, GateRefusedError
from tollgate.experiments.analysis import (
    analyze,
    conclude,
    open_experiment,
    record_look,
    standings,
)
from tollgate.experiments.decision import Action, Decision, decide
from tollgate.experiments.observations import load_observations
from tollgate.experiments.plan import ExperimentPlan
from tollgate.store.session import transaction
from tollgate.store.tables import Assignment, Experiment, ExperimentResult, RegisteredModel, RequestLog

PLAN = ExperimentPlan(users_per_arm=20)
ROUTE = "highway-router"
FINAL = Decision(action=Action.PROMOTE, final=True, reasons=["better"], reasons_ko=["낫습니다"])
numbers = itertools.count()


@pytest.fixture
def experiment(postgres_url: str) -> Experiment:
    """A running experiment: model 1 against model 2."""
    with transaction() as session:
        for version in (1, 2, 3):
            session.add(RegisteredModel(model_name=ROUTE, version=version, base_model="base", model_path="/models"))
        session.flush()
        return open_experiment(session, ROUTE, 1, 2, PLAN, "first", "operator")


def log(session: Session, experiment: Experiment, variant: str, user: str, rating: int | None, **fields: Any) -> None:
    """A request that the arm's own model answered, unless ``fields`` say otherwise."""
    own = {"a": experiment.model_a_id, "b": experiment.model_b_id}[variant]
    values = {"model_id": own, "status_code": 200, "response_time_ms": 10.0} | fields
    session.add(
        RequestLog(
            request_id=str(next(numbers)),
            experiment_id=experiment.id,
            route=ROUTE,
            user_hash=user,
            variant=variant,
            user_rating=rating,
            **values,
        )
    )


def test_users_count_once_with_their_mean(experiment: Experiment) -> None:
    with transaction() as session:
        given: dict[str, list[int | None]] = {"u1": [1, 2, 2], "u2": [5], "u3": [4, None]}
        for user, ratings in given.items():
            for rating in ratings:
                log(session, experiment, "a", user, rating, response_time_ms=30.0 if rating is None else 10.0)
        session.add(Assignment(experiment_id=experiment.id, user_hash="silent", variant="b"))
    with transaction() as session:
        seen = load_observations(session, experiment.id)
        often = load_observations(session, experiment.id, minimum_ratings=2)
    assert seen.means["a"] == pytest.approx([5 / 3, 5, 4])
    assert (seen.arms["a"].users, seen.arms["a"].ratings, seen.arms["a"].requests) == (3, 5, 6)
    assert seen.arms["a"].response_time_ms == pytest.approx(80 / 6)
    assert seen.arms["a"].mean == pytest.approx(np.mean([5 / 3, 5, 4]))
    assert (seen.arms["b"].assigned, seen.arms["b"].users, seen.arms["b"].mean) == (1, 0, None)
    assert often.means["a"] == pytest.approx([5 / 3])


def test_answers_of_another_model_never_count_for_an_arm(experiment: Experiment) -> None:
    with transaction() as session:
        log(session, experiment, "b", "u1", 2)
        log(session, experiment, "b", "u1", 5, model_id=experiment.model_a_id)
        log(session, experiment, "b", "u2", 5, model_id=None)
        log(session, experiment, "b", "u3", None, model_id=None)
        session.add(
            RequestLog(
                request_id="x", route=ROUTE, variant="b", user_rating=5, model_id=2, status_code=200, response_time_ms=1
            )
        )
    with transaction() as session:
        seen = load_observations(session, experiment.id)
    assert seen.means["b"].tolist() == [2.0]
    assert seen.foreign_ratings == 2
    assert (seen.arms["b"].assigned, seen.arms["b"].users, seen.arms["b"].requests) == (3, 1, 1)


def test_users_seen_in_both_arms_are_left_out_of_the_means(experiment: Experiment) -> None:
    with transaction() as session:
        log(session, experiment, "a", "both", 1)
        log(session, experiment, "a", "u1", 4)
        log(session, experiment, "a", None, 1)  # type: ignore[arg-type]
        session.add(Assignment(experiment_id=experiment.id, user_hash="both", variant="b"))
    with transaction() as session:
        seen = load_observations(session, experiment.id)
    assert seen.crossed_users == 1
    assert seen.means["a"].tolist() == [4.0]


def fill(session: Session, experiment: Experiment, users: int, difference: float) -> None:
    random = np.random.default_rng(users)
    for variant, mean in (("a", 3.0), ("b", 3.0 + difference)):
        for number, rating in enumerate(np.clip(np.rint(random.normal(mean, 0.8, users)), 1, 5)):
            log(session, experiment, variant, f"{variant}{number}", int(rating))


def test_a_look_goes_from_the_log_to_a_decision(experiment: Experiment) -> None:
    with transaction() as session:
        fill(session, experiment, 10, difference=1.5)
        early = analyze(session, experiment)
        fill(session, experiment, 20, difference=1.5)
        ready = analyze(session, experiment, now=experiment.start_date + dt.timedelta(hours=36))
    assert decide(PLAN, early).action is Action.CONTINUE
    assert decide(PLAN, ready).action is Action.PROMOTE
    assert ready.days == pytest.approx(1.5)
    assert ready.sample_ratio.observed == {"a": 20, "b": 20}


def test_an_empty_experiment_continues(experiment: Experiment) -> None:
    with transaction() as session:
        nothing = analyze(session, experiment)
    assert nothing.comparison is None
    assert decide(PLAN, nothing).action is Action.CONTINUE


def test_the_first_record_of_a_look_stands(experiment: Experiment) -> None:
    with transaction() as session:
        early = analyze(session, experiment)
        first = record_look(session, experiment, "run-1", early, decide(PLAN, early))
    with transaction() as session:
        fill(session, experiment, 20, difference=1.5)
    with transaction() as session:
        later = analyze(session, experiment)
        again = record_look(session, experiment, "run-1", later, decide(PLAN, later))
        other = record_look(session, experiment, "run-2", later, decide(PLAN, later))
    assert first == again
    assert (again.action, other.action) == (Action.CONTINUE, Action.PROMOTE)
    with transaction() as session:
        rows = session.scalars(select(ExperimentResult).order_by(ExperimentResult.look, ExperimentResult.variant)).all()
    assert [(row.look, row.variant, row.users, row.winner, row.statistical_significance) for row in rows] == [
        ("run-1", "a", 0, False, False),
        ("run-1", "b", 0, False, False),
        ("run-2", "a", 20, False, True),
        ("run-2", "b", 20, True, True),
    ]
    assert rows[0].confidence_interval == {}
    assert rows[3].confidence_interval["low"] > 0
    assert rows[3].avg_rating is not None
    assert rows[3].avg_rating > 3.5


def test_opening_again_finds_what_the_first_attempt_made(experiment: Experiment) -> None:
    with transaction() as session:
        again = open_experiment(session, ROUTE, 1, 2, PLAN, "first", "operator")
    assert (again.id, again.salt) == (experiment.id, experiment.salt)
    with transaction() as session:
        conclude(session, experiment.id, FINAL, "analysis")
    with transaction() as session:
        assert open_experiment(session, ROUTE, 1, 2, PLAN, "first", "operator").status == "completed"
        second = open_experiment(session, ROUTE, 2, 3, PLAN, "second", "operator")
    assert second.id != experiment.id
    assert second.salt != experiment.salt
    assert (second.target_samples, second.traffic_split) == (20, {"a": 0.5, "b": 0.5})


@pytest.mark.parametrize(
    ("route", "b", "name", "error", "message"),
    [
        (ROUTE, 3, "second", GateRefusedError, "running experiment already: first"),
        (ROUTE, 3, "first", BadInputError, "compares models 1 and 2"),
        ("other", 2, "first", BadInputError, "name is taken"),
        ("other", 99, "third", BadInputError, "found 99"),
    ],
)
def test_what_cannot_be_opened_is_refused(
    experiment: Experiment, route: str, b: int, name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message), transaction() as session:
        open_experiment(session, route, 1, b, PLAN, name, "operator")
    with transaction() as session:
        assert session.scalar(select(func.count(Experiment.id))) == 1


def test_of_many_who_conclude_at_once_one_does(experiment: Experiment) -> None:
    barrier = threading.Barrier(4)
    conclusions = []

    def race(action: Action) -> None:
        barrier.wait()
        with transaction() as session:
            conclusions.append(conclude(session, experiment.id, FINAL.model_copy(update={"action": action}), "racer"))

    actions = [Action.PROMOTE, Action.ROLL_BACK, Action.HOLD, Action.PROMOTE]
    racers = [threading.Thread(target=race, args=(action,)) for action in actions]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert sorted(conclusion.changed for conclusion in conclusions) == [False, False, False, True]
    [stands] = {conclusion.action for conclusion in conclusions}
    with transaction() as session:
        ended = session.get_one(Experiment, experiment.id)
    assert (ended.status, ended.decision) == ("completed", stands)
    assert ended.end_date is not None
    assert ended.decision_reasons[0] == {"en": "better", "ko": "낫습니다"}
    assert "racer" in ended.decision_reasons[-1]["en"]


def test_only_a_final_decision_concludes(experiment: Experiment) -> None:
    with pytest.raises(ValueError, match="continue"), transaction() as session:
        conclude(session, experiment.id, FINAL.model_copy(update={"action": Action.CONTINUE, "final": False}), "x")


def test_standings_count_users_and_show_no_ratings(experiment: Experiment) -> None:
    with transaction() as session:
        fill(session, experiment, 7, difference=0)
    with transaction() as session:
        [standing] = standings(session)
    assert (standing.champion, standing.challenger) == ("highway-router@v1", "highway-router@v2")
    assert (standing.users, standing.planned, standing.status) == ({"a": 7, "b": 7}, 20, "running")


def test_guardrails_are_read_from_the_log(postgres_url: str) -> None:
    guardrails = [
        {"metric": name, "margin": 0.01}
        for name in ("error_share", "empty_share", "success", "response_time_ms", "response_time_p95_ms")
    ]
    plan = ExperimentPlan(users_per_arm=20, guardrails=guardrails)
    with transaction() as session:
        for version in (1, 2):
            session.add(RegisteredModel(model_name=ROUTE, version=version, base_model="base", model_path="/models"))
        session.flush()
        opened = open_experiment(session, ROUTE, 1, 2, plan, "guarded", "operator")
        log(session, opened, "b", "u1", 5, response="good", response_time_ms=100)
        log(session, opened, "b", "u1", None, response="  ", response_time_ms=300)
        log(session, opened, "b", "u2", None, status_code=502)
        log(session, opened, "b", "u2", None, model_id=1, response="by another model")
        log(session, opened, "b", "u2", None, status_code=499)
        log(session, opened, "b", "u3", None, completion_tokens=0)
    with transaction() as session:
        seen = load_observations(session, opened.id)
    means = {name: arms["b"].tolist() for name, arms in seen.guardrail_means.items()}
    assert means["error_share"] == [0, 1, 0], "a failover is an error of the arm, a client that hangs up is none"
    assert means["empty_share"] == [0.5, 1]
    assert means["success"] == [0.5, 0, 0]
    assert means["response_time_ms"] == [200, 10]
    requests = seen.guardrail_requests["response_time_p95_ms"]["b"]
    assert sorted(requests.values.tolist()) == [10, 100, 300]
    assert len(set(requests.users.tolist())) == 2
    assert seen.arms["b"].served == 3


def test_history_is_what_users_rated_before_on_the_route(postgres_url: str) -> None:
    plan = ExperimentPlan(users_per_arm=20, adjust_for_history=True)
    with transaction() as session:
        for version in (1, 2):
            session.add(RegisteredModel(model_name=ROUTE, version=version, base_model="base", model_path="/models"))
        session.flush()
        opened = open_experiment(session, ROUTE, 1, 2, plan, "adjusted", "operator")
        log(session, opened, "a", "u1", 5)
        log(session, opened, "a", "u2", 4)
        before = {"route": ROUTE, "model_id": 1, "status_code": 200, "response_time_ms": 1.0}
        for number, rating in enumerate((1, 2)):
            then = opened.start_date - dt.timedelta(days=1)
            session.add(
                RequestLog(request_id=f"old{number}", user_hash="u1", user_rating=rating, created_at=then, **before)
            )
    with transaction() as session:
        seen = load_observations(session, opened.id)
    assert seen.history is not None
    assert seen.history["a"][0] == 1.5
    assert np.isnan(seen.history["a"][1])


def test_a_metric_that_the_log_does_not_have_is_refused(experiment: Experiment) -> None:
    plan = ExperimentPlan(metric="clicks", minimum_effect=1, guardrails=[{"metric": "taste_p95_ms", "margin": 1}])
    with pytest.raises(BadInputError, match=r"metric: found clicks.*\n.*guardrails\[0\]"), transaction() as session:
        open_experiment(session, "another", 1, 2, plan, "other", "operator")
