"""Starts the processes that share a training, watches over them, and ends them together.

One process for each GPU, or as many as the specification says on the CPU. Each runs ``train.py`` with its number in the
environment, as torchrun would start it; torchrun itself kills what has not ended 30 seconds after SIGTERM, which is
too soon for a checkpoint, and takes its processes out of the job's group, by which they are found and stopped.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from tollgate.errors import BadInputError, Problem
from tollgate.training.rules import not_honoured
from tollgate.training.spec import TrainingSpec
from trainer.distribution import check_installed, rank

ENTRY = Path(__file__).with_name("train.py")
LOOPBACK = "127.0.0.1"
EXIT_STOPPED = 10
LOGS = "processes"
"""Folder in the job folder: what all processes but the first one print."""
LAST_LINES = 20
FAILURE_SECONDS = 10.0
"""How long the others may go on after one has failed, to say what they noticed."""
STOP_SECONDS = 90.0
"""How long the others may go on after one has stopped as asked; the first one may still be writing."""
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def processes_to_start(spec: TrainingSpec) -> int:
    """How many processes to start; 0 where this one trains by itself, alone or as one of those started.

    Raises:
        BadInputError: On GPUs, other than one process for each; the backend trains in one; or a library is missing.
    """
    if "RANK" in os.environ:
        return 0
    import torch

    devices = torch.cuda.device_count()
    count = devices if devices > 1 and spec.processes == 1 else spec.processes
    if devices and count != devices:
        raise BadInputError(
            "The processes do not fit the job's GPUs.",
            [Problem("processes", str(count), f"{devices}, one for each GPU that the job sees")],
        )
    if problems := not_honoured(spec.model_copy(update={"processes": count})):
        raise BadInputError("The backend does not fit the job's GPUs.", problems)
    check_installed(spec)
    return count if count > 1 else 0


def error_file(job_folder: Path) -> Path:
    """Where this process says why it failed: ``error.json``, or a file of its own that the launcher reads."""
    if "RANK" not in os.environ:
        return job_folder / "error.json"
    return job_folder / f"error.rank-{rank()}.json"


def train_together(job_folder: Path, spec: TrainingSpec, count: int) -> int:
    """Run the training in ``count`` processes; returns the exit status of the whole job.

    0 where all are done, 10 where a stop was asked for and a process has honoured it, 2 where one refuses the
    specification, else 1. ``error.json`` then says what the first one that failed has said, or how it died. No process
    is left behind, also where this one is killed.
    """
    _say(
        f"{count} processes share the work ({'ddp' if spec.distribution == 'none' else spec.distribution}). A step has "
        f"{spec.batch_size} rows x {spec.gradient_accumulation} accumulated x {count} processes = "
        f"{spec.batch_size * spec.gradient_accumulation * count} rows."
    )
    processes = Processes(job_folder, count)
    try:
        processes.start()
        processes.wait()
    finally:
        processes.kill()
    return processes.status()


class Processes:
    """The processes of one training, numbered from 0.

    Args:
        job_folder: The job.
        count: How many.
    """

    def __init__(self, job_folder: Path, count: int) -> None:
        from torch.distributed import TCPStore

        self._folder = job_folder
        self._count = count
        # The processes meet here. It is bound before they start, so that nobody else can take its port.
        self._store = TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ended: dict[int, float] = {}
        self._stop_requested = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def start(self) -> None:
        """Start all of them. Only the first one prints into this process's output."""
        (self._folder / LOGS).mkdir(exist_ok=True)
        for file in self._folder.glob("error.rank-*.json"):
            file.unlink()
        prctl = ctypes.CDLL(None).prctl
        for number in range(self._count):
            with contextlib.ExitStack() as files:
                output = files.enter_context(self._log(number).open("wb")) if number else None
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, str(ENTRY), str(self._folder)],
                        env=self._environment(number),
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT if number else None,
                        # Without the launcher nobody would notice that a process hangs.
                        preexec_fn=lambda: prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL),
                    )
                )
        if self._stop_requested:
            self._signal(signal.SIGTERM)  # it came before there was anyone to hand it to

    def _environment(self, number: int) -> dict[str, str]:
        cores = len(os.sched_getaffinity(0))
        return {
            "OMP_NUM_THREADS": str(max(1, cores // self._count)),
            "GLOO_SOCKET_IFNAME": "lo",  # the job's container has no other network
            "NCCL_SOCKET_IFNAME": "lo",
            **os.environ,
            "RANK": str(number),
            "LOCAL_RANK": str(number),
            "WORLD_SIZE": str(self._count),
            "LOCAL_WORLD_SIZE": str(self._count),
            "MASTER_ADDR": LOOPBACK,
            "MASTER_PORT": str(self._store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store above, instead of one of process 0
        }

    def wait(self) -> None:
        """Wait until all have ended; once one has failed or stopped, the others have a little time to follow."""
        ending = select.poll()
        numbers: dict[int, int] = {}
        for number, process in enumerate(self._processes):
            descriptor = os.pidfd_open(process.pid)
            numbers[descriptor] = number
            ending.register(descriptor, select.POLLIN)
        deadline: float | None = None
        while numbers:
            patience = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            found = ending.poll(patience)
            if not found:
                self.kill()
                deadline = None
            for descriptor, _ in found:
                ending.unregister(descriptor)
                os.close(descriptor)
                number = numbers.pop(descriptor)
                self._ended[number] = time.time()
                deadline = deadline or self._deadline(self._processes[number].wait())

    def _deadline(self, code: int) -> float | None:
        """Until when the others may go on, now that one has ended with this code."""
        if code == 0:
            return None  # the first one may take its time to write the weights
        return time.monotonic() + (STOP_SECONDS if code == EXIT_STOPPED else FAILURE_SECONDS)

    def kill(self) -> None:
        """Kill and reap whatever is left."""
        self._signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()

    def status(self) -> int:
        """The exit status of the whole job; where it failed, ``error.json`` is written."""
        codes = [process.returncode for process in self._processes]
        if not any(codes):
            return 0
        if EXIT_STOPPED in codes and (self._stop_requested or set(codes) <= {0, EXIT_STOPPED}):
            return EXIT_STOPPED
        if self._stop_requested and set(codes) <= {0, -signal.SIGTERM}:
            return 128 + signal.SIGTERM  # stopped before there was anything to save
        failed = [number for number, code in enumerate(codes) if code not in (0, EXIT_STOPPED)]
        first = min(failed, key=self._time_of_failure)
        self._explain(first)
        return codes[first] if codes[first] == 2 else 1

    def _time_of_failure(self, number: int) -> float:
        """When a process failed: when it said so, for others may fail of it before it has ended."""
        with contextlib.suppress(OSError):
            return self._error(number).stat().st_mtime
        return self._ended[number]

    def _explain(self, number: int) -> None:
        report: dict[str, Any]
        try:
            report = json.loads(self._error(number).read_text(encoding="utf-8"))
            report["message"] = f"Process {number} of 0 to {self._count - 1}: {report['message']}"
        except (OSError, ValueError, KeyError):
            report = {
                "kind": "process_died",
                "message": f"Process {number} of 0 to {self._count - 1} {self._end(number)}.",
                "advice": "The last lines of its log are above; out of memory is the most frequent reason of a kill.",
            }
        for file in self._folder.glob("error.rank-*.json"):
            file.unlink()
        if number:
            for line in _last_lines(self._log(number)):
                _say(f"[process {number}] {line}")
        _say(report["message"])
        partial = self._folder / "error.partial"
        partial.write_text(json.dumps(report, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        partial.replace(self._folder / "error.json")

    def _end(self, number: int) -> str:
        code = self._processes[number].returncode
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Hand the signal on. The processes agree on a step, save one checkpoint, and end."""
        self._stop_requested = True
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)

    def _log(self, number: int) -> Path:
        return self._folder / LOGS / f"rank-{number}.log"

    def _error(self, number: int) -> Path:
        return self._folder / f"error.rank-{number}.json"


def _last_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        return []


def _say(text: str) -> None:
    print(text, flush=True)  # ruff: ignore[T201]
