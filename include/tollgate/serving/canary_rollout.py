"""A version takes over its route share by share; every step is one transaction, so that a kill at any moment resumes.

The row in ``rollouts`` says where a rollout stands, ``rollout_events`` who decided what, when, why, on which figures.
Whoever looks (a task, the reconciler, a person) takes the model's lock first, so looks follow one another.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tollgate.errors import BadInputError, GateRefusedError, Problem
from tollgate.reasons import Reason, as_reason
from tollgate.registry import lifecycle
from tollgate.registry.lifecycle import Stage
from tollgate.serving.canary import CanaryPlan, Decision, judge
from tollgate.serving.canary_figures import measure
from tollgate.serving.client import VllmClient
from tollgate.serving.probes import Probe
from tollgate.serving.rollout import current, deploy, set_route
from tollgate.store.tables import Experiment, RegisteredModel, Rollout, RolloutEvent

LOOK_GROWTH = 1.1
"""A look may roll back once the new version's requests have grown so much since the last: looks are not free."""

_ONE_STEP = Reason("The plan has one step.", "계획의 단계가 하나입니다.")
_OTHER_VERSIONS = Reason("Somebody has given the route to other versions.", "누군가 경로를 다른 버전에 배정했습니다.")

Status = Literal["running", "completed", "rolled_back", "stopped"]


class RolloutState(BaseModel):
    """Where a rollout stands, after what was just done.

    Attributes:
        rollout_id: Null where there was no champion: the version got the whole route at once.
        share: The new version's share of the route.
        action: What was just done: ``begin``, ``wait``, ``hold``, ``advance``, ``complete``, ``roll_back``, ``none``.
        reasons: Why, in words.
        reasons_ko: The same in Korean; a person's own words stand in both.
    """

    model_config = ConfigDict(frozen=True)

    rollout_id: int | None
    route: str
    served_name: str
    former: str | None
    status: Status
    share: float
    action: str
    reasons: tuple[str, ...] = ()
    reasons_ko: tuple[str, ...] = ()


def begin(
    session: Session,
    model_id: int,
    by: str,
    why: Reason | str,
    plan: CanaryPlan,
    prompts: Sequence[Probe],
    client: VllmClient,
) -> RolloutState:
    """Load a version, look at its answers and give it the plan's first share beside the production version.

    ``tollgate.serving.release.begin_rollout`` is for routes that nothing may serve yet. Asked again for the version
    whose rollout runs, it changes nothing.

    Args:
        session: The caller's transaction.
        model_id: A version with a verdict that lets it pass.
        by: Who decided.
        why: The reason, in words; a text is a person's own.
        plan: Shares, times and margins.
        prompts: Questions that it must answer before it gets any traffic.
        client: The vLLM replicas.

    Raises:
        GateRefusedError: Nothing else serves the route, its verdict does not allow it, it answers wrongly, it was
            released or archived before, or an experiment or another rollout runs on the route.
        ServiceUnavailableError: A replica did not answer; nothing was changed.
    """
    model = lifecycle.get(session, model_id)
    route = model.model_name
    lifecycle.lock_model(session, route)
    session.refresh(model)
    champion = lifecycle.champion(session, route)
    if champion is None or champion.id == model.id:
        raise GateRefusedError(f"Nothing else than {model.served_name} serves {route}; there is nothing to take over.")
    present = running(session, route)
    if present is not None and present.model_id == model.id:
        return _state(session, present, "none")
    _refuse_unless_free(session, model, present)
    if model.status == Stage.CANDIDATE:
        lifecycle.move(session, model.id, Stage.CANDIDATE, Stage.STAGING, by, why)
    deploy(session, route, model.id, by, prompts, client, share=plan.steps[0])
    now, words = _now(session), as_reason(why)
    rollout = Rollout(
        route=route,
        model_id=model.id,
        former_id=champion.id,
        plan=plan.model_dump(mode="json"),
        reason=words.en,
        started_by=by,
        started_at=now,
        step_started_at=now,
    )
    session.add(rollout)
    session.flush()
    session.refresh(rollout)
    _note(session, rollout, "begin", plan.steps[0], by, (words,))
    if plan.steps[0] == 1:
        return _finish(session, rollout, plan, by, Decision("complete", (_ONE_STEP,)))
    return _state(session, rollout, "begin", (words,))


