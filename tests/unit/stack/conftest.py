"""Fixtures for tests of the stack: a short home folder, and small services that behave as a test wants."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tollgate.settings import Settings
from tollgate.stack import postgres, processes
from tollgate.stack.services import Service, common_environment
from tollgate.stack.supervision import Supervisor

MakeService = Callable[..., Service]


def _short_folder() -> Path:
    """A temporary folder with a short path, in memory where there is room: PostgreSQL writes a lot there."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2**31
    return Path(tempfile.mkdtemp(prefix="tg-", dir=memory if roomy else None))


@pytest.fixture
def home(postgres_package: None) -> Iterator[Path]:
    """A home folder whose path is short enough for sockets; afterwards nothing of its stack lives."""
    folder = _short_folder()
    yield folder
    processes.end(processes.stack_processes(folder), grace=0)
    if server := postgres.running_process(folder / "postgres"):
        server.send_signal(signal.SIGQUIT)  # at once, without saving anything
        processes.wait_ended([server], 10)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def configuration(home: Path) -> Settings:
    return Settings(home=home)


@pytest.fixture(scope="session")
def postgres_folder(postgres_package: None) -> Iterator[Path]:
    """A data folder to copy, since making one takes seconds; without the disk's safety."""
    folder = _short_folder()
    data = folder / "postgres"
    postgres.start(data)
    postgres.stop(data)
    with (data / "postgresql.conf").open("a", encoding="utf-8") as options:
        options.write("\nfsync = off\n")
    yield data
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def home_with_postgres(home: Path, postgres_folder: Path) -> Path:
    """A home folder with a stopped PostgreSQL."""
    subprocess.run(["cp", "--archive", str(postgres_folder), str(home)], check=True)  # keeps the server's own user
    return home


@pytest.fixture
def supervisor(home: Path) -> Supervisor:
    return Supervisor(home / "run", home / "logs")


@pytest.fixture
def environment(configuration: Settings) -> dict[str, str]:
    return common_environment(configuration)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def web_service() -> MakeService:
    """Make a service that answers every request with status 200."""

    def make(name: str = "web", **changes: object) -> Service:
        port = free_port()
        values: dict[str, object] = {
            "name": name,
            "command": (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)),
            "environment": {},
            "health_url": f"http://127.0.0.1:{port}/",
            "port": port,
            "address": f"http://127.0.0.1:{port}",
        }
        return Service(**(values | changes))  # type: ignore[arg-type]

    return make
