"""The stages of a model version, in PostgreSQL: the truth that MLflow and the gateway are projected from.

``candidate -> staging -> production -> archived``. A change is a compare-and-set: it happens only if the version still
is in the stage that the caller saw. Below that, a partial unique index holds that no model has two production versions.
Every function works in the caller's transaction (``tollgate.store.session.transaction``), so that a change and what
belongs to it, such as a deployment, are written together or not at all.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, get_args

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from tollgate.errors import BadInputError, GateRefusedError, Problem, TollgateError
from tollgate.reasons import Reason, as_reason
from tollgate.store.tables import FinetuningJob, RegisteredModel, StageTransition

Verdict = Literal["pass", "inconclusive", "fail"]


class Stage(StrEnum):
    """Where a model version stands on its way."""

    CANDIDATE = "candidate"
    STAGING = "staging"
    PRODUCTION = "production"
    ARCHIVED = "archived"


ALLOWED: dict[Stage, frozenset[Stage]] = {
    Stage.CANDIDATE: frozenset({Stage.STAGING, Stage.ARCHIVED}),
    Stage.STAGING: frozenset({Stage.PRODUCTION, Stage.ARCHIVED}),
    Stage.PRODUCTION: frozenset({Stage.ARCHIVED}),
    Stage.ARCHIVED: frozenset({Stage.STAGING, Stage.PRODUCTION}),  # a former champion comes back by a rollback
}
"""From each stage, the stages that a version may move to."""

PASSABLE: frozenset[str] = frozenset({"pass", "inconclusive"})
"""Verdicts with which a version may be staged or serve; an inconclusive one because a person said so, see ``why``."""


ROLLBACK = "rollback of "
"""Reasons of rollbacks begin so, followed by the version that was left."""


class StageConflictError(TollgateError):
    """The version is not in the stage that the caller saw: somebody changed it meanwhile. A retry would not help.

    Args:
        served_name: The version, for example ``highway-router@v3``.
        expected: The stage in which it should have been, in words.
        actual: The stage in which it is.
    """

    exit_status = 2

    def __init__(self, served_name: str, expected: str, actual: str) -> None:
        super().__init__(served_name, expected, actual)
        self.served_name = served_name
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        return f"{self.served_name} is {self.actual}, not {self.expected}; nothing was changed."


@dataclass(frozen=True)
class StageChange:
    """One line of a model's history; ``from_stage`` is null where the version was reserved.

    ``why_ko`` is ``why`` in Korean, the same where a person wrote it; null in lines from before there was one.
    """

    served_name: str
    version: int
    from_stage: str | None
    to_stage: str
    by: str
    why: str
    why_ko: str | None
    at: dt.datetime


def lock_model(session: Session, model_name: str) -> None:
    """Let the transactions that change one model's versions follow one another, until the caller's ends.

    Every change takes this lock by itself. Who takes further locks, as a rollout does, takes this one first, so that
    all take them in the same order and none waits for another that waits for it.
    """
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"model:{model_name}", 0))))


def reserve_version(
    session: Session,
    model_name: str,
    job_id: int,
    base_model: str,
    model_path: str,
    created_by: str,
    model_format: str = "peft",
    lineage: Sequence[str] = (),
) -> RegisteredModel:
    """Give a job's model the next version number of ``model_name``, as a candidate.

    The same job gets the same version again, however often it asks.

    Args:
        session: The caller's transaction.
        model_name: Logical name, for example ``highway-router``; also the route that clients use.
        job_id: Row of ``finetuning_jobs``.
        base_model: Folder or name of the base model.
        model_path: Folder of the adapter or of the full weights.
        created_by: Airflow user, or the name of the run.
        model_format: ``peft`` for an adapter, ``transformers`` for full weights.
        lineage: How it came to be, in words such as ``lora``, ``rank 16`` and ``merged``; kept as the version's tags.

    Raises:
        BadInputError: The job is unknown, or has already given a version of another model name.
    """
    lock_model(session, model_name)
    known = session.scalar(select(RegisteredModel).where(RegisteredModel.finetuning_job_id == job_id))
    if known is not None:
        if known.model_name != model_name:
            raise BadInputError("A job makes one model.", [Problem("model_name", model_name, known.model_name)])
        return known
    job = session.get(FinetuningJob, job_id)
    if job is None:
        raise BadInputError("The job is not known.", [Problem("job_id", str(job_id), "an id of finetuning_jobs")])
    newest = session.scalar(select(func.max(RegisteredModel.version)).where(RegisteredModel.model_name == model_name))
    model = RegisteredModel(
        model_name=model_name,
        version=(newest or 0) + 1,
        base_model=base_model,
        finetuning_job_id=job_id,
        model_path=model_path,
        model_format=model_format,
        tags=list(lineage),
        status=Stage.CANDIDATE.value,
        created_by=created_by,
    )
    session.add(model)
    session.flush()
    made = Reason(f"made by job {job.job_name}", f"학습 작업 {job.job_name}의 결과")
    _write_down(session, model, None, Stage.CANDIDATE, created_by, made)
    session.refresh(model)
    return model


def record_verdict(session: Session, model_id: int, verdict: Verdict, reasons: Sequence[str]) -> RegisteredModel:
    """Keep the verdict on a candidate and its reasons in words; the same verdict again changes nothing.

    Raises:
        BadInputError: There is no such version.
        StageConflictError: It is no candidate any more, and was decided upon with another verdict.
    """
    changed = session.scalar(
        update(RegisteredModel)
        .where(RegisteredModel.id == model_id, RegisteredModel.status == Stage.CANDIDATE.value)
        .values(verdict=verdict, verdict_reasons=list(reasons))
        .returning(RegisteredModel),
        execution_options={"populate_existing": True, "synchronize_session": False},
    )
    if changed is not None:
        return changed
    model = get(session, model_id)
    if model.verdict != verdict:
        raise StageConflictError(model.served_name, "a candidate that may get a new verdict", model.status)
    return model


def record_mlflow_uri(session: Session, model_id: int, uri: str) -> None:
    """Keep where MLflow has the version, for example ``models:/highway-router/3``."""
    session.execute(update(RegisteredModel).where(RegisteredModel.id == model_id).values(mlflow_model_uri=uri))


def record_manifest(session: Session, model_id: int, digest: str) -> None:
    """Keep the digest of the version's signed manifest; see ``tollgate.registry.signatures``."""
    session.execute(update(RegisteredModel).where(RegisteredModel.id == model_id).values(manifest_digest=digest))


