"""Experiments in the database: opening one, reading its ratings, recording a look, concluding.

Every function works inside the caller's transaction, and may be repeated after a crash with the same outcome.
"""

from __future__ import annotations

import datetime as dt
import secrets
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from sqlalchemy import Float, Select, Subquery, case, cast, func, select, union, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from tollgate.errors import BadInputError, GateRefusedError, Problem
from tollgate.experiments.decision import Action, Analysis, Arm, Decision
from tollgate.experiments.plan import ExperimentPlan
from tollgate.experiments.statistics import compare, sample_ratio
from tollgate.store.tables import Assignment, Experiment, ExperimentResult, RegisteredModel, RequestLog

ARMS = ("a", "b")
"""The champion and the challenger."""

_SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class Observations:
    """What the log says about an experiment.

    Args:
        means: Per arm, the mean rating of each user, shape (users,), in the order of the users' pseudonyms.
        arms: Per arm, its counts.
        foreign_ratings: Ratings of answers that another model than the arm's own gave.
        crossed_users: Users seen in both arms; they are in neither ``means``.
    """

    means: dict[str, NDArray[np.float64]]
    arms: dict[str, Arm]
    foreign_ratings: int
    crossed_users: int


@dataclass(frozen=True)
class Conclusion:
    """How an experiment ended.

    Args:
        action: The decision that stands, whoever made it; none where a person stopped the experiment without one.
        changed: Whether this call made it; False if it stood before.
    """

    action: Action | None
    changed: bool


def open_experiment(
    session: Session,
    route: str,
    model_a_id: int,
    model_b_id: int,
    plan: ExperimentPlan,
    name: str,
    created_by: str,
    description: str | None = None,
) -> Experiment:
    """Start an experiment on a route, or return the one of that name.

    Args:
        session: Of the caller's transaction.
        route: Logical model name that the gateway's clients use.
        model_a_id: The champion, in ``model_registry``.
        model_b_id: The challenger.
        plan: Kept with the experiment; what is decided is decided by it.
        name: Unique; a retry with the same name finds what the first attempt made.
        created_by: Name of the Airflow user.
        description: For people.

    Raises:
        GateRefusedError: Another experiment runs on the route; one at a time may.
        BadInputError: An experiment of that name compares other models or another route, or a model does not exist.
    """
    for model_id in (model_a_id, model_b_id):
        if session.get(RegisteredModel, model_id) is None:
            problem = Problem("model", str(model_id), "the id of a registered model version")
            raise BadInputError(f"Experiment {name} cannot start.", [problem])
    values = {
        "experiment_name": name,
        "description": description,
        "route": route,
        "model_a_id": model_a_id,
        "model_b_id": model_b_id,
        "traffic_split": dict(plan.split),
        "salt": secrets.token_hex(16),
        "plan": plan.model_dump(mode="json"),
        "target_samples": plan.users_per_arm,
        "success_metric": plan.metric,
        "created_by": created_by,
    }
    # Without a target it yields to both constraints: the name, and one running experiment a route.
    session.execute(insert(Experiment).values(values).on_conflict_do_nothing())
    experiment = session.scalar(select(Experiment).where(Experiment.experiment_name == name))
    if experiment is None:
        on_route = (Experiment.route == route, Experiment.status == "running")
        running = session.scalar(select(Experiment.experiment_name).where(*on_route))
        raise GateRefusedError(f"Route {route} has a running experiment already: {running}. One at a time may run.")
    _check_same(experiment, route, model_a_id, model_b_id)
    return experiment


def _check_same(experiment: Experiment, route: str, model_a_id: int, model_b_id: int) -> None:
    there = (experiment.route, experiment.model_a_id, experiment.model_b_id)
    if there != (route, model_a_id, model_b_id):
        found = f"models {model_a_id} and {model_b_id} on {route}"
        expected = f"a name of its own; this one compares models {there[1]} and {there[2]} on {there[0]}"
        raise BadInputError("The experiment's name is taken.", [Problem(experiment.experiment_name, found, expected)])


