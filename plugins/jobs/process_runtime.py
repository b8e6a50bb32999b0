"""Jobs as process groups on this machine, for where there is no Docker: same entry point, same contract."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from jobs import process_launcher
from jobs.errors import JobFailedError
from jobs.runtimes import (
    JobRequest,
    JobState,
    JobStatus,
    RuntimeName,
    inherited_environment,
    job_environment,
    visible_text,
)
from tollgate.settings import PROJECT

START_SECONDS = 20.0
LEAVE_SECONDS = 5.0
POLL_SECONDS = 0.2
KILLED = 128 + signal.SIGKILL


class ProcessRecord(BaseModel):
    """``process.json``: the launcher and the process group that run, or ran, in a job folder."""

    model_config = ConfigDict(extra="ignore")

    launch: str
    key: str
    pid: int
    start_ticks: int | None
    group: int | None

    @property
    def is_running(self) -> bool:
        """Whether that launcher, and no other process of the same number, is alive."""
        return self.start_ticks is not None and process_launcher.start_ticks(self.pid) == self.start_ticks


class ExitRecord(BaseModel):
    """``exit.json``: how the job ended."""

    model_config = ConfigDict(extra="ignore")

    launch: str
    exit_code: int
    stop_requested: bool
    memory_exceeded: bool


class ProcessRuntime:
    """Runs each job under a launcher that outlives this process. A job's id is ``<folder>#<launch>``."""

    name: RuntimeName = "process"

    def __init__(self) -> None:
        self._launchers: dict[str, subprocess.Popen[bytes]] = {}

    def submit(self, request: JobRequest) -> str:
        """Start the launcher, or join the job that another attempt started in the same folder.

        Raises:
            JobFailedError: The launcher did not start.
        """
        launch = uuid.uuid4().hex[:12]
        launcher = self._start(request, launch)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            record = _process_record(request.folder)
            if record and record.launch == launch:
                self._launchers[_id(request.folder, launch)] = launcher
                return _id(request.folder, launch)
            if launcher.poll() is not None:
                return self._joined(request, launcher.returncode)
            time.sleep(0.02)
        launcher.kill()
        raise JobFailedError(f"The job in {request.folder} did not start within {START_SECONDS:.0f} s.")

    def _start(self, request: JobRequest, launch: str) -> subprocess.Popen[bytes]:
        arguments = ["--folder", str(request.folder), "--launch", launch, "--key", request.key.holder]
        arguments += ["--memory", str(request.memory_bytes or 0), "--grace", str(request.grace_seconds), "--"]
        with (request.folder / "launcher.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-I", process_launcher.__file__, *arguments, *request.process_command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=request.folder,
                env=_environment(request),
                start_new_session=True,  # Airflow kills a task's group; the job must not be in it
            )

    def _joined(self, request: JobRequest, status: int) -> str:
        record = _process_record(request.folder)
        if status == process_launcher.LOCKED and record:
            return _id(request.folder, record.launch)
        said = (request.folder / "launcher.log").read_text(encoding="utf-8", errors="replace")[-2000:]
        raise JobFailedError(f"The job in {request.folder} could not be started: {said or f'status {status}'}")

    def find(self, request: JobRequest) -> str | None:
        """Return the id of the job that the folder's records name."""
        record = _process_record(request.folder)
        return _id(request.folder, record.launch) if record else None

    def status(self, job_id: str) -> JobStatus:
        """Read the records, and look whether the launcher lives."""
        folder, launch = _parts(job_id)
        if launcher := self._launchers.get(job_id):
            launcher.poll()  # reap it, so that it does not stay as a zombie
        record = _process_record(folder)
        running = record is not None and record.launch == launch and record.is_running
        ended = _exit_record(folder)  # read last: a launcher writes it before it goes
        if ended and ended.launch == launch:
            return _ended_status(ended)
        if running:
            return JobStatus(JobState.ACTIVE)
        if record and record.launch == launch:
            _kill_group(record)
        return JobStatus(JobState.MISSING)

    def follow(self, job_id: str) -> Iterator[str]:
        """Yield the lines of ``job.log`` until the job has ended."""
        folder, _ = _parts(job_id)
        with contextlib.suppress(FileNotFoundError), (folder / "job.log").open("rb") as log:
            pending = b""
            active = True
            while active:
                active = self.status(job_id).state is JobState.ACTIVE  # asked first, so that the last lines are read
                *lines, pending = (pending + log.read()).split(b"\n")
                yield from (_text(line) for line in lines)
                if active:
                    time.sleep(POLL_SECONDS)
            if pending:
                yield _text(pending)

    def last_lines(self, job_id: str, count: int) -> list[str]:
        """Read the end of ``job.log``."""
        folder, _ = _parts(job_id)
        try:
            text = (folder / "job.log").read_bytes()
        except OSError:
            return []
        return [_text(line) for line in text.splitlines()[-count:]]

    def wait(self, job_id: str) -> JobStatus:
        """Block until the job has ended."""
        while (status := self.status(job_id)).state is JobState.ACTIVE:
            time.sleep(POLL_SECONDS)
        return status

    def stop(self, job_id: str, grace_seconds: int) -> None:
        """Tell the launcher to stop its job. It does so to the end, even where this process dies meanwhile."""
        folder, launch = _parts(job_id)
        record = _process_record(folder)
        if record is None or record.launch != launch or not record.is_running:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds + 10
        while self.status(job_id).state is JobState.ACTIVE and time.monotonic() < deadline:
            time.sleep(0.05)
        if record.is_running:
            _kill_group(record)

    def remove(self, job_id: str) -> None:
        """Delete the records of an ended job; its log stays."""
        folder, launch = _parts(job_id)
        record = _process_record(folder)
        if record is None or record.launch != launch or self.status(job_id).state is JobState.ACTIVE:
            return
        deadline = time.monotonic() + LEAVE_SECONDS
        while record.is_running and time.monotonic() < deadline:  # the launcher goes right after its last record
            self.status(job_id)
            time.sleep(0.01)
        for name in ("process.json", "exit.json", "launcher.log"):
            (folder / name).unlink(missing_ok=True)

    def is_alive(self, holder: str) -> bool:
        """Whether a launcher of this holder runs on this machine."""
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if process_launcher.__file__ in command and command[command.index("--key") + 1] == holder:
                return True
        return False