def record_remark(session: Session, model: RegisteredModel, by: str, what: Reason | str) -> None:
    """Add a line to the version's history that leaves it in its stage."""
    _write_down(session, model, Stage(model.status), Stage(model.status), by, what)


def move(
    session: Session, model_id: int, from_stage: Stage | str, to_stage: Stage | str, by: str, why: Reason | str
) -> RegisteredModel:
    """Move a version from one stage to another if it still is in the first; asking for what already is changes nothing.

    Args:
        session: The caller's transaction.
        model_id: The version.
        from_stage: The stage in which the caller saw it.
        to_stage: The stage that it should have.
        by: Who decided: a user, or the name of a run.
        why: The reason, for people; a text is a person's own words.

    Raises:
        BadInputError: There is no such version, stage or transition.
        GateRefusedError: The version has no verdict, or failed, and should get further than the archive.
        StageConflictError: The version is in another stage; the error names it.
    """
    start, goal = _stage(from_stage), _stage(to_stage)
    if goal not in ALLOWED[start]:
        allowed = ", ".join(sorted(ALLOWED[start]))
        raise BadInputError("No such transition.", [Problem("to_stage", goal, f"from {start}: {allowed}")])
    model = get(session, model_id)
    lock_model(session, model.model_name)
    session.refresh(model)
    return _compare_and_set(session, model, start, goal, by, why)