def look(session: Session, rollout_id: int, by: str) -> RolloutState:
    """Measure, decide, and do what was decided; a rollout that has ended is left as it is.

    Raises:
        BadInputError: There is no such rollout.
    """
    rollout = _locked(session, rollout_id)
    if rollout.status != "running":
        return _state(session, rollout, "none")
    if (overtaken := _overtaken(session, rollout)) is not None:
        return _end(session, rollout, "stopped", 0.0, by, (overtaken,))
    plan = CanaryPlan.model_validate(rollout.plan)
    new, former = (
        measure(session, rollout.route, lifecycle.get(session, model_id), rollout.step_started_at)
        for model_id in (rollout.model_id, rollout.former_id)
    )
    is_due = new.requests >= max(1.0, LOOK_GROWTH * rollout.looked_requests)
    if is_due:
        rollout.looks += 1
        rollout.looked_requests = new.requests
    seconds = (_now(session) - rollout.step_started_at).total_seconds()
    decision = judge(plan, rollout.step, seconds, rollout.looks if is_due else None, new, former)
    figures = {"new": new.summary(), "former": former.summary(), "looks": rollout.looks}
    return _carry_out(session, rollout, plan, by, decision, figures)


def abort(session: Session, rollout: Rollout, by: str, why: str) -> RolloutState:
    """Give the former version its whole route back and archive the new one."""
    return _go_back(session, rollout, by, (Reason(why, why),), {})


def stop(session: Session, route: str, by: str, why: Reason) -> None:
    """End the rollout on a route, if one runs, for somebody has moved the route otherwise."""
    rollout = running(session, route)
    if rollout is not None:
        _end(session, rollout, "stopped", 0.0, by, (why,))


def running(session: Session, route: str) -> Rollout | None:
    """The rollout that runs on a route."""
    return session.scalar(
        select(Rollout)
        .where(Rollout.route == route, Rollout.status == "running")
        .execution_options(populate_existing=True)
    )


def all_running(session: Session) -> list[int]:
    """Ids of all rollouts that run."""
    return list(session.scalars(select(Rollout.id).where(Rollout.status == "running").order_by(Rollout.id)))


def state(session: Session, rollout_id: int) -> RolloutState:
    """Where a rollout stands.

    Raises:
        BadInputError: There is no such rollout.
    """
    return _state(session, _get(session, rollout_id), "none")


def events(session: Session, rollout_id: int) -> list[RolloutEvent]:
    """What was decided about a rollout, oldest first."""
    query = select(RolloutEvent).where(RolloutEvent.rollout_id == rollout_id).order_by(RolloutEvent.id)
    return list(session.scalars(query))


def _refuse_unless_free(session: Session, model: RegisteredModel, present: Rollout | None) -> None:
    if present is not None:
        other = lifecycle.get(session, present.model_id).served_name
        raise GateRefusedError(f"{other} is being rolled out on {present.route}; wait for it, or abort it.")
    experiment = session.scalar(
        select(Experiment).where(Experiment.route == model.model_name, Experiment.status == "running")
    )
    if experiment is not None:
        raise GateRefusedError(f"Experiment {experiment.experiment_name} is running on {model.model_name}.")
    if model.status not in {Stage.CANDIDATE, Stage.STAGING}:
        raise GateRefusedError(f"{model.served_name} is {model.status}; only a candidate can be rolled out by steps.")


def _overtaken(session: Session, rollout: Rollout) -> Reason | None:
    champion = lifecycle.champion(session, rollout.route)
    if champion is None or champion.id != rollout.former_id:
        return Reason(
            f"The production version is {champion.served_name if champion else 'none'} meanwhile.",
            f"그사이 운영 버전이 바뀌었습니다: {champion.served_name if champion else '없음'}.",
        )
    if current(session, rollout.route).keys() != {rollout.model_id, rollout.former_id}:
        return _OTHER_VERSIONS
    return None


def _carry_out(
    session: Session, rollout: Rollout, plan: CanaryPlan, by: str, decision: Decision, figures: dict[str, Any]
) -> RolloutState:
    if decision.action == "roll_back":
        return _go_back(session, rollout, by, decision.told, figures)
    if decision.action == "complete":
        return _finish(session, rollout, plan, by, decision, figures)
    if decision.action == "advance":
        rollout.step += 1
        rollout.step_started_at, rollout.looked_requests = _now(session), 0
        share = plan.steps[rollout.step]
        set_route(session, rollout.route, {rollout.former_id: 1 - share, rollout.model_id: share}, by)
        _note(session, rollout, "advance", share, by, decision.told, figures)
    elif decision.action == "hold" and _last_action(session, rollout) != "hold":  # told once, not at every look
        _note(session, rollout, "hold", plan.steps[rollout.step], by, decision.told, figures)
    session.flush()
    return _state(session, rollout, decision.action, decision.told)


