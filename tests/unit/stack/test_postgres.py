from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text

from tollgate.errors import ServiceUnavailableError
from tollgate.stack import postgres, processes


def _execute(data: Path, database: str, statement: str) -> list[str]:
    engine = create_engine(f"postgresql+psycopg2://postgres:@/{database}?host={data}", poolclass=NullPool)
    with engine.begin() as connection:
        result = connection.execute(text(statement))
        return list(result.scalars()) if result.returns_rows else []


def test_starts_with_its_databases_keeps_data_over_stop_and_kill(home_with_postgres: Path) -> None:
    data = home_with_postgres / "postgres"
    assert not postgres.answers(data)
    assert not postgres.stop(data)

    postgres.start(data)
    assert set(_execute(data, "postgres", "SELECT datname FROM pg_database")) >= set(postgres.DATABASES)
    _execute(data, "tollgate", "CREATE TABLE kept (word text)")
    _execute(data, "tollgate", "INSERT INTO kept VALUES ('here')")
    server = postgres.running_process(data)
    postgres.start(data)
    assert postgres.running_process(data) == server

    assert postgres.stop(data)
    assert postgres.running_process(data) is None
    postgres.start(data)
    assert _execute(data, "tollgate", "SELECT word FROM kept") == ["here"]

    killed = postgres.running_process(data)
    assert killed is not None
    for process in [killed, *killed.children()]:
        os.kill(process.pid, signal.SIGKILL)
    processes.wait_ended([killed], 5)
    postgres.start(data)
    assert _execute(data, "tollgate", "SELECT word FROM kept") == ["here"]
    assert postgres.answers(data)


def test_no_process_of_a_killed_server_works_beside_the_new_one(home_with_postgres: Path) -> None:
    data = home_with_postgres / "postgres"
    postgres.start(data)
    killed = postgres.running_process(data)
    assert killed is not None
    orphan = killed.children()[0]
    orphan.suspend()  # it would notice the death of its parent and end
    killed.kill()
    assert not processes.wait_ended([killed], 10)
    postgres.start(data)
    assert not processes.wait_ended([orphan], 0)
    assert postgres.answers(data)


def test_a_first_start_that_was_killed_midway_is_set_aside(home: Path) -> None:
    data = home / "postgres"
    data.mkdir()
    (data / "PG_VERSION").write_text("18\n", encoding="utf-8")  # initdb writes it long before it is done
    postgres.start(data)
    assert postgres.answers(data)
    assert [folder.name.split("-")[0] for folder in home.glob("postgres.*")] == ["postgres.incomplete"]


def test_a_broken_server_that_once_worked_is_not_touched(home_with_postgres: Path) -> None:
    data = home_with_postgres / "postgres"
    (data / "global" / "pg_control").unlink()
    with pytest.raises(ServiceUnavailableError, match="PostgreSQL does not start"):
        postgres.start(data)
    assert (data / "PG_VERSION").exists()
    assert not list(home_with_postgres.glob("postgres.*"))


def test_a_number_file_left_by_a_killed_server_may_name_another_process(home_with_postgres: Path) -> None:
    data = home_with_postgres / "postgres"
    lines = [str(os.getpid()), str(data), "1", "5432", str(data), "", "  1  1", "ready"]
    (data / "postmaster.pid").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert postgres.running_process(data) is None
    postgres.start(data)
    assert postgres.answers(data)
