"""The checkpoints of a job as rows of ``training_checkpoints``.

A row stays when its checkpoint was deleted to make room for newer ones: its losses and size are the job's history. What
can be gone on from stands on disk alone, so :func:`checkpoints_of` looks there and keeps no second truth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from tollgate.store.tables import TrainingCheckpoint
from tollgate.training.checkpoint_files import CHECKPOINTS, is_whole, step_of, trainer_state, whole_checkpoints

BYTES_PER_GB = 1e9
FIGURES = ("loss", "eval_loss", "learning_rate", "grad_norm")


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

    To be called whenever the job has moved on: a checkpoint that is deleted before the call is never seen.

    Args:
        session: The caller's transaction.
        job_id: Row of ``finetuning_jobs``.
        job_folder: The job's folder.

    Returns:
        How many there are now.
    """
    rows = [_row(job_id, path) for path in whole_checkpoints(job_folder / CHECKPOINTS)]
    for row in rows:
        statement = insert(TrainingCheckpoint).values(row)
        # A training that began again from an earlier step writes a checkpoint of the same name with other losses.
        changed = {name: value for name, value in row.items() if name not in ("job_id", "checkpoint_name")}
        session.execute(statement.on_conflict_do_update(constraint="uq_training_checkpoints_job_name", set_=changed))
    return len(rows)


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


def _row(job_id: int, checkpoint: Path) -> dict[str, Any]:
    state = trainer_state(checkpoint)
    return {
        "job_id": job_id,
        "checkpoint_name": checkpoint.name,
        "step": step_of(checkpoint),
        "epoch": state.get("epoch"),
        "metrics": _last_figures(state.get("log_history", [])),
        "file_path": str(checkpoint),
        "file_size_gb": sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file()) / BYTES_PER_GB,
    }


def _last_figures(history: list[dict[str, Any]]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for line in history:
        figures |= {name: line[name] for name in FIGURES if name in line}
    return figures