def load_observations(session: Session, experiment_id: int, minimum_ratings: int = 1) -> Observations:
    """Read an experiment's users and ratings.

    A rating counts for an arm only where the arm's own model gave the answer: after a failover the user rates another.

    Args:
        session: Of the caller's transaction.
        experiment_id: In ``ab_experiments``.
        minimum_ratings: Users with fewer do not count.
    """
    experiment = session.get_one(Experiment, experiment_id)
    assigned = _assigned(experiment_id)
    arms_of_user = func.count(assigned.c.variant)
    crossed = select(assigned.c.user_hash).group_by(assigned.c.user_hash).having(arms_of_user > 1).subquery()
    own_model = case(
        (RequestLog.variant == "a", experiment.model_a_id), (RequestLog.variant == "b", experiment.model_b_id)
    )
    of_experiment = (RequestLog.experiment_id == experiment_id, RequestLog.variant.in_(ARMS))
    mean = func.avg(cast(RequestLog.user_rating, Float))
    ratings = (
        select(RequestLog.variant, mean, func.count(RequestLog.user_rating))
        .where(
            *of_experiment,
            RequestLog.model_id == own_model,
            RequestLog.user_rating.is_not(None),
            RequestLog.user_hash.not_in(select(crossed.c.user_hash)),
        )
        .group_by(RequestLog.variant, RequestLog.user_hash)
        .having(func.count(RequestLog.user_rating) >= minimum_ratings)
        .order_by(RequestLog.user_hash)
    )
    served = (
        select(RequestLog.variant, func.count(), func.avg(RequestLog.response_time_ms))
        .where(*of_experiment, RequestLog.model_id == own_model)
        .group_by(RequestLog.variant)
    )
    foreign = select(func.count(RequestLog.user_rating)).where(
        *of_experiment, RequestLog.model_id.is_distinct_from(own_model)
    )
    sizes = select(assigned.c.variant, func.count()).group_by(assigned.c.variant)
    means, arms = _by_arm(session, ratings, served, sizes)
    return Observations(
        means=means,
        arms=arms,
        foreign_ratings=session.scalar(foreign) or 0,
        crossed_users=session.scalar(select(func.count()).select_from(crossed)) or 0,
    )


def _assigned(experiment_id: int) -> Subquery:
    """Users and their arms, from the assignments and, should one have been lost, from the log."""
    return union(
        select(Assignment.variant, Assignment.user_hash).where(
            Assignment.experiment_id == experiment_id, Assignment.variant.in_(ARMS)
        ),
        select(RequestLog.variant, RequestLog.user_hash).where(
            RequestLog.experiment_id == experiment_id, RequestLog.variant.in_(ARMS), RequestLog.user_hash.is_not(None)
        ),
    ).subquery()


def _by_arm(
    session: Session,
    ratings: Select[str | None, float, int],
    served: Select[str | None, int, float],
    sizes: Select[str, int],
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Arm]]:
    users = session.execute(ratings).tuples().all()
    requests = {variant: (count, time) for variant, count, time in session.execute(served).tuples()}
    assigned = dict(session.execute(sizes).tuples().all())
    means, arms = {}, {}
    for name in ARMS:
        means[name] = np.array([mean for variant, mean, _ in users if variant == name], dtype=np.float64)
        count, time = requests.get(name, (0, None))
        arms[name] = Arm(
            assigned=assigned.get(name, 0),
            users=means[name].size,
            ratings=sum(number for variant, _, number in users if variant == name),
            mean=float(means[name].mean()) if means[name].size else None,
            requests=count,
            response_time_ms=time,
        )
    return means, arms


def analyze(session: Session, experiment: Experiment, now: dt.datetime | None = None) -> Analysis:
    """Take one look: all figures of an experiment as the log has them now.

    Args:
        session: Of the caller's transaction.
        experiment: What to look at.
        now: With a time zone; for the experiment's age.
    """
    plan = ExperimentPlan.model_validate(experiment.plan)
    seen = load_observations(session, experiment.id, plan.minimum_ratings_per_user)
    age = (now or dt.datetime.now(dt.UTC)) - experiment.start_date
    enough = all(values.size >= 2 for values in seen.means.values())
    return Analysis(
        experiment_id=experiment.id,
        arms=seen.arms,
        comparison=compare(seen.means["a"], seen.means["b"], plan.alpha) if enough else None,
        sample_ratio=sample_ratio({name: arm.assigned for name, arm in seen.arms.items()}, plan.split),
        days=age.total_seconds() / _SECONDS_A_DAY,
        foreign_ratings=seen.foreign_ratings,
        crossed_users=seen.crossed_users,
    )


