"""The run's note: why a run ended, in words, where people look first."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.links import report_path
from tollgate.errors import TollgateError
from tollgate.training.curves import PICTURE

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)


def note_failure(context: Context) -> None:
    """Write the failed task's error into the run's note (a task's ``on_failure_callback``).

    Without an Airflow that answers the reason is still in the task's log: a note that cannot be written fails nothing.
    """
    error = context.get("exception")
    task = context["ti"].task_id
    reason = str(error) if isinstance(error, TollgateError) else f"{type(error).__name__}: {error}"
    write_note(context, f"**{task}**: {reason}")


def note_version(context: Context, version: Mapping[str, Any]) -> None:
    """Write into the run's note which dataset version came of it, and where its report is.

    Args:
        context: The task's context.
        version: What :func:`tollgate.gates.stages.write_version` returned.
    """
    counts = version["counts"]
    state = "written" if version["created"] else "there already, with the same content"
    rows = f"{counts['rows_kept']:,} of {counts['rows_in']:,} rows kept"
    folder = Path(version["folder"])
    page = report_path(folder.parent.name, int(folder.name[1:]))
    # The run's page shows the first line.
    write_note(context, f"**{version['reference']}** {state}: {rows}. [Report · 보고서]({page})\n\n`{folder}`")


def note_verdict(context: Context, verdict: Mapping[str, Any], job_folder: Path) -> None:
    """Write into the run's note what the gate said of the candidate, and where the picture of its losses is.

    Args:
        context: The task's context.
        verdict: What :func:`tollgate.workflow.finetune.judge` returned.
        job_folder: The job's folder.
    """
    text = f"**{verdict['outcome']}**: {' '.join(verdict['reasons'])}"
    picture = job_folder / PICTURE
    if picture.is_file():
        text += f"\n\nLosses · 손실: `{picture}`"
    write_note(context, text)


def write_note(context: Context, text: str) -> None:
    """Put ``text`` into the note of the context's run."""
    from tollgate.stack.access import local_airflow

    run = context["dag_run"]
    try:
        local_airflow().set_note(run.dag_id, run.run_id, text)
    except TollgateError as problem:
        log.warning("The run's note could not be written: %s", problem)
