"""Experiments in the database: opening one, reading its ratings, recording a look, concluding.

Every function works inside the caller's transaction, and may be repeated after a crash with the same outcome.
"""

from __future__ import annotations

import datetime as dt
import secrets
from dataclasses import dataclass

from pydantic import BaseModel
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from tollgate.errors import BadInputError, GateRefusedError, Problem
from tollgate.experiments.decision import Action, Analysis, Decision
from tollgate.experiments.looks import ARMS, examine
from tollgate.experiments.observations import check_columns, load_observations
from tollgate.experiments.plan import ExperimentPlan
from tollgate.store.tables import Experiment, ExperimentResult, RegisteredModel

_SECONDS_A_DAY = 86_400


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
    check_columns(plan)
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
    earlier = [look for look, _ in looks_taken(session, experiment.id)]
    return examine(plan, seen, experiment.id, age.total_seconds() / _SECONDS_A_DAY, earlier)


def looks_taken(session: Session, experiment_id: int) -> list[tuple[int, float | None]]:
    """The planned looks that are on record: which, and its boundary as a normal deviate."""
    decision = ExperimentResult.details["decision"]
    rows = session.execute(
        select(decision["look"].as_integer(), decision["boundary"].as_float())
        .where(ExperimentResult.experiment_id == experiment_id, ExperimentResult.variant == "b")
        .where(decision["look"].as_integer().is_not(None))
        .order_by(decision["look"].as_integer())
    )
    return [(look, boundary) for look, boundary in rows.tuples()]


def recorded(session: Session, experiment_id: int, look_id: str) -> tuple[Analysis, Decision] | None:
    """What is on record of a look, if it was taken before."""
    details = session.scalar(
        select(ExperimentResult.details).where(
            ExperimentResult.experiment_id == experiment_id,
            ExperimentResult.look == look_id,
            ExperimentResult.variant == "b",
        )
    )
    if details is None:
        return None
    return Analysis.model_validate(details["analysis"]), Decision.model_validate(details["decision"])


def last_look(session: Session, experiment_id: int) -> dt.datetime | None:
    """When the newest look was taken."""
    newest = select(func.max(ExperimentResult.calculated_at)).where(ExperimentResult.experiment_id == experiment_id)
    return session.scalar(newest)


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
    kept = recorded(session, experiment.id, look_id)
    assert kept is not None
    return kept[1]


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


def stop(session: Session, experiment_id: int, reason: str, by: str) -> bool:
    """End a running experiment without a decision, by compare-and-set.

    Args:
        session: Of the caller's transaction.
        experiment_id: In ``ab_experiments``.
        reason: In words.
        by: Who stopped it.

    Returns:
        False if it had ended before.
    """
    reasons = [{"en": f"Stopped by {by}: {reason}", "ko": f"{by} 중단: {reason}"}]
    stopped = session.scalar(
        update(Experiment)
        .where(Experiment.id == experiment_id, Experiment.status == "running")
        .values(status="stopped", decision_reasons=reasons, end_date=func.now())
        .returning(Experiment.id)
    )
    return stopped is not None


def find(session: Session, name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        BadInputError: There is none.
    """
    experiment = session.scalar(select(Experiment).where(Experiment.experiment_name == name))
    if experiment is None:
        problem = Problem("name", repr(name), "a name from tollgate experiment status")
        raise BadInputError("There is no such experiment.", [problem])
    return experiment


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
