"""A job as people look at it: its row, its folder and its progress put together, and the end of it."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from tollgate.errors import BadInputError, Problem, ServiceUnavailableError
from tollgate.settings import Settings
from tollgate.store.session import transaction
from tollgate.store.tables import FinetuningJob
from tollgate.training.curves import PICTURE
from tollgate.training.merging import MERGED
from tollgate.training.progress import FILE, ProgressReader, RunProgress
from tollgate.training.stopping import STOP_REQUEST, STOPPED

Ending = Literal["succeeded", "stopped", "failed"]


class JobView(BaseModel):
    """What ``tollgate job list`` and ``show`` tell."""

    model_config = ConfigDict(frozen=True)

    name: str
    status: str = Field(description="pending, running, completed or failed; unknown without PostgreSQL's row.")
    folder: Path
    dataset: str = Field("", description="The version as people write it.")
    base_model: str = Field("", description="Name of the base model's folder.")
    method: str = ""
    is_merged: bool = Field(False, description="Whether its adapter is merged into the base to be served.")
    created_by: str | None = None
    started: dt.datetime | None = None
    ended: dt.datetime | None = None
    mlflow_run_id: str | None = None
    progress: dict[str, Any] | None = Field(None, description="Last line of the progress; None before the first.")
    figures: dict[str, float] = Field({}, description="The newest of every figure that was measured.")
    stop: dict[str, Any] | None = Field(None, description="Who asked it to stop, and why: by, at, reason.")
    error: dict[str, Any] | None = Field(None, description="Why the last attempt failed: kind, message, advice.")
    picture: Path | None = Field(None, description="The losses as SVG, once the job has ended.")


def find_job(name: str, configuration: Settings) -> Path:
    """The folder of a job.

    Args:
        name: The job's name, or the id of the DAG run that it belongs to.
        configuration: Where things are.

    Raises:
        BadInputError: There is no such job.
    """
    folder = configuration.jobs / name
    if name and folder.parent == configuration.jobs and (folder / "spec.json").is_file():
        return folder
    suffix = hashlib.sha256(name.encode()).hexdigest()[:12]  # as in jobs.job_name
    found = [path.parent for path in sorted(configuration.jobs.glob(f"*-{suffix}/spec.json"))]
    if not found:
        expected = "a name from tollgate job list, or the id of a finetune run"
        raise BadInputError("There is no such job.", [Problem("job", repr(name), expected)])
    return found[0]


def all_jobs(limit: int) -> list[JobView]:
    """The newest jobs, newest first.

    Raises:
        ServiceUnavailableError: PostgreSQL did not answer.
    """
    with transaction() as session:
        query = select(FinetuningJob).order_by(FinetuningJob.created_at.desc(), FinetuningJob.id.desc()).limit(limit)
        rows = list(session.scalars(query))
        return [_view(Path(row.output_dir), row) for row in rows]


def view_job(folder: Path) -> JobView:
    """One job; where PostgreSQL does not answer, from its folder alone."""
    try:
        with transaction() as session:
            row = session.scalar(select(FinetuningJob).where(FinetuningJob.job_name == folder.name))
            return _view(folder, row)
    except ServiceUnavailableError:
        return _view(folder, None)


def ending_of(folder: Path) -> Ending | None:
    """How a job ended; None while it runs, waits, or will be tried again.

    A result means success. Without one PostgreSQL says whether there is no further attempt; where it does not answer or
    knows no such job, the folder's ``stop.json`` or ``error.json`` says how the last one ended.
    """
    if (folder / "result.json").is_file():
        return "succeeded"
    try:
        with transaction() as session:
            status = session.scalar(select(FinetuningJob.status).where(FinetuningJob.job_name == folder.name))
    except ServiceUnavailableError:
        status = None
    if status not in {None, "failed"}:
        return None
    if (folder / STOPPED).is_file():
        return "stopped"
    return "failed" if status == "failed" or (folder / "error.json").is_file() else None


def _view(folder: Path, row: FinetuningJob | None) -> JobView:
    spec = _json(folder / "spec.json") or {}
    progress = RunProgress(ProgressReader(folder / FILE).read())
    sent = _json(folder / "mlflow.json") or {}
    return JobView(
        name=folder.name,
        status=row.status if row else "unknown",
        folder=folder,
        dataset=str(spec.get("dataset_reference", "")),
        base_model=Path(row.base_model if row else str(spec.get("base_model", ""))).name,
        method=row.method if row else str(spec.get("method", "")),
        is_merged=spec.get("serve_adapter_as") == MERGED,
        created_by=row.created_by if row else None,
        started=row.start_time if row else None,
        ended=row.end_time if row else None,
        mlflow_run_id=(row.mlflow_run_id if row else None) or sent.get("run_id"),
        progress=progress.last.place if progress.last else None,
        figures={name: series[-1].value for name in progress.points if (series := progress.series(name))},
        stop=_json(folder / STOP_REQUEST) or _json(folder / STOPPED),
        error=_json(folder / "error.json"),
        picture=folder / PICTURE if (folder / PICTURE).is_file() else None,
    )


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
