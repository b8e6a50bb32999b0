"""The job folder's checkpoints: where a training begins, how a checkpoint gets its name, and which ones stay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from tollgate.training.checkpoint_files import (
    CHECKPOINTS,
    INHERITED,
    find_checkpoint,
    is_whole,
    note_deleted,
    step_of,
    sync,
    whole_checkpoints,
    write_manifest,
)

WRITING = ".writing"
"""Where checkpoints are written; they are renamed into place when they are whole."""
BEGUN = "begun.json"
"""From where this job's training began; tells a second attempt from the first."""
EARLIER = "earlier"


def starting_checkpoint(job_folder: Path, resume_from: str) -> Path | None:
    """The checkpoint that this attempt goes on from, or None to begin at step 0.

    ``resume_from`` says where the job begins. An attempt that was cut off has moved on from there: the next one takes
    the newest whole checkpoint. Checkpoints beyond the place where a job begins move to ``earlier/``, for they belong
    to another course of the training.

    Args:
        job_folder: The job.
        resume_from: ``last``, ``none``, or a name such as ``checkpoint-500``.

    Raises:
        BadInputError: The named checkpoint is not there, or is not whole.
    """
    own, inherited = job_folder / CHECKPOINTS, job_folder / INHERITED
    recover(own)
    if resume_from == "last" or _begun_from(own) == resume_from:
        return find_checkpoint([own], "last") or find_checkpoint([inherited], resume_from)
    chosen = find_checkpoint([own, inherited], resume_from)
    _set_aside(own, beyond=0 if chosen is None else step_of(chosen) or 0)
    own.mkdir(parents=True, exist_ok=True)
    partial = own / f"{BEGUN}.partial"
    partial.write_text(json.dumps({"resume_from": resume_from}), encoding="utf-8")
    partial.replace(own / BEGUN)
    return chosen


def recover(folder: Path) -> None:
    """Give a whole checkpoint, whose writer was killed right before its renaming, its name; delete half ones."""
    for written in (folder / WRITING).glob("checkpoint-*"):
        if is_whole(written) and not is_whole(folder / written.name):
            publish(written, folder / written.name)
    shutil.rmtree(folder / WRITING, ignore_errors=True)


def seal(written: Path) -> None:
    """Note that a checkpoint is whole. Nothing may be written into it afterwards."""
    write_manifest(written)


def publish(written: Path, final: Path) -> None:
    """Rename a whole checkpoint to its place, over one of the same name."""
    if final.exists():
        replaced = written.with_name(f"replaced-{final.name}")
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    written.rename(final)
    sync(final.parent)
    shutil.rmtree(written.parent, ignore_errors=True)


def rotate(folder: Path, kept: int, protected: Iterable[int] = ()) -> None:
    """Delete old checkpoints, and those that are not whole.

    Args:
        folder: Where they are.
        kept: How many of the newest whole ones stay, 1 or more.
        protected: Steps whose checkpoints stay as well.
    """
    staying = set(whole_checkpoints(folder)[-kept:])
    staying |= {folder / f"checkpoint-{step}" for step in protected}
    for checkpoint in folder.glob("checkpoint-*"):
        if checkpoint not in staying:
            note_deleted(checkpoint)
            shutil.rmtree(checkpoint, ignore_errors=True)


def checkpoint_of_step(job_folder: Path, step: int) -> Path | None:
    """The whole checkpoint of a step, the job's own or an inherited one."""
    places = (job_folder / name / f"checkpoint-{step}" for name in (CHECKPOINTS, INHERITED))
    return next(filter(is_whole, places), None)


def _begun_from(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / BEGUN).read_text(encoding="utf-8"))["resume_from"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _set_aside(folder: Path, beyond: int) -> None:
    stale = [path for path in folder.glob("checkpoint-*") if (step_of(path) or 0) > beyond]
    if not stale:
        return
    earlier = folder.parent / EARLIER
    earlier.mkdir(exist_ok=True)
    number = next(n for n in range(len(list(earlier.iterdir())), 10**9) if not (earlier / f"checkpoints-{n}").exists())
    target = earlier / f"checkpoints-{number}"
    target.mkdir()
    for path in stale:
        path.rename(target / path.name)