def promote_to_production(
    session: Session, model_id: int, by: str, why: Reason | str, replacing: int | None = None
) -> RegisteredModel:
    """Make a staged version (or a former one, in a rollback) the production version; the present one is archived.

    Both happen in the caller's transaction, so that at no moment two versions or none are in production.

    Args:
        session: The caller's transaction.
        model_id: The version.
        by: Who decided: a user, or the name of a run.
        why: The reason, for people; a text is a person's own words.
        replacing: Id of the champion on which the decision was based; null: whichever there is.

    Raises:
        BadInputError: There is no such version.
        GateRefusedError: It never passed.
        StageConflictError: It is in a stage that has no way to production, or ``replacing`` is not the champion.
    """
    model = get(session, model_id)
    lock_model(session, model.model_name)
    session.refresh(model)
    if model.status == Stage.PRODUCTION.value:
        return model
    if Stage.PRODUCTION not in ALLOWED[Stage(model.status)]:
        raise StageConflictError(model.served_name, "staging or archived", model.status)
    present = champion(session, model.model_name)
    if replacing is not None and (present is None or present.id != replacing):
        former = get(session, replacing)
        raise StageConflictError(former.served_name, "production", former.status)
    if present is not None:
        words = as_reason(why)
        name = model.served_name
        reason = Reason(f"replaced by {name}: {words.en}", f"{name}(으)로 교체: {words.ko}")
        _compare_and_set(session, present, Stage.PRODUCTION, Stage.ARCHIVED, by, reason)
    return _compare_and_set(session, model, Stage(model.status), Stage.PRODUCTION, by, why)


def archive(session: Session, model_id: int, by: str, why: Reason | str) -> RegisteredModel:
    """Take a version out of use, from whichever stage it is in; archiving twice changes nothing.

    Raises:
        BadInputError: There is no such version.
    """
    model = get(session, model_id)
    lock_model(session, model.model_name)
    session.refresh(model)
    if model.status == Stage.ARCHIVED.value:
        return model
    return _compare_and_set(session, model, Stage(model.status), Stage.ARCHIVED, by, why)


def get(session: Session, model_id: int) -> RegisteredModel:
    """The version with this id, as it is now.

    Raises:
        BadInputError: There is none.
    """
    model = session.get(RegisteredModel, model_id, populate_existing=True)
    if model is None:
        raise BadInputError(
            "The model version is not known.", [Problem("model_id", str(model_id), "an id of model_registry")]
        )
    return model


def find(session: Session, served_name: str) -> RegisteredModel:
    """The version with this served name, for example ``highway-router@v3``.

    Raises:
        BadInputError: There is none, or the name has another form.
    """
    name, separator, number = served_name.rpartition("@v")
    model = None
    if separator and number.isdecimal():
        model = session.scalar(
            select(RegisteredModel).where(RegisteredModel.model_name == name, RegisteredModel.version == int(number))
        )
    if model is None:
        raise BadInputError(
            "The model version is not known.",
            [Problem("model version", repr(served_name), "a registered one, as in highway-router@v3")],
        )
    return model


def champion(session: Session, model_name: str) -> RegisteredModel | None:
    """The production version of ``model_name``, or null where there is none."""
    return session.scalar(
        select(RegisteredModel)
        .where(RegisteredModel.model_name == model_name, RegisteredModel.status == Stage.PRODUCTION.value)
        .execution_options(populate_existing=True)
    )


