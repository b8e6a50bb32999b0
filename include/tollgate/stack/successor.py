"""Run a server after what a killed one left: ``python -m tollgate.stack.successor PORT PROGRAM ARGUMENT …``.

SIGKILL to a server with worker processes leaves these, and they hold its port: the supervisor's new one could not
listen. Only processes with this stack's own mark are ended. The program then takes this process's place.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

import psutil

from tollgate.stack.processes import MARKER, describe, listeners, wait_ended

PATIENCE = 10.0
"""Seconds for which processes that hold the port are ended; a worker may have been replaced meanwhile."""


def end_predecessor(port: int, mark: str | None) -> list[str]:
    """Kill the processes of this stack that listen on a port.

    Args:
        port: The TCP port.
        mark: The stack's mark; null: this process belongs to none, and nothing is ended.

    Returns:
        What was ended, for the log.
    """
    ended: list[str] = []
    deadline = time.monotonic() + PATIENCE
    while mark is not None and time.monotonic() < deadline:
        remains = [process for process in listeners(port) if _mark_of(process) == mark]
        if not remains:
            break
        for process in remains:
            ended.append(describe(process))
            process.kill()
        wait_ended(remains, 5)
    return ended


def _mark_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARKER)
    except (psutil.Error, OSError):  # gone meanwhile, or another user's
        return None


def main(words: Sequence[str]) -> NoReturn:
    """End what a predecessor left, then become the program."""
    port, *command = words
    for left in end_predecessor(int(port), os.environ.get(MARKER)):
        print(f"Ended {left}, left by a killed predecessor on port {port}.", flush=True)  # ruff: ignore[T201]
    os.execv(command[0], command)  # ruff: ignore[S606]


if __name__ == "__main__":
    main(sys.argv[1:])
