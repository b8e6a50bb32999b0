"""A Docker engine of the test's own, which can be killed: data, sockets and containers apart from the machine's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from docker import APIClient
from docker.errors import DockerException

from tollgate.settings import settings

START_SECONDS = 300.0


class Engine:
    """``dockerd`` with everything of its own under one folder.

    Args:
        folder: A folder with a short path, since sockets lie in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = f"unix://{folder}/docker.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers; where it ends before, start it again, as its service manager does."""
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            assert time.monotonic() < deadline, f"the engine does not start, see {self._folder / 'log'}"
            if self.process is None or self.process.poll() is not None:
                self._start_once()
            time.sleep(0.5)

    def _start_once(self) -> None:
        (self._folder / "docker.pid").unlink(missing_ok=True)
        places = {"data-root": "data", "exec-root": "exec", "pidfile": "docker.pid"}
        options = [f"--{name}={self._folder / place}" for name, place in places.items()]
        alone = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
        # In a network of its own: an engine without a bridge removes docker0 as it starts, which is the machine's.
        command = ["unshare", "--net", "dockerd", f"--host={self.url}", *options, *alone]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def answers(self) -> bool:
        """Whether it answers."""
        try:
            return bool(APIClient(base_url=self.url, version="auto", timeout=5).ping())
        except DockerException:
            return False

    def kill(self) -> None:
        """Kill it, and it alone, as a crash does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Stop it; nothing that it started is left."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(120)
        deadline = time.monotonic() + 30
        while (left := self._processes()) and time.monotonic() < deadline:
            for process in left:
                process.kill()
            time.sleep(0.5)
        for place in reversed(self._mounts()):  # of containers whose engine was killed
            subprocess.run(["umount", "--lazy", place], check=False)

    def _mounts(self) -> list[str]:
        places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        return [place for place in places if place.startswith(f"{self._folder}/")]

    def _processes(self) -> list[psutil.Process]:
        """Processes that carry the engine's folder in their command: containerd and what watches containers."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self._folder / "exec") in word for word in process.info["cmdline"] or []):
                found.append(process)
        return found

    def take_image(self, name: str) -> None:
        """Copy an image from the machine's engine, which is only read.

        Raises:
            pytest.skip.Exception: That engine does not answer, or lacks the image.
        """
        given = f"--host={settings().docker_url}"
        if subprocess.run(["docker", given, "image", "inspect", name], capture_output=True, check=False).returncode:
            pytest.skip(f"no Docker engine has the image {name}; bash .ci/run builds it")
        with subprocess.Popen(["docker", given, "save", name], stdout=subprocess.PIPE) as saved:
            loading = ["docker", f"--host={self.url}", "load", "--quiet"]
            subprocess.run(loading, stdin=saved.stdout, check=True, capture_output=True)


def skip_unless_startable() -> None:
    """Skip where no engine can be started: it takes root and the program."""
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        pytest.skip("an engine of the test's own takes root and dockerd")
