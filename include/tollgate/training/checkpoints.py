"""The checkpoints that a job left, as rows of ``training_checkpoints``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from tollgate.store.tables import TrainingCheckpoint

BYTES_PER_GB = 1e9


def record_checkpoints(session: Session, job_id: int, job_folder: Path) -> int:
    """Record every whole checkpoint of a job with its last losses and its size; twice is the same as once.

    Args:
        session: The caller's transaction.
        job_id: Row of ``finetuning_jobs``.
        job_folder: The job's folder.

    Returns:
        How many there are.
    """
    rows = [row for path in sorted((job_folder / "checkpoints").glob("checkpoint-*")) if (row := _row(job_id, path))]
    for row in rows:
        statement = insert(TrainingCheckpoint).values(row)
        session.execute(statement.on_conflict_do_nothing(constraint="uq_training_checkpoints_job_name"))
    return len(rows)


def _row(job_id: int, checkpoint: Path) -> dict[str, Any] | None:
    """The row of a checkpoint; none for half of one, which lacks the state that the trainer writes last."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return {
        "job_id": job_id,
        "checkpoint_name": checkpoint.name,
        "step": state["global_step"],
        "epoch": state["epoch"],
        "metrics": _last_figures(state["log_history"]),
        "file_path": str(checkpoint),
        "file_size_gb": sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file()) / BYTES_PER_GB,
    }


def _last_figures(history: list[dict[str, Any]]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for line in history:
        figures |= {name: line[name] for name in ("loss", "eval_loss", "learning_rate") if name in line}
    return figures