def _finish(
    session: Session,
    rollout: Rollout,
    plan: CanaryPlan,
    by: str,
    decision: Decision,
    figures: dict[str, Any] | None = None,
) -> RolloutState:
    rollout.step = len(plan.steps) - 1
    begun = _words_of_begin(session, rollout)
    why = Reason(
        f"rollout {rollout.id}: {' '.join(decision.reasons)} {begun.en}",
        f"단계적 출시 {rollout.id}: {' '.join(decision.reasons_ko)} {begun.ko}",
    )
    lifecycle.promote_to_production(session, rollout.model_id, by, why, replacing=rollout.former_id)
    set_route(session, rollout.route, {rollout.model_id: 1.0}, by)
    return _end(session, rollout, "completed", 1.0, by, decision.told, figures)


def _go_back(
    session: Session, rollout: Rollout, by: str, reasons: Sequence[Reason], figures: dict[str, Any]
) -> RolloutState:
    set_route(session, rollout.route, {rollout.former_id: 1.0}, by)
    why = Reason(
        f"rollout {rollout.id} was rolled back: {' '.join(reason.en for reason in reasons)}",
        f"단계적 출시 {rollout.id}을(를) 되돌림: {' '.join(reason.ko for reason in reasons)}",
    )
    lifecycle.archive(session, rollout.model_id, by, why)
    return _end(session, rollout, "rolled_back", 0.0, by, reasons, figures)


def _end(
    session: Session,
    rollout: Rollout,
    status: Status,
    share: float,
    by: str,
    reasons: Sequence[Reason],
    figures: dict[str, Any] | None = None,
) -> RolloutState:
    action = {"completed": "complete", "rolled_back": "roll_back"}.get(status, "stop")
    rollout.status, rollout.ended_at = status, _now(session)
    _note(session, rollout, action, share, by, reasons, figures)
    return _state(session, rollout, action, reasons)


def _note(
    session: Session,
    rollout: Rollout,
    action: str,
    share: float,
    by: str,
    reasons: Sequence[Reason],
    figures: dict[str, Any] | None = None,
) -> None:
    session.add(
        RolloutEvent(
            rollout_id=rollout.id,
            action=action,
            share=share,
            reason=" ".join(reason.en for reason in reasons),
            reason_ko=" ".join(reason.ko for reason in reasons),
            figures=figures or {},
            changed_by=by,
            changed_at=_now(session),
        )
    )
    session.flush()


def _words_of_begin(session: Session, rollout: Rollout) -> Reason:
    """Why it was begun; its first event has the Korean, too."""
    query = select(RolloutEvent).where(RolloutEvent.rollout_id == rollout.id).order_by(RolloutEvent.id)
    first = session.scalars(query.limit(1)).first()
    return Reason(rollout.reason, (first.reason_ko if first else None) or rollout.reason)


def _last_action(session: Session, rollout: Rollout) -> str | None:
    query = select(RolloutEvent.action).where(RolloutEvent.rollout_id == rollout.id).order_by(RolloutEvent.id.desc())
    return session.scalar(query.limit(1))


def _locked(session: Session, rollout_id: int) -> Rollout:
    rollout = _get(session, rollout_id)
    lifecycle.lock_model(session, rollout.route)
    session.refresh(rollout)
    return rollout


def _get(session: Session, rollout_id: int) -> Rollout:
    rollout = session.get(Rollout, rollout_id, populate_existing=True)
    if rollout is None:
        problem = Problem("rollout", str(rollout_id), "an id from tollgate rollout status")
        raise BadInputError("There is no such rollout.", [problem])
    return rollout


def _state(session: Session, rollout: Rollout, action: str, reasons: Sequence[Reason] = ()) -> RolloutState:
    status: Any = rollout.status
    shares = current(session, rollout.route)
    return RolloutState(
        rollout_id=rollout.id,
        route=rollout.route,
        served_name=lifecycle.get(session, rollout.model_id).served_name,
        former=lifecycle.get(session, rollout.former_id).served_name,
        status=status,
        share=shares.get(rollout.model_id, 0.0),
        action=action,
        reasons=tuple(reason.en for reason in reasons),
        reasons_ko=tuple(reason.ko for reason in reasons),
    )


def _now(session: Session) -> dt.datetime:
    """The database's clock: every process has the same."""
    return session.scalars(select(func.clock_timestamp())).one()