def record_look(
    session: Session, experiment: Experiment, look_id: str, analysis: Analysis, decision: Decision
) -> Decision:
    """Keep a look in ``ab_test_results``, a row an arm; of a repeated look the first record stands.

    Args:
        session: Of the caller's transaction.
        experiment: What was looked at.
        look_id: The same for all attempts at one look, such as the DAG run's id.
        analysis: The figures.
        decision: What followed from them.

    Returns:
        The decision on record for this look. Act on it and not on ``decision``: an attempt before a crash may have
        seen, and begun to act on, fewer ratings.
    """
    rows = [_result(experiment, look_id, name, analysis, decision) for name in ARMS]
    session.execute(insert(ExperimentResult).values(rows).on_conflict_do_nothing(constraint="uq_ab_test_results_look"))
    recorded = select(ExperimentResult.details).where(
        ExperimentResult.experiment_id == experiment.id,
        ExperimentResult.look == look_id,
        ExperimentResult.variant == "b",
    )
    return Decision.model_validate(session.scalars(recorded).one()["decision"])


def _result(
    experiment: Experiment, look_id: str, name: str, analysis: Analysis, decision: Decision
) -> dict[str, object]:
    arm, comparison = analysis.arms[name], analysis.comparison
    winner = {Action.PROMOTE: "b", Action.ROLL_BACK: "a"}.get(decision.action)
    interval = comparison and {
        "difference": comparison.difference,
        "low": comparison.low,
        "high": comparison.high,
        "confidence": comparison.confidence,
    }
    return {
        "experiment_id": experiment.id,
        "look": look_id,
        "variant": name,
        "total_samples": arm.ratings,
        "users": arm.users,
        "avg_rating": arm.mean,
        "avg_response_time_ms": arm.response_time_ms,
        "confidence_interval": interval or {},
        # Only the look that decides asks for significance; on the way there a small p value means nothing.
        "statistical_significance": winner is not None,
        "winner": name == winner,
        "details": {"analysis": analysis.model_dump(mode="json"), "decision": decision.model_dump(mode="json")},
    }


def conclude(session: Session, experiment_id: int, decision: Decision, by: str) -> Conclusion:
    """End a running experiment, by compare-and-set: of two that conclude at once, one does.

    Args:
        session: Of the caller's transaction.
        experiment_id: In ``ab_experiments``.
        decision: A final one.
        by: Who or what concluded.

    Raises:
        ValueError: The decision is not final.
    """
    if not decision.final:
        raise ValueError(f"{decision.action} ends no experiment")
    reasons = [{"en": en, "ko": ko} for en, ko in zip(decision.reasons, decision.reasons_ko, strict=True)]
    reasons.append({"en": f"Concluded by {by}.", "ko": f"종료한 주체: {by}"})
    concluded = session.scalar(
        update(Experiment)
        .where(Experiment.id == experiment_id, Experiment.status == "running")
        .values(status="completed", decision=decision.action.value, decision_reasons=reasons, end_date=func.now())
        .returning(Experiment.id)
    )
    if concluded is not None:
        return Conclusion(decision.action, changed=True)
    stands = session.scalars(select(Experiment.decision).where(Experiment.id == experiment_id)).one()
    return Conclusion(Action(stands) if stands else None, changed=False)


class Standing(BaseModel):
    """An experiment in a list.

    Attributes:
        champion: Served name of arm A's model.
        challenger: Served name of arm B's model.
        users: Rated users per arm so far.
        planned: Rated users per arm at the look that decides.
        decision: None while it runs.
    """

    name: str
    route: str
    champion: str
    challenger: str
    users: dict[str, int]
    planned: int
    status: str
    decision: str | None


def standings(session: Session) -> list[Standing]:
    """All experiments, the newest first, without their ratings: to read those before the end is to peek."""
    experiments = session.scalars(select(Experiment).order_by(Experiment.start_date.desc(), Experiment.id.desc()))
    return [_standing(session, experiment) for experiment in experiments]


def _standing(session: Session, experiment: Experiment) -> Standing:
    plan = ExperimentPlan.model_validate(experiment.plan)
    seen = load_observations(session, experiment.id, plan.minimum_ratings_per_user)
    return Standing(
        name=experiment.experiment_name,
        route=experiment.route,
        champion=session.get_one(RegisteredModel, experiment.model_a_id).served_name,
        challenger=session.get_one(RegisteredModel, experiment.model_b_id).served_name,
        users={name: arm.users for name, arm in seen.arms.items()},
        planned=plan.users_per_arm,
        status=experiment.status,
        decision=experiment.decision,
    )
