"""A connection to PostgreSQL that hears what is told on a channel."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine


def listen(engine: Engine, channel: str) -> Any:
    """Open a psycopg2 connection outside the pool that listens; whoever has it closes it.

    Args:
        engine: Tollgate's database.
        channel: A name of our own, as it stands in ``NOTIFY``.

    Raises:
        SQLAlchemyError: PostgreSQL did not answer.
        psycopg2.Error: It refused to listen.
    """
    pooled = engine.raw_connection()
    connection: Any = pooled.driver_connection
    pooled.detach()  # it is the caller's for as long as it lives
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"LISTEN {channel}")
    return connection
