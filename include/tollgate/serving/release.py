"""From an approved candidate to production: at once where there is no champion, else through an experiment.

Every function changes registry, route and experiment in one transaction of the caller, after vLLM holds what the route
will need. Repeated after a crash it does nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from tollgate.errors import BadInputError, GateRefusedError, Problem
from tollgate.experiments.analysis import conclude, open_experiment, stop
from tollgate.experiments.decision import Action, Decision
from tollgate.experiments.plan import ExperimentPlan
from tollgate.reasons import Reason, as_reason
from tollgate.registry import lifecycle
from tollgate.registry.lifecycle import Stage
from tollgate.serving import canary_rollout
from tollgate.serving.canary import CanaryPlan
from tollgate.serving.canary_rollout import RolloutState
from tollgate.serving.client import VllmClient
from tollgate.serving.probes import Probe
from tollgate.serving.rollout import deploy, ensure_served, is_served, set_route
from tollgate.serving.servers import has_own_server, withdraw
from tollgate.store.tables import Deployment, Experiment, RegisteredModel

_ALONE = Reason("Nothing else served the route.", "이 경로에 다른 운영 버전이 없었습니다.")


class Release(BaseModel):
    """What became of a version.

    Attributes:
        action: ``promoted``: it has the whole route; ``experiment``: it shares the route with the champion;
            ``rolled_back``: the champion has the whole route again; ``kept``: nothing changed.
        served_name: The version, for example ``highway-router@v3``.
        champion: The version that it replaced or stands against.
        experiment_id: The experiment, if one was opened or concluded.
    """

    model_config = ConfigDict(frozen=True)

    action: Literal["promoted", "experiment", "rolled_back", "kept"]
    route: str
    served_name: str
    champion: str | None = None
    experiment_id: int | None = None


def has_champion(session: Session, model_id: int) -> bool:
    """Whether another version of the same model is in production."""
    model = lifecycle.get(session, model_id)
    champion = lifecycle.champion(session, model.model_name)
    return champion is not None and champion.id != model.id


def promote(
    session: Session, model_id: int, by: str, why: Reason | str, prompts: Sequence[Probe], client: VllmClient
) -> Release:
    """Give a version its whole route and make it the production version; experiment and rollout on it stop.

    Args:
        session: The caller's transaction.
        model_id: A version with a verdict that lets it pass.
        by: Who decided.
        why: The reason, in words; a text is a person's own.
        prompts: Questions that it must answer before the route moves.
        client: The vLLM replicas.

    Raises:
        GateRefusedError: Its verdict does not allow it, or it answers nothing.
        ServiceUnavailableError: A replica did not answer; nothing was changed.
    """
    model = lifecycle.get(session, model_id)
    lifecycle.lock_model(session, model.model_name)  # before adapter and route, the same order everywhere
    model = _stage(session, model_id, by, why)
    former = lifecycle.champion(session, model.model_name)
    deploy(session, model.model_name, model.id, by, prompts, client)
    lifecycle.promote_to_production(session, model.id, by, why)
    words = as_reason(why)
    reason = Reason(
        f"{model.served_name} got the whole route. {words.en}",
        f"{model.served_name}이(가) 경로 전체를 맡았습니다. {words.ko}",
    )
    _stop_experiment(session, model.model_name, reason)
    canary_rollout.stop(session, model.model_name, by, reason)
    other = former.served_name if former and former.id != model.id else None
    return Release(action="promoted", route=model.model_name, served_name=model.served_name, champion=other)


def open_test(
    session: Session,
    model_id: int,
    by: str,
    why: Reason | str,
    plan: ExperimentPlan,
    prompts: Sequence[Probe],
    client: VllmClient,
) -> Release:
    """Stage a version and let it share the champion's route in an experiment.

    Raises:
        GateRefusedError: There is no champion to test against, the route has a running experiment already, or the
            version was released or archived before.
        ServiceUnavailableError: A replica did not answer; nothing was changed.
    """
    model = lifecycle.get(session, model_id)
    route = model.model_name
    lifecycle.lock_model(session, route)
    champion = lifecycle.champion(session, route)
    if champion is None:
        raise GateRefusedError(f"{route} has no production version to test {model.served_name} against.")
    running = session.scalar(select(Experiment).where(Experiment.route == route, Experiment.status == "running"))
    if running is not None and running.model_b_id != model.id:
        raise GateRefusedError(f"Experiment {running.experiment_name} is running on {route}; conclude it first.")
    if canary_rollout.running(session, route) is not None:
        raise GateRefusedError(f"A rollout is running on {route}; wait for it, or abort it.")
    words = as_reason(why)
    other = champion.served_name
    tested = Reason(f"to be tested against {other}. {words.en}", f"{other}과(와) 비교 시험. {words.ko}")
    model = _stage(session, model_id, by, tested)
    if model.status != Stage.STAGING:
        raise GateRefusedError(f"{model.served_name} is {model.status}; only a candidate can be tested.")
    deploy(session, route, model.id, by, prompts, client, share=plan.split["b"])
    name = f"{route}-v{champion.version}-v{model.version}"
    experiment = open_experiment(session, route, champion.id, model.id, plan, name, by)
    return Release(
        action="experiment",
        route=route,
        served_name=model.served_name,
        champion=champion.served_name,
        experiment_id=experiment.id,
    )


def begin_rollout(
    session: Session,
    model_id: int,
    by: str,
    why: Reason | str,
    plan: CanaryPlan,
    prompts: Sequence[Probe],
    client: VllmClient,
) -> RolloutState:
    """Give a version the first share of its route, as ``canary_rollout.begin`` does; where nothing serves, the whole.

    Raises:
        GateRefusedError: As ``canary_rollout.begin``.
        ServiceUnavailableError: A replica did not answer; nothing was changed.
    """
    model = lifecycle.get(session, model_id)
    lifecycle.lock_model(session, model.model_name)
    if has_champion(session, model.id):
        return canary_rollout.begin(session, model.id, by, why, plan, prompts, client)
    promote(session, model.id, by, why, prompts, client)
    return RolloutState(
        rollout_id=None,
        route=model.model_name,
        served_name=model.served_name,
        former=None,
        status="completed",
        share=1.0,
        action="complete",
        reasons=(_ALONE.en,),
        reasons_ko=(_ALONE.ko,),
    )


def settle(session: Session, experiment_id: int, decision: Decision, by: str) -> Release:
    """Carry out an experiment's decision: the challenger gets the whole route, or the champion does.

    Both versions are loaded while the experiment runs, so that the route moves at once, and nothing has to be loaded.
    A decision that is not final changes nothing. Where the experiment has ended before, what was decided then stands,
    and nothing is changed: whoever ended it moved the route in the same transaction.
    """
    experiment = session.get_one(Experiment, experiment_id)
    lifecycle.lock_model(session, experiment.route)
    champion = lifecycle.get(session, experiment.model_a_id)
    challenger = lifecycle.get(session, experiment.model_b_id)
    if not decision.final:
        return _release("kept", experiment, challenger, champion)
    why = Reason(
        f"experiment {experiment.experiment_name}: {' '.join(decision.reasons)}",
        f"실험 {experiment.experiment_name}: {' '.join(decision.reasons_ko)}",
    )
    ended = conclude(session, experiment_id, decision, by)
    if not ended.changed:
        return _release(_done_before(ended.action), experiment, challenger, champion)
    if decision.action is Action.PROMOTE:
        lifecycle.promote_to_production(session, challenger.id, by, why, replacing=champion.id)
        set_route(session, experiment.route, {challenger.id: 1.0}, by)
        return _release("promoted", experiment, challenger, champion)
    lifecycle.archive(session, challenger.id, by, why)
    set_route(session, experiment.route, {champion.id: 1.0}, by)
    return _release("rolled_back", experiment, challenger, champion)


def stop_test(session: Session, experiment_id: int, reason: str, by: str) -> Release:
    """End an experiment without a winner: the champion has the whole route again, the challenger is archived.

    Where the experiment has ended before, nothing is changed.

    Args:
        session: The caller's transaction.
        experiment_id: The experiment.
        reason: In words; kept with the experiment and the version.
        by: Who stopped it.
    """
    experiment = session.get_one(Experiment, experiment_id)
    lifecycle.lock_model(session, experiment.route)
    champion = lifecycle.get(session, experiment.model_a_id)
    challenger = lifecycle.get(session, experiment.model_b_id)
    if not stop(session, experiment_id, reason, by):
        return _release("kept", experiment, challenger, champion)
    name = experiment.experiment_name
    why = Reason(f"experiment {name} was stopped: {reason}", f"실험 {name} 중단: {reason}")
    lifecycle.archive(session, challenger.id, by, why)
    set_route(session, experiment.route, {champion.id: 1.0}, by)
    return _release("rolled_back", experiment, challenger, champion)


def roll_back(
    session: Session, route: str, by: str, why: str, client: VllmClient, away_from: int | None = None
) -> Release:
    """Leave what was released last, in one call: the rollout or experiment under way, else the production version.

    Nothing is asked and, where the version before is still loaded, nothing is loaded: the route moves when the
    transaction commits, and the gateway follows within its refresh time.

    Args:
        session: The caller's transaction.
        route: Name that clients use.
        by: Who decided.
        why: The reason, in words.
        client: The vLLM replicas.
        away_from: The version to leave; nothing happens where it has no part of the route any more, so that a retry
            cannot go back twice. Null: whichever was released last.

    Raises:
        BadInputError: There is no version to go back to.
        ServiceUnavailableError: No replica has the former version, and one did not answer; nothing was changed.
    """
    lifecycle.lock_model(session, route)
    rollout = canary_rollout.running(session, route)
    if rollout is not None and away_from in {None, rollout.model_id}:
        ended = canary_rollout.abort(session, rollout, by, why)
        return Release(action="rolled_back", route=route, served_name=ended.served_name, champion=ended.former)
    running = session.scalar(select(Experiment).where(Experiment.route == route, Experiment.status == "running"))
    if running is not None and away_from in {None, running.model_b_id}:
        return stop_test(session, running.id, why, by)
    present, former = lifecycle.champion(session, route), lifecycle.predecessor(session, route)
    if away_from is not None and (present is None or present.id != away_from):
        left, serving = lifecycle.get(session, away_from), present.served_name if present else None
        return Release(action="kept", route=route, served_name=left.served_name, champion=serving)
    if present is None or former is None:
        expected = "one in production, and a former version of it"
        raise BadInputError("There is nothing to go back to.", [Problem("route", route, expected)])
    if has_own_server(former) or not is_served(former, client):
        ensure_served(session, former, client)
    if rollout is not None:
        canary_rollout.abort(session, rollout, by, why)
    if running is not None:
        stop_test(session, running.id, why, by)
    reason = Reason(f"{lifecycle.ROLLBACK}{present.served_name}: {why}", f"{present.served_name}에서 되돌림: {why}")
    lifecycle.promote_to_production(session, former.id, by, reason, replacing=present.id)
    set_route(session, route, {former.id: 1.0}, by)
    return Release(action="rolled_back", route=route, served_name=present.served_name, champion=former.served_name)


def way_back(session: Session, route: str, away_from: int | None = None) -> RegisteredModel | None:
    """The version that :func:`roll_back` would bring back into production.

    Null where it would only end a rollout or an experiment, or do nothing.
    """
    rollout = canary_rollout.running(session, route)
    running = session.scalar(select(Experiment).where(Experiment.route == route, Experiment.status == "running"))
    under_way = {one for one in (rollout and rollout.model_id, running and running.model_b_id) if one is not None}
    present = lifecycle.champion(session, route)
    if away_from is None:
        return None if under_way else lifecycle.predecessor(session, route)
    if away_from in under_way or present is None or present.id != away_from:
        return None
    return lifecycle.predecessor(session, route)


def retire(session: Session, route: str, by: str, why: str) -> list[str]:
    """Take every version of a route out of service: its experiment stops, its versions are archived, nothing serves it.

    Returns:
        The served names of the versions that were not archived yet.
    """
    lifecycle.lock_model(session, route)  # before the experiment, as a decision on it does
    _stop_experiment(session, route, Reason(why, why))
    canary_rollout.stop(session, route, by, Reason(why, why))
    serving = update(Deployment).where(Deployment.route == route, Deployment.ended_at.is_(None))
    session.execute(serving.values(ended_at=func.clock_timestamp()))
    in_use = {Stage.CANDIDATE, Stage.STAGING, Stage.PRODUCTION}
    gone = [model for model in lifecycle.versions(session, route) if Stage(model.status) in in_use]
    for model in gone:
        lifecycle.archive(session, model.id, by, why)
        if has_own_server(model):
            withdraw(session, model.id)
    return [model.served_name for model in gone]


def _stage(session: Session, model_id: int, by: str, why: Reason | str) -> RegisteredModel:
    model = lifecycle.get(session, model_id)
    if model.status == Stage.CANDIDATE:
        return lifecycle.move(session, model_id, Stage.CANDIDATE, Stage.STAGING, by, why)
    return model


def _stop_experiment(session: Session, route: str, why: Reason) -> None:
    running = update(Experiment).where(Experiment.route == route, Experiment.status == "running")
    end = func.clock_timestamp()
    session.execute(running.values(status="stopped", decision_reasons=[why._asdict()], end_date=end))


def _done_before(action: Action | None) -> Literal["promoted", "rolled_back", "kept"]:
    if action is None:  # somebody stopped it without a decision
        return "kept"
    return "promoted" if action is Action.PROMOTE else "rolled_back"


def _release(
    action: Literal["promoted", "rolled_back", "kept"],
    experiment: Experiment,
    challenger: RegisteredModel,
    champion: RegisteredModel,
) -> Release:
    return Release(
        action=action,
        route=experiment.route,
        served_name=challenger.served_name,
        champion=champion.served_name,
        experiment_id=experiment.id,
    )
