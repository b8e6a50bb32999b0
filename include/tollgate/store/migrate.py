"""Bring the database to a revision of the schema, and see whether it is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool, create_engine
from sqlalchemy.exc import OperationalError

from tollgate.errors import ServiceUnavailableError, TollgateError
from tollgate.settings import settings
from tollgate.store.tables import Table

MIGRATIONS = Path(__file__).parent / "migrations"


class SchemaMismatchError(TollgateError):
    """The database's tables are not those that this version of the code works with."""


def upgrade(url: str | None = None, revision: str = "head") -> None:
    """Bring the database up to ``revision``, in one transaction; does nothing when it is there already.

    Processes that call this at the same time wait for each other.

    Args:
        url: SQLAlchemy URL; default: Tollgate's own database.
        revision: A revision of ``migrations/versions``, or ``head`` for the newest.

    Raises:
        ServiceUnavailableError: PostgreSQL did not answer.
    """
    with _answering():
        command.upgrade(_config(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Take the database back to ``revision``, in one transaction; the data of dropped tables is lost.

    Args:
        url: SQLAlchemy URL, always named: nobody should empty a database by default.
        revision: A revision of ``migrations/versions``, or ``base`` for an empty database.

    Raises:
        ServiceUnavailableError: PostgreSQL did not answer.
    """
    with _answering():
        command.downgrade(_config(url), revision)


def check(url: str | None = None) -> str:
    """Make sure that the database is at the newest revision and that its tables are those of ``tables.py``.

    Args:
        url: SQLAlchemy URL; default: Tollgate's own database.

    Returns:
        The revision.

    Raises:
        SchemaMismatchError: It is at another revision, or tables were changed by hand; the text names both sides.
        ServiceUnavailableError: PostgreSQL did not answer.
    """
    config = _config(url)
    expected = ScriptDirectory.from_config(config).get_current_head()
    with _answering(), create_engine(config.attributes["url"], poolclass=NullPool).connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
        if found != expected or found is None:
            raise SchemaMismatchError(f"The database is at revision {found}, this code needs {expected}: migrate it.")
        changes = differences(connection)
    if changes:
        raise SchemaMismatchError("The database's tables were changed by hand: " + "; ".join(map(repr, changes)))
    return found


def differences(connection: Connection) -> list[Any]:
    """What Alembic would change so that the database equals ``tables.py``: types, defaults, indexes, constraints."""
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, Table.metadata))


def _config(url: str | None) -> Config:
    config = Config(attributes={"url": url or settings().tollgate_database})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise ServiceUnavailableError(f"PostgreSQL did not answer: {error.orig}") from error
