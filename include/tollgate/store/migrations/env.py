"""How Alembic reaches the database; run by ``tollgate.store.migrate``, never imported."""

from __future__ import annotations

from alembic import context
from sqlalchemy import NullPool, create_engine, text

from tollgate.store.tables import Table

LOCK = 7_406_001
"""Key of the advisory lock: two processes that start at once migrate one after the other."""


def run() -> None:
    """Run the asked-for migrations in one transaction: all of them, or none."""
    engine = create_engine(context.config.attributes["url"], poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        context.configure(connection=connection, target_metadata=Table.metadata)
        with context.begin_transaction():
            context.run_migrations()


run()
