"""Asking a training to stop, from outside: a file in the job folder, which works in every runtime."""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path

from tollgate.errors import BadInputError, Problem

STOP_REQUEST = "stop.request"
"""The trainer looks for it after every step; it becomes :data:`STOPPED` once it is honoured."""
STOPPED = "stop.json"
"""Why a job was stopped; read by whoever waits for its end."""


def stop_job(job: str | Path, reason: str, by: str) -> Path:
    """Ask a job to save a checkpoint at the end of the running step and to stop.

    A job that waits for its turn stops as soon as it starts. Asking twice is the same as asking once. Clearing the
    stopped task, or a new run with ``resume_job``, goes on from the checkpoint.

    Args:
        job: The job's name, or its folder.
        reason: Why, for the run's note and the task's log.
        by: Who asks.

    Returns:
        The job's folder.

    Raises:
        BadInputError: There is no such job, or it is done.
    """
    folder = job_folder(job)
    if (folder / "result.json").is_file():
        raise BadInputError("The job can't be stopped.", [Problem("job", folder.name, "a job that is not done yet")])
    request = {"reason": f"{by}: {reason}", "by": by, "at": dt.datetime.now(dt.UTC).isoformat()}
    temporary = folder / f".{STOP_REQUEST}.{os.getpid()}"
    temporary.write_text(json.dumps(request, ensure_ascii=False), encoding="utf-8")
    temporary.replace(folder / STOP_REQUEST)
    return folder


def job_folder(job: str | Path) -> Path:
    """The folder of a job given by name or by path.

    Raises:
        BadInputError: There is no such job.
    """
    folder = Path(job)
    if not folder.is_absolute():
        from tollgate.settings import settings  # not in the container, which knows its folder

        folder = settings().jobs / job
    if not (folder / "spec.json").is_file():
        raise BadInputError("There is no such job.", [Problem("job", str(job), f"a job in {folder.parent}")])
    return folder
