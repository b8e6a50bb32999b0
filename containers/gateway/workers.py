"""Several worker processes on one port: Python runs one thread at a time, so a core needs a process of its own."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from types import FrameType

from gateway.siblings import FOLDER

log = logging.getLogger(__name__)

SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2): a worker drains when whoever watches over it is killed."""
_GOOD_ENDS = frozenset({0, -signal.SIGTERM, -signal.SIGINT})
"""uvicorn drains, then ends by the signal that it was sent."""
_PAUSE = 1.0
_LOOK_SECONDS = 0.2


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket on a port that other workers' sockets may have, too; the kernel deals connections out among them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind((host, port))
    return found


class Workers:
    """Starts workers, starts them again when they die, and passes signals on.

    Args:
        number: How many, at least 2.
        arguments: The command line of each.
    """

    def __init__(self, number: int, arguments: list[str]) -> None:
        self._number = number
        self._arguments = arguments
        self._processes: list[subprocess.Popen[bytes]] = []
        self._is_ending = False

    def run(self) -> int:
        """Watch over them until a signal ends them; 1 if one of them then ended badly, else 0."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        with tempfile.TemporaryDirectory(prefix="tollgate-gateway-") as folder:
            environment = os.environ | {FOLDER: folder}
            self._processes = [self._start(environment) for _ in range(self._number)]
            while any(process.poll() is None for process in self._processes) or not self._is_ending:
                time.sleep(_LOOK_SECONDS)
                if not self._is_ending:
                    self._replace_the_dead(environment)
        return int(any(process.returncode not in _GOOD_ENDS for process in self._processes))

    def _replace_the_dead(self, environment: dict[str, str]) -> None:
        for place, process in enumerate(self._processes):
            if process.poll() is None:
                continue
            log.error("A worker ended with status %s; another one takes its place.", process.returncode)
            time.sleep(_PAUSE)  # one that cannot start must not be started without end
            if not self._is_ending:
                self._processes[place] = self._start(environment)

    def _start(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        prctl = ctypes.CDLL(None).prctl
        return subprocess.Popen(
            [sys.executable, "-m", "gateway", *self._arguments],
            env=environment,
            preexec_fn=lambda: prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM),
        )

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._is_ending = True
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)
