"""What stands in a job folder, seen from Airflow: the result, the error, and what earlier runs left there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tollgate.training.stopping import STOP_REQUEST, STOPPED

RESULT = "result.json"
ERROR = "error.json"
STOP = STOPPED
EARLIER = "earlier"
OUTPUTS = (
    *("checkpoints", "adapter", "model", "progress.jsonl", "processes", "losses.svg", "mlflow.json"),
    *("merging", "evaluation", "examination"),
    *(ERROR, STOP, STOP_REQUEST, "job.log", "process.json", "exit.json"),
)
"""Everything that a finished job leaves beside its result, and what later tasks found out about that result."""

_OBJECT = TypeAdapter(dict[str, Any])


class ErrorReport(BaseModel):
    """``error.json``: why the job failed, in its own words."""

    model_config = ConfigDict(extra="ignore")

    kind: str = "failed"
    message: str = ""
    advice: str = ""


class JobFolder:
    """One job's folder; its path is the same inside and outside of the container."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def owner(self) -> str:
        """User and group of the folder as ``uid:gid``: who the job must be to write here."""
        status = self.path.stat()
        return f"{status.st_uid}:{status.st_gid}"

    @property
    def has_result(self) -> bool:
        """Whether a job has finished here."""
        return (self.path / RESULT).is_file()

    def result(self) -> dict[str, Any]:
        """Read ``result.json``.

        Raises:
            ValueError: The file is missing, or is not a JSON object.
        """
        try:
            return _OBJECT.validate_json((self.path / RESULT).read_bytes())
        except FileNotFoundError:
            raise ValueError(f"The job ended without writing {self.path / RESULT}.") from None
        except ValidationError as error:
            raise ValueError(f"{self.path / RESULT} is not a JSON object: {error}") from error

    def error_report(self) -> ErrorReport | None:
        """Read ``error.json``; nothing where the job left none, or an unreadable one."""
        try:
            return ErrorReport.model_validate_json((self.path / ERROR).read_bytes())
        except (OSError, ValidationError):
            return None

    def prepare_for_submission(self) -> None:
        """Move a finished job's outputs to ``earlier/`` and forget how the attempt before ended.

        Without a result the checkpoints stay: the job continues from them. The result moves last, so that a crash in
        between leaves a folder in which the next attempt finishes the move.
        """
        if self.has_result:
            self._set_aside()
        for name in (ERROR, STOP):
            (self.path / name).unlink(missing_ok=True)

    def _set_aside(self) -> None:
        target = self.path / EARLIER / str((self.path / RESULT).stat().st_mtime_ns)
        target.mkdir(parents=True, exist_ok=True)
        for name in (*OUTPUTS, RESULT):
            if (self.path / name).exists():
                (self.path / name).replace(target / name)

    def mark_stop(self, reason: str) -> None:
        """Record that we are about to stop the job, so that its end is not mistaken for a crash."""
        write_json(self.path / STOP, {"reason": reason})

    @property
    def stop_reason(self) -> str | None:
        """Why the job was stopped; nothing where it was not."""
        reason = self._stop_record().get("reason")
        return None if reason is None else str(reason)

    @property
    def stopped_by_person(self) -> bool:
        """Whether a person asked for the stop (``tollgate.training.stopping``), and not the task."""
        return "by" in self._stop_record()

    def _stop_record(self) -> dict[str, Any]:
        try:
            return _OBJECT.validate_json((self.path / STOP).read_bytes())
        except (OSError, ValidationError):
            return {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object so that a reader sees all of it or none of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)
