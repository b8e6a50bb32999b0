"""Starts one job as a process group, watches over it, and records how it ended. Run as a script, standard library only.

It outlives the Airflow worker that started it. The lock on ``job.lock`` makes a second job in the same folder
impossible; ``process.json`` says who runs, ``exit.json`` how it ended. SIGTERM stops the job: SIGTERM to the group, the
grace period, SIGKILL.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LOCKED = 75
"""Exit status where another launcher has the folder."""
LOCK_PATIENCE_SECONDS = 2.0
LOOK_SECONDS = 1.0
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; nothing where it is gone or only waits to be reaped.

    Together with its number this identifies a process: numbers are used again, start times are not.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def memory_of_group(group: int) -> int:
    """Return the memory of a process group in bytes; a page that several processes share counts once."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[2]) == group:
                total += _proportional_memory(entry)
    return total


def _proportional_memory(process: Path) -> int:
    for line in (process / "smaps_rollup").read_text(encoding="utf-8").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


class Launcher:
    """One job's guardian."""

    def __init__(self, folder: Path, launch: str, memory: int, grace: float) -> None:
        self.folder = folder
        self.launch = launch
        self.memory = memory
        self.grace = grace
        self.stop_requested = False
        self.memory_exceeded = False
        self.kill_at: float | None = None
        self.job: subprocess.Popen[bytes] | None = None

    def run(self, key: str, command: list[str]) -> int:
        """Run the job to its end; return 0, or ``LOCKED`` where the folder is taken."""
        # Kept open, and therefore locked, until this process ends; the job does not inherit it.
        lock = (self.folder / "job.lock").open("w")
        if not _lock(lock.fileno()):
            return LOCKED
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        (self.folder / "exit.json").unlink(missing_ok=True)
        with (self.folder / "job.log").open("wb") as log:
            try:
                self.job = self._start(command, log.fileno())
            except OSError as error:
                log.write(f"Cannot start {command[0]}: {error}\n".encode())
        self._write("process.json", key=key, **self._identity())
        if self.stop_requested:
            self._stop()  # the signal came before there was a job to hand it to
        code = self._watch(self.job) if self.job else 127
        self._write(
            "exit.json",
            exit_code=code if code >= 0 else 128 - code,
            stop_requested=self.stop_requested,
            memory_exceeded=self.memory_exceeded,
        )
        return 0

    def _start(self, command: list[str], output: int) -> subprocess.Popen[bytes]:
        prctl = ctypes.CDLL(None).prctl
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            process_group=0,
            # A job without its guardian could be neither found nor stopped.
            preexec_fn=lambda: prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL),
        )

    def _identity(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "start_ticks": start_ticks(os.getpid()),
            "group": self.job.pid if self.job else None,
        }

    def _write(self, name: str, **values: Any) -> None:
        temporary = self.folder / f".{name}.{os.getpid()}"
        temporary.write_text(json.dumps({"launch": self.launch, "at": time.time(), **values}), encoding="utf-8")
        temporary.replace(self.folder / name)

    def _stop(self) -> None:
        self.stop_requested = True
        if self.job and self.kill_at is None:
            self.kill_at = time.monotonic() + self.grace
            self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if self.job:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.job.pid, number)

    def _watch(self, job: subprocess.Popen[bytes]) -> int:
        ended = select.poll()
        ended.register(os.pidfd_open(job.pid), select.POLLIN)
        while not ended.poll(self._patience() * 1000):
            if self.kill_at is not None and time.monotonic() >= self.kill_at:
                self._signal(signal.SIGKILL)
            elif self.memory and memory_of_group(job.pid) > self.memory:
                self.memory_exceeded = True
                self._signal(signal.SIGKILL)
        self._signal(signal.SIGKILL)  # children that the job left behind
        return job.wait()

    def _patience(self) -> float:
        if self.kill_at is None:
            return LOOK_SECONDS
        return min(LOOK_SECONDS, max(0.01, self.kill_at - time.monotonic()))


def _lock(descriptor: int) -> bool:
    deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def main(arguments: list[str]) -> int:
    """Parse the command line and run the job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--launch", required=True, help="number of this start, to tell its records from older ones")
    parser.add_argument("--key", required=True, help="the task that the job belongs to")
    parser.add_argument("--memory", type=int, default=0, help="bytes; 0: no limit")
    parser.add_argument("--grace", type=float, default=120.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    launcher = Launcher(options.folder, options.launch, options.memory, options.grace)
    return launcher.run(options.key, options.command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