def predecessor(session: Session, model_name: str) -> RegisteredModel | None:
    """The version that was in production before the present one, to which a rollback goes; null where there is none.

    Before the present one was promoted, that is: one that came back by a rollback does not lead to what it replaced.
    """
    present = champion(session, model_name)
    promoted = session.scalar(
        select(func.max(StageTransition.id)).where(
            StageTransition.model_id == (present.id if present else 0),
            StageTransition.to_stage == Stage.PRODUCTION.value,
            StageTransition.reason.not_like(f"{ROLLBACK}%"),
        )
    )
    return session.scalar(
        select(RegisteredModel)
        .join(StageTransition, StageTransition.model_id == RegisteredModel.id)
        .where(
            RegisteredModel.model_name == model_name,
            RegisteredModel.id != (present.id if present else 0),
            StageTransition.from_stage == Stage.PRODUCTION.value,
            StageTransition.id < (promoted or 2**31),
        )
        .order_by(StageTransition.id.desc())
        .limit(1)
        .execution_options(populate_existing=True)
    )


def versions(
    session: Session, model_name: str | None = None, stage: Stage | str | None = None
) -> Sequence[RegisteredModel]:
    """All versions, by name and newest first; only those of one model or in one stage where that is given.

    Raises:
        BadInputError: There is no such stage.
    """
    query = select(RegisteredModel).order_by(RegisteredModel.model_name, RegisteredModel.version.desc())
    if model_name is not None:
        query = query.where(RegisteredModel.model_name == model_name)
    if stage is not None:
        query = query.where(RegisteredModel.status == _stage(stage).value)
    return session.scalars(query.execution_options(populate_existing=True)).all()


def history(session: Session, model_name: str) -> list[StageChange]:
    """Every change of stage of every version of ``model_name``, oldest first."""
    rows = session.execute(
        select(StageTransition, RegisteredModel)
        .join(RegisteredModel, RegisteredModel.id == StageTransition.model_id)
        .where(RegisteredModel.model_name == model_name)
        .order_by(StageTransition.id)
    )
    return [
        StageChange(
            served_name=model.served_name,
            version=model.version,
            from_stage=change.from_stage,
            to_stage=change.to_stage,
            by=change.changed_by,
            why=change.reason,
            why_ko=change.reason_ko,
            at=change.changed_at,
        )
        for change, model in rows
    ]


def _compare_and_set(
    session: Session, model: RegisteredModel, start: Stage, goal: Stage, by: str, why: Reason | str
) -> RegisteredModel:
    if goal is not Stage.ARCHIVED and model.verdict not in PASSABLE:
        raise GateRefusedError(f"{model.served_name} stays {start}: its verdict is {model.verdict or 'open'}.")
    changed = session.scalar(
        update(RegisteredModel)
        .where(RegisteredModel.id == model.id, RegisteredModel.status == start.value)
        .values(status=goal.value)
        .returning(RegisteredModel),
        execution_options={"populate_existing": True, "synchronize_session": False},
    )
    if changed is None:
        session.refresh(model)
        if model.status == goal.value:
            return model
        raise StageConflictError(model.served_name, start, model.status)
    _write_down(session, changed, start, goal, by, why)
    return changed


def _write_down(
    session: Session, model: RegisteredModel, start: Stage | None, goal: Stage, by: str, why: Reason | str
) -> None:
    words = as_reason(why)
    session.add(
        StageTransition(
            model_id=model.id,
            from_stage=None if start is None else start.value,
            to_stage=goal.value,
            reason=words.en,
            reason_ko=words.ko,
            changed_by=by,
        )
    )
    session.flush()


def parse_verdict(text: str | None) -> Verdict | None:
    """A verdict from a template's or a file's text; none and the empty text mean that there is none yet.

    Raises:
        BadInputError: It is none of the three.
    """
    if not text:
        return None
    for verdict in get_args(Verdict):
        if text == verdict:
            return verdict
    raise BadInputError("No such verdict.", [Problem("verdict", repr(text), "pass, inconclusive or fail")])


def _stage(name: Stage | str) -> Stage:
    try:
        return Stage(name)
    except ValueError:
        raise BadInputError("No such stage.", [Problem("stage", repr(name), "one of " + ", ".join(Stage))]) from None
