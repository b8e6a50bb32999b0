"""The tasks of ``analyze_experiments``: one look at each running experiment, and what follows from it.

A person's commands end an experiment in the same way.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from sqlalchemy.orm import Session

from tollgate.errors import GateRefusedError, ServiceUnavailableError
from tollgate.experiments.analysis import analyze, find, last_look, record_look, recorded
from tollgate.experiments.decision import Action, Analysis, Decision, decide
from tollgate.experiments.plan import ExperimentPlan
from tollgate.registry import lifecycle
from tollgate.registry.mlflow_projection import project_model
from tollgate.serving import release
from tollgate.serving.client import VllmClient
from tollgate.serving.rollout import unload_if_unused
from tollgate.store.session import transaction
from tollgate.store.tables import Experiment


def look(experiment_id: int, look_id: str) -> dict[str, Any]:
    """Take and keep one look at an experiment.

    Args:
        experiment_id: The experiment.
        look_id: The same for all attempts at this look, so that it is counted once.

    Returns:
        ``experiment_id``, ``name``, the figures as ``analysis``, and the ``decision``.
    """
    with transaction() as session:
        experiment = session.get_one(Experiment, experiment_id, with_for_update=True)  # two looks at once are two looks
        analysis, decision = recorded(session, experiment_id, look_id) or _look(session, experiment, look_id)
        return {
            "experiment_id": experiment_id,
            "name": experiment.experiment_name,
            "analysis": analysis.model_dump(mode="json"),
            "decision": decision.model_dump(mode="json"),
        }


def _look(session: Session, experiment: Experiment, look_id: str) -> tuple[Analysis, Decision]:
    plan = ExperimentPlan.model_validate(experiment.plan)
    analysis = analyze(session, experiment)
    newest = last_look(session, experiment.id)
    if plan.look_interval_hours is not None and newest is not None:
        due = newest + dt.timedelta(hours=plan.look_interval_hours)
        if dt.datetime.now(dt.UTC) < due:
            return analysis, _not_yet(due)  # not recorded: the look is still to come
    return analysis, record_look(session, experiment, look_id, analysis, decide(plan, analysis))


def _not_yet(due: dt.datetime) -> Decision:
    when = f"{due.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"
    return Decision(
        action=Action.CONTINUE,
        final=False,
        reasons=[f"By the plan's interval the next look is due at {when}."],
        reasons_ko=[f"계획한 간격에 따라 다음 확인은 {when}입니다."],
    )


def act(outcome: dict[str, Any], by: str) -> dict[str, Any]:
    """Carry out a look's decision: promote, roll back, or leave as it is. Twice is the same as once.

    The loser of a promotion stays loaded, for the way back; a challenger that lost is unloaded.
    """
    decision = Decision.model_validate(outcome["decision"])
    with transaction() as session:
        done = release.settle(session, outcome["experiment_id"], decision, by)
    return _afterwards(done)


def conclude(name: str, winner: Literal["a", "b"], reason: str, by: str) -> dict[str, Any]:
    """End a running experiment with a person's winner.

    Args:
        name: The experiment's.
        winner: ``a``, the champion, stays; ``b``, the challenger, is promoted.
        reason: In words; kept with the experiment.
        by: Who decided.

    Raises:
        BadInputError: There is no such experiment.
        GateRefusedError: It has ended before.
    """
    action = Action.PROMOTE if winner == "b" else Action.ROLL_BACK
    decision = Decision(
        action=action,
        final=True,
        reasons=[f"A person decided for {winner.upper()}: {reason}"],
        reasons_ko=[f"담당자가 {winner.upper()}로 결정: {reason}"],
    )
    with transaction() as session:
        experiment = _running(session, name)
        done = release.settle(session, experiment.id, decision, by)
    return _as_far_as_possible(done)


def stop(name: str, reason: str, by: str) -> dict[str, Any]:
    """End a running experiment without a winner; the champion has the whole route again.

    Args:
        name: The experiment's.
        reason: In words; kept with the experiment.
        by: Who stopped it.

    Raises:
        BadInputError: There is no such experiment.
        GateRefusedError: It has ended before.
    """
    with transaction() as session:
        experiment = _running(session, name)
        done = release.stop_test(session, experiment.id, reason, by)
    return _as_far_as_possible(done)


def _running(session: Session, name: str) -> Experiment:
    experiment = find(session, name)
    lifecycle.lock_model(session, experiment.route)  # before its row, as a decision on it does
    session.refresh(experiment)
    if experiment.status != "running":
        ended = f"{experiment.status}, {experiment.decision}" if experiment.decision else experiment.status
        raise GateRefusedError(f"Experiment {name} has ended before: {ended}.")
    return experiment


def _as_far_as_possible(done: release.Release) -> dict[str, Any]:
    """The experiment has ended and the route has moved; what MLflow or vLLM missed is made good by the next run."""
    try:
        return {**_afterwards(done), "problem": None}
    except ServiceUnavailableError as error:
        return {**done.model_dump(mode="json"), "problem": str(error)}


def _afterwards(done: release.Release) -> dict[str, Any]:
    """What follows a move of the route, outside of its transaction; may be repeated."""
    if done.action != "kept":
        project_model(done.route)
    if done.action == "rolled_back":
        assert done.experiment_id is not None
        with VllmClient() as client, transaction() as session:
            challenger = session.get_one(Experiment, done.experiment_id).model_b_id
            unload_if_unused(session, challenger, client)
    return done.model_dump(mode="json")
