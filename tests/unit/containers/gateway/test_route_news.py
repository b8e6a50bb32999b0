"""A route that moves is heard of at once; without the word, the next look finds it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, text

from gateway.assignment import Assignments
from gateway.routes_table import RoutesTable
from tollgate.serving.rollout import set_route
from tollgate.store.session import transaction
from tollgate.store.tables import RegisteredModel


@pytest.fixture
def models(postgres_url: str) -> list[int]:
    with transaction() as session:
        rows = [
            RegisteredModel(model_name="router", version=version, base_model="base", model_path="/nowhere")
            for version in (1, 2)
        ]
        session.add_all(rows)
        session.flush()
        return [row.id for row in rows]


@pytest.fixture
def table(postgres_url: str) -> Iterator[RoutesTable]:
    """A table that looks by itself every minute only."""
    engine = create_engine(postgres_url)
    table = RoutesTable(engine, Assignments(lambda *_: None), "base", refresh_seconds=60)
    table.start()
    yield table
    table.stop()
    with transaction() as session:
        session.execute(text("NOTIFY tollgate_routes"))  # wakes the thread, which ends
    engine.dispose()


def becomes(table: RoutesTable, served_name: str, seconds: float) -> bool:
    for _ in range(round(seconds / 0.05)):
        route = table.get("router")
        if route is not None and [version.name for version, _ in route.shares] == [served_name]:
            return True
        time.sleep(0.05)
    return False


def move(model_id: int) -> None:
    with transaction() as session:
        set_route(session, "router", {model_id: 1.0}, "kim")


def test_a_move_is_followed_long_before_the_next_look(table: RoutesTable, models: list[int]) -> None:
    for model_id, name in zip((*models, models[0]), ("router@v1", "router@v2", "router@v1"), strict=True):
        heard = False
        for _ in range(20):  # the first words may be said before the table listens
            move(model_id)
            with transaction() as session:
                session.execute(text("NOTIFY tollgate_routes"))
            heard = becomes(table, name, 2)
            if heard:
                break
        assert heard


def test_a_lost_connection_does_not_stop_the_looks(postgres_url: str, models: list[int]) -> None:
    engine = create_engine(postgres_url)
    table = RoutesTable(engine, Assignments(lambda *_: None), "base", refresh_seconds=0.2)
    table.start()
    for model_id, name in zip(models, ("router@v1", "router@v2"), strict=True):
        with transaction() as session:
            session.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE query LIKE 'LISTEN%' AND datname = current_database()"
                )
            )
        move(model_id)
        assert becomes(table, name, 60)
    table.stop()
    engine.dispose()
