"""The kill matrix as a table: one row for each thing that was killed."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path

import psutil
from pydantic import BaseModel


class Row(BaseModel):
    """What a kill did to a training.

    Attributes:
        killed: What was killed with SIGKILL, in the middle of the training.
        at_step: The step that the training had told last.
        recovery_seconds: From the kill to ``recovered``.
        recovered: What counts as recovered.
        attempts: Attempts of the task ``train``.
        steps_again: Steps that were trained a second time, from the last checkpoint.
        losses_lost: Losses that are missing or differ in any digit from the undisturbed training's.
        checkpoints_lost: Checkpoints without a row in ``training_checkpoints``; null where there was no database.
        figures_lost: Losses that MLflow lacks or has otherwise; null where there was no MLflow.
        test: The test that shows it.
    """

    killed: str
    at_step: int
    recovery_seconds: float
    recovered: str
    attempts: int
    steps_again: int
    losses_lost: int
    checkpoints_lost: int | None = None
    figures_lost: int | None = None
    test: str


def nothing_is_lost(row: Row) -> None:
    """Fail where a loss, a checkpoint's row or a figure in MLflow is missing."""
    assert (row.losses_lost, row.checkpoints_lost, row.figures_lost) == (0, 0, 0), row


def write_table(rows: Sequence[Row], folder: Path) -> None:
    """Write ``kill_matrix.json`` and, for people, ``kill_matrix.md``; a row replaces that of an earlier session."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "kill_matrix.json"
    known = {row["killed"]: row for row in json.loads(file.read_text())["rows"]} if file.is_file() else {}
    known |= {row.killed: row.model_dump() for row in rows}
    machine = (
        f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB, Python {platform.python_version()}"
    )
    file.write_text(json.dumps({"machine": machine, "rows": list(known.values())}, indent=2) + "\n")
    lines = ["| Killed | at step | seconds | until | attempts | steps again | lost |", "|---|---|---|---|---|---|---|"]
    for row in map(Row.model_validate, known.values()):
        lost = row.losses_lost + (row.checkpoints_lost or 0) + (row.figures_lost or 0)
        cells = [
            row.killed,
            row.at_step,
            f"{row.recovery_seconds:.0f}",
            row.recovered,
            row.attempts,
            row.steps_again,
            lost,
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    (folder / "kill_matrix.md").write_text("\n".join(lines) + "\n")
