"""A new job that goes on where an earlier one stopped or failed: it takes over that job's checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from tollgate.errors import BadInputError, Problem
from tollgate.store.tables import FinetuningJob
from tollgate.training.checkpoint_files import CHECKPOINTS, INHERITED, find_checkpoint, is_whole, resume_state, step_of
from tollgate.training.parsing import parse_spec
from tollgate.training.spec import TrainingSpec
from tollgate.training.stopping import job_folder

MAY_DIFFER = frozenset(
    {"job_name", "output", "resume_from", "epochs", "max_steps", "gradient_checkpointing"}
    | {"logging_steps", "eval_steps", "save_steps", "checkpoints_kept"}
    | {"early_stopping_patience", "early_stopping_minimum_gain", "serve_adapter_as"}
)
"""Fields in which the new job may differ. All others decide about weights, optimizer or order of the rows; a checkpoint
restores them, so another value would be ignored or would break what was learned."""
ENDED = ("completed", "failed")
ORIGIN = "from.json"


def resumption_problems(session: Session, spec: TrainingSpec, resume_job: str | None) -> list[Problem]:
    """What is wrong with going on from an earlier job, or from a named checkpoint.

    Args:
        session: The caller's transaction.
        spec: The new job.
        resume_job: Name of the earlier job; None: there is none.
    """
    if resume_job is None:
        return _own_checkpoint_problems(spec)
    if spec.resume_from == "none":
        return [Problem("resume_from", "none", "last or a checkpoint's name, since resume_job is given")]
    status = session.scalar(select(FinetuningJob.status).where(FinetuningJob.job_name == resume_job))
    if status is None or resume_job == spec.job_name:
        return [Problem("resume_job", repr(resume_job), "the name of an earlier job")]
    if status not in ENDED:
        expected = f"a job that has ended; `tollgate job stop {resume_job}` stops it"
        return [Problem("resume_job", f"{resume_job}, which is {status}", expected)]
    try:
        folder = job_folder(spec.output.parent / resume_job)
        earlier = parse_spec(json.loads((folder / "spec.json").read_text(encoding="utf-8")))
        _find(folder, spec.resume_from)
    except BadInputError as error:
        return list(error.problems)
    except (OSError, ValueError) as error:
        return [Problem("resume_job", resume_job, f"a job with a readable specification ({error})")]
    return _differences(spec, earlier)


def inherit_checkpoint(spec: TrainingSpec, resume_job: str) -> Path:
    """Take over the checkpoint that the new job goes on from, and the best one of early stopping.

    Files are linked where both jobs lie on one disk, else copied; checkpoints are never changed, so both jobs may keep
    them. Twice is the same as once.

    Args:
        spec: The new job, without problems.
        resume_job: Name of the earlier job.

    Returns:
        The checkpoint in the new job's folder.
    """
    folder, target = spec.output.parent / resume_job, spec.output / INHERITED
    chosen = _find(folder, spec.resume_from)
    best = (resume_state(chosen).get("early_stopping") or {}).get("best_step")
    for checkpoint in {chosen, *(folder / place / f"checkpoint-{best}" for place in (CHECKPOINTS, INHERITED))}:
        if is_whole(checkpoint) and not is_whole(target / checkpoint.name):
            _take(checkpoint, target / checkpoint.name)
    (target / ORIGIN).write_text(json.dumps({"job": resume_job, "checkpoint": chosen.name}) + "\n", encoding="utf-8")
    return target / chosen.name


def _own_checkpoint_problems(spec: TrainingSpec) -> list[Problem]:
    """A named checkpoint must be there already: left by an earlier attempt of this very run."""
    if step_of(Path(spec.resume_from)) is None:
        return []
    try:
        find_checkpoint([spec.output / CHECKPOINTS, spec.output / INHERITED], spec.resume_from)
    except BadInputError:
        expected = "last or none, or the name of its job in resume_job"
        return [Problem("resume_from", f"{spec.resume_from}, which a new job does not have", expected)]
    return []


def _find(folder: Path, wanted: str) -> Path:
    found = find_checkpoint([folder / CHECKPOINTS, folder / INHERITED], wanted)
    if found is None:
        problem = Problem("resume_job", f"{folder.name}, which left no whole checkpoint", "a job that saved one")
        raise BadInputError("There is nothing to go on from.", [problem])
    return found


def _differences(spec: TrainingSpec, earlier: TrainingSpec) -> list[Problem]:
    return [
        Problem(name, str(getattr(spec, name)), f"{getattr(earlier, name)}, as in {earlier.job_name}")
        for name in TrainingSpec.model_fields
        if name not in MAY_DIFFER and getattr(spec, name) != getattr(earlier, name)
    ]


def _take(source: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, partial, copy_function=_link_or_copy)
    partial.rename(target)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