def _environment(request: JobRequest) -> dict[str, str]:
    paths = os.pathsep.join(str(PROJECT / name) for name in ("include", "containers"))
    devices = ",".join(map(str, request.devices))  # empty: the job sees no GPU, also on a machine that has some
    # By default CUDA numbers the fastest device first; leases mean the numbers that nvidia-smi shows.
    cuda = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": devices}
    own = {"PYTHONPATH": paths, **cuda, **request.environment}
    return {**inherited_environment(), **job_environment(own)}


def _ended_status(ended: ExitRecord) -> JobStatus:
    # Nobody but the kernel kills a job that we did not stop: the machine ran out of memory.
    out_of_memory = ended.memory_exceeded or (ended.exit_code == KILLED and not ended.stop_requested)
    state = JobState.FAILED if ended.exit_code else JobState.SUCCEEDED
    return JobStatus(state, ended.exit_code, out_of_memory=out_of_memory)


def _kill_group(record: ProcessRecord) -> None:
    """Kill what is left of a job whose launcher is gone. Group and session together say that a process is ours."""
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == record.group and os.getsid(pid) == record.pid:
                os.kill(pid, signal.SIGKILL)


def _text(line: bytes) -> str:
    return visible_text(line.decode("utf-8", errors="replace"))


def _id(folder: Path, launch: str) -> str:
    return f"{folder}#{launch}"


def _parts(job_id: str) -> tuple[Path, str]:
    folder, _, launch = job_id.rpartition("#")
    return Path(folder), launch


def _process_record(folder: Path) -> ProcessRecord | None:
    try:
        return ProcessRecord.model_validate_json((folder / "process.json").read_bytes())
    except (OSError, ValidationError):
        return None


def _exit_record(folder: Path) -> ExitRecord | None:
    try:
        return ExitRecord.model_validate_json((folder / "exit.json").read_bytes())
    except (OSError, ValidationError):
        return None
