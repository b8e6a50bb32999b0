"""What a place that runs jobs, a Docker engine or plain processes, must be able to do."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

RuntimeName = Literal["docker", "process"]

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
"""Nothing is fetched at run time: models and data come from local paths."""

QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
"""Threads that wait give their core away, which matters where jobs share cores."""

PASSED_ON = (
    *("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "HOME", "USER", "OMP_NUM_THREADS"),
    *("TOLLGATE_STACK", "SPT_NOENV"),  # by which ``tollgate down`` finds the job
)
"""What a process job sees of Airflow's environment; everything else may be a secret."""


@dataclass(frozen=True)
class JobKey:
    """Which task a job belongs to. Attempts of one task share the key, so they find each other's job."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    @property
    def holder(self) -> str:
        """The key as people read it in the table of GPU leases, 500 characters at most."""
        text = f"{self.dag_id}/{self.run_id}/{self.task_id}"
        text = text if self.map_index < 0 else f"{text}[{self.map_index}]"
        return text if len(text) <= 500 else f"{text[:435]}-{hashlib.sha256(text.encode()).hexdigest()}"

    @property
    def labels(self) -> dict[str, str]:
        """The key as container labels."""
        return {
            "tollgate.dag": self.dag_id,
            "tollgate.run": self.run_id,
            "tollgate.task": self.task_id,
            "tollgate.map_index": str(self.map_index),
            "tollgate.holder": self.holder,
        }


@dataclass(frozen=True)
class JobRequest:
    """A job to run.

    Args:
        key: The task that it belongs to.
        folder: The job folder, absolute; mounted writable.
        image: The container's image.
        command: Arguments of the image's entry point.
        process_command: The same entry point with the same arguments on this machine.
        entrypoint: Replaces the image's entry point.
        environment: Variables of the job.
        read_only_paths: Host paths that the job reads, mounted at the same path.
        writable_paths: Further host paths that the job writes.
        memory_bytes: Memory limit; nothing: no limit.
        shm_bytes: Size of the container's ``/dev/shm``, through which data loaders hand over batches.
        devices: GPU ids; empty: none.
        network: The container's network mode.
        grace_seconds: Time between SIGTERM and SIGKILL when the job is stopped.
        labels: Further labels of the container.
    """

    key: JobKey
    folder: Path
    image: str
    command: tuple[str, ...]
    process_command: tuple[str, ...]
    entrypoint: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    read_only_paths: tuple[Path, ...] = ()
    writable_paths: tuple[Path, ...] = ()
    memory_bytes: int | None = None
    shm_bytes: int | None = None
    devices: tuple[int, ...] = ()
    network: str = "none"
    grace_seconds: int = 120
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The container's name. Being unique on an engine, it makes a second container of this job impossible."""
        key = self.key
        text = "\0".join([key.dag_id, key.run_id, key.task_id, str(key.map_index), str(self.folder)])
        readable = re.sub(r"[^a-zA-Z0-9]+", "-", f"{key.dag_id}-{key.task_id}").strip("-")[:60]
        return f"tollgate-{readable}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


class JobState(StrEnum):
    """Where a job stands. CREATED: known to the engine, not started yet. MISSING: the runtime does not know it."""

    CREATED = "created"
    ACTIVE = "active"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    MISSING = "missing"


@dataclass(frozen=True)
class JobStatus:
    """A job's state; the exit code (128 + signal for a killed job) once it has ended."""

    state: JobState
    exit_code: int | None = None
    out_of_memory: bool = False


class Runtime(Protocol):
    """A place that runs jobs. Ids are the runtime's own; they outlive the worker that submitted the job.

    Every method raises ``ServiceUnavailableError`` where the runtime does not answer.
    """

    name: RuntimeName

    def submit(self, request: JobRequest) -> str:
        """Start the job and return its id; where this very job is already there, return that one's id."""

    def find(self, request: JobRequest) -> str | None:
        """Return the id of the job submitted for this key and folder, in whatever state, if there is one."""

    def status(self, job_id: str) -> JobStatus:
        """Look up the job's state."""

    def follow(self, job_id: str) -> Iterator[str]:
        """Yield the lines of the job's log, from the first one to the job's end."""

    def last_lines(self, job_id: str, count: int) -> list[str]:
        """Return the end of the job's log so far, ``count`` lines at most; nothing where it is gone."""

    def wait(self, job_id: str) -> JobStatus:
        """Block until the job has ended, and return how."""

    def stop(self, job_id: str, grace_seconds: int) -> None:
        """Send SIGTERM, wait the grace period, send SIGKILL to what is left; return once the job has ended."""

    def remove(self, job_id: str) -> None:
        """Forget an ended job and free what it holds; the job folder stays."""

    def is_alive(self, holder: str) -> bool:
        """Whether a job of this lease holder is running or about to run here."""


def visible_text(line: str) -> str:
    """Return what a terminal would show of a line in which a progress bar has overwritten itself."""
    return line.rstrip("\r").rpartition("\r")[2]


def job_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that every job gets, on every runtime, with its own ones on top."""
    return {**OFFLINE, **QUIET_THREADS, "PYTHONUNBUFFERED": "1", **environment}


def inherited_environment() -> dict[str, str]:
    """Return the part of this process's environment that a process job may see."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}
