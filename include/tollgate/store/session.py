"""Connections to Tollgate's database: one engine a process, one transaction a block."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from tollgate.errors import ServiceUnavailableError
from tollgate.settings import settings


@lru_cache
def engine(url: str | None = None) -> Engine:
    """The process's engine for ``url`` (default: Tollgate's own database); dead connections are replaced."""
    return create_engine(url or settings().tollgate_database, pool_pre_ping=True, pool_size=5)


@contextmanager
def transaction(url: str | None = None) -> Generator[Session]:
    """Open a session that commits at the end of the block and rolls back on any error.

    Raises:
        ServiceUnavailableError: PostgreSQL did not answer, or the connection broke; nothing was written.
    """
    try:
        with Session(engine(url), expire_on_commit=False) as session, session.begin():
            yield session
    except (OperationalError, InterfaceError) as error:
        raise ServiceUnavailableError(f"PostgreSQL did not answer: {error.orig}") from error
