"""Migrations on a real PostgreSQL: up, down, up again, and equal to the tables of the code."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from sqlalchemy import NullPool, create_engine, inspect, text

from tollgate.errors import ServiceUnavailableError
from tollgate.settings import PROJECT
from tollgate.store import migrate
from tollgate.store.tables import Table


def _execute(url: str, statement: str) -> None:
    with create_engine(url, poolclass=NullPool).begin() as connection:
        connection.execute(text(statement))


def _tables(url: str) -> set[str]:
    return set(inspect(create_engine(url, poolclass=NullPool)).get_table_names()) - {"alembic_version"}


def test_up_down_up_again(empty_postgres_url: str) -> None:
    migrate.upgrade(empty_postgres_url)
    assert _tables(empty_postgres_url) == set(Table.metadata.tables)
    migrate.downgrade(empty_postgres_url, "base")
    assert _tables(empty_postgres_url) == set()
    migrate.upgrade(empty_postgres_url)
    assert migrate.check(empty_postgres_url)


def test_the_migrations_make_exactly_the_tables_of_the_code(postgres_url: str) -> None:
    with create_engine(postgres_url, poolclass=NullPool).connect() as connection:
        assert migrate.differences(connection) == []


def test_upgrading_again_keeps_the_data(postgres_url: str) -> None:
    _execute(postgres_url, "INSERT INTO gpu_leases (device, holder) VALUES (3, 'job-1')")
    migrate.upgrade()
    with create_engine(postgres_url, poolclass=NullPool).connect() as connection:
        assert connection.execute(text("SELECT device, holder FROM gpu_leases")).all() == [(3, "job-1")]


def test_processes_that_start_at_once_migrate_one_after_the_other(empty_postgres_url: str) -> None:
    program = "import sys; from tollgate.store import migrate; migrate.upgrade(sys.argv[1])"
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "include")}
    processes = [
        subprocess.Popen([sys.executable, "-c", program, empty_postgres_url], env=environment) for _ in range(2)
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert migrate.check(empty_postgres_url)


def test_check_names_the_revisions_of_an_empty_database(empty_postgres_url: str) -> None:
    with pytest.raises(migrate.SchemaMismatchError, match="revision None, this code needs 0"):
        migrate.check(empty_postgres_url)


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("ALTER TABLE model_registry DROP COLUMN verdict", "verdict"),
        ("ALTER TABLE gpu_leases ALTER holder TYPE varchar(7)", "holder"),
        ("ALTER TABLE model_registry ALTER status DROP DEFAULT", "status"),
        ("DROP INDEX uq_model_registry_production", "uq_model_registry_production"),
    ],
)
def test_check_names_what_was_changed_by_hand(postgres_url: str, statement: str, named: str) -> None:
    _execute(postgres_url, statement)
    with pytest.raises(migrate.SchemaMismatchError, match=named):
        migrate.check()


def test_a_failing_migration_leaves_nothing_behind(empty_postgres_url: str) -> None:
    _execute(empty_postgres_url, "CREATE TABLE ab_test_results (id integer)")
    with pytest.raises(Exception, match="ab_test_results"):
        migrate.upgrade(empty_postgres_url)
    assert _tables(empty_postgres_url) == {"ab_test_results"}


def test_a_missing_server_is_told_in_plain_words() -> None:
    with pytest.raises(ServiceUnavailableError, match="PostgreSQL did not answer"):
        migrate.upgrade("postgresql+psycopg2://postgres:@/tollgate?host=/nonexistent")
