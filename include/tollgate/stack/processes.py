"""Find and end the stack's processes, whoever their parent is by now.

Every process of a stack inherits the variable ``TOLLGATE_STACK=<home>``. The variable stays visible for as long as the
process lives, also when its parent was killed and when it moved to another process group.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

MARKER = "TOLLGATE_STACK"
"""Name of the environment variable that all processes of a stack carry."""


def marker(home: Path) -> dict[str, str]:
    """Environment that marks a process as part of the stack under ``home``.

    ``SPT_NOENV`` keeps ``setproctitle``, which Airflow and vLLM use, from writing the title over the environment.
    """
    return {MARKER: str(home.resolve()), "SPT_NOENV": "1"}


def stack_processes(home: Path) -> list[psutil.Process]:
    """All living processes of the stack under ``home``, without this one and its parents."""
    wanted = str(home.resolve())
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for process in psutil.process_iter() if process.pid not in spared and _mark(process) == wanted]


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARKER) if _lives(process) else None
    except (psutil.Error, OSError):  # gone meanwhile, or another user's
        return None


def end(processes: Sequence[psutil.Process], grace: float) -> None:
    """Ask processes to end (SIGTERM) and kill those that still live after ``grace`` seconds."""
    _signal_all(processes, signal.SIGTERM)
    alive = wait_ended(processes, grace)
    _signal_all(alive, signal.SIGKILL)
    wait_ended(alive, 5)


def wait_ended(processes: Iterable[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Wait until processes have ended.

    Unlike :func:`psutil.wait_procs`, a process that ended counts as such before its parent has asked for its status:
    what the stack leaves behind belongs to process 1, which in a container may never ask.

    Args:
        processes: The processes.
        timeout: Seconds after which to give up.

    Returns:
        Those that still live.
    """
    deadline = time.monotonic() + timeout
    alive = [process for process in processes if _lives(process)]
    while alive and time.monotonic() < deadline:
        time.sleep(0.05)
        alive = [process for process in alive if _lives(process)]
    return alive


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal_all(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:  # gone meanwhile
            continue


def describe(process: psutil.Process) -> str:
    """A process for a message: its number and the start of its command line."""
    try:
        words = " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        words = "ended meanwhile"
    return f"process {process.pid} ({words.strip()[:60]})"


def port_holder(port: int) -> psutil.Process | None:
    """The process that listens on a TCP port, if there is one that this user may see."""
    return next(iter(listeners(port)), None)


def listeners(port: int) -> list[psutil.Process]:
    """The processes that listen on a TCP port and that this user may see; a server's workers share it."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return []
    numbers = {
        connection.pid
        for connection in connections
        if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid
    }
    found = []
    for number in sorted(numbers):
        try:
            found.append(psutil.Process(number))
        except psutil.NoSuchProcess:
            continue
    return found


def memory(process_id: int) -> int:
    """Resident memory of a process and its descendants, in bytes (shared pages count for each)."""
    try:
        root = psutil.Process(process_id)
        family = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    return sum(_resident(process) for process in family)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
