"""A real MLflow tracking server for tests, which can be killed and started again with what it had."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx


class TrackingServer:
    """A server on a free port, in a process group of its own.

    Args:
        folder: Where database, artifacts and log are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self._port = listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        store = ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        place = ["--artifacts-destination", str(self._folder / "artifacts")]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--workers", "1", *store, *place], stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(720):
            try:
                httpx.get(f"{self.address}/health").raise_for_status()
            except httpx.HTTPError:
                assert self.process.poll() is None, (self._folder / "log").read_text()
                time.sleep(0.5)
            else:
                return
        raise AssertionError("MLflow did not start")

    def kill(self) -> None:
        """Kill it with all its children."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
