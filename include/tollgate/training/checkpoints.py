"""The checkpoints of a job as rows of ``training_checkpoints``.

A row stays when its checkpoint was deleted to make room for newer ones: its losses and size are the job's history. What
can be gone on from stands on disk alone, so :func:`checkpoints_of` looks there and keeps no second truth.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from tollgate.store.session import transaction
from tollgate.store.tables import FinetuningJob, TrainingCheckpoint
from tollgate.training.checkpoint_files import CHECKPOINTS, deleted_checkpoints, describe, is_whole, whole_checkpoints


class CheckpointRecord(BaseModel):
    """A recorded checkpoint.

    Attributes:
        is_there: Whether it is on disk, whole, and a training can go on from it.
    """

    name: str
    step: int
    epoch: float | None
    metrics: dict[str, float]
    folder: Path
    size_gb: float | None
    is_there: bool


def record_checkpoints(session: Session, job_id: int, job_folder: Path) -> int:
    """Record every whole checkpoint of a job with its last losses and its size; twice is the same as once.

    Those that the trainer deleted before anybody looked have left their description.

    Args:
        session: The caller's transaction.
        job_id: Row of ``finetuning_jobs``.
        job_folder: The job's folder.

    Returns:
        How many there have been.
    """
    folder = job_folder / CHECKPOINTS
    there = [describe(path) for path in whole_checkpoints(folder)]
    rows = {row["checkpoint_name"]: {"job_id": job_id, **row} for row in [*deleted_checkpoints(folder), *there]}
    for row in rows.values():
        statement = insert(TrainingCheckpoint).values(row)
        # A training that began again from an earlier step writes a checkpoint of the same name with other losses.
        changed = {name: value for name, value in row.items() if name not in ("job_id", "checkpoint_name")}
        session.execute(statement.on_conflict_do_update(constraint="uq_training_checkpoints_job_name", set_=changed))
    return len(rows)


def record_checkpoints_in(job_folder: Path) -> int:
    """Record the checkpoints of the job of this folder, in a transaction of its own.

    Args:
        job_folder: The job's folder; one that no job's row names is passed over.

    Returns:
        How many there are now.

    Raises:
        ServiceUnavailableError: PostgreSQL did not answer.
    """
    with transaction() as session:
        job_id = session.scalar(select(FinetuningJob.id).where(FinetuningJob.output_dir == str(job_folder)))
        return 0 if job_id is None else record_checkpoints(session, job_id, job_folder)


def checkpoints_of(session: Session, job_id: int) -> list[CheckpointRecord]:
    """Every checkpoint that a job has had, by step, and whether it is still there."""
    query = select(TrainingCheckpoint).where(TrainingCheckpoint.job_id == job_id).order_by(TrainingCheckpoint.step)
    return [
        CheckpointRecord(
            name=row.checkpoint_name,
            step=row.step,
            epoch=row.epoch,
            metrics=row.metrics,
            folder=Path(row.file_path),
            size_gb=row.file_size_gb,
            is_there=is_whole(Path(row.file_path)),
        )
        for row in session.scalars(query)
    ]
