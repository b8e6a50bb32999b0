"""The log under load, and while PostgreSQL is away: requests are served, and nothing is lost or written twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from sqlalchemy import URL, NullPool, create_engine, make_url, text
from tests.unit.containers.gateway.conftest import RunningGateway, logged, wait_for

from tollgate.store.session import transaction
from tollgate.store.tables import Experiment

Start = Callable[..., RunningGateway]


@contextmanager
def away(server: URL, database_url: str) -> Iterator[None]:
    """The database refuses everyone while the block runs."""
    name = make_url(database_url).database
    maintenance = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    terminate = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
    with maintenance.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        connection.execute(terminate, {"name": name})
    try:
        yield
    finally:
        with maintenance.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))


def test_there_is_a_row_for_every_request(experiment: int, gateway: RunningGateway) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: gateway.ask(f"{number}", caller=f"user-{number % 7}"), range(200)))
    assert {answer.status_code for answer in answers} == {200}
    rows = logged(200)
    assert {row.request_id for row in rows} == {answer.headers["x-tollgate-request-id"] for answer in answers}
    assert len(rows) == 200


def test_without_postgresql_everything_is_served_and_written_later(
    start: Start, postgres_server: URL, postgres_url: str, experiment: int
) -> None:
    gateway = start()
    before = gateway.ask(caller="kim")
    logged(1)
    with away(postgres_server, postgres_url):
        answers = [gateway.ask(f"{number}", caller="kim") for number in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.headers["x-tollgate-variant"] for answer in answers} == {before.headers["x-tollgate-variant"]}
        late = gateway.http.post(
            "/v1/feedback", json={"request_id": answers[3].headers["x-tollgate-request-id"], "rating": 5}
        )
        early = gateway.http.post(
            "/v1/feedback", json={"request_id": before.headers["x-tollgate-request-id"], "rating": 1}
        )
        assert (late.status_code, early.status_code) == (202, 202)
        assert gateway.http.get("/readyz").status_code == 200
        assert gateway.http.get("/v1/models").json()["data"][1]["id"] == "router"
    wait_for(lambda: [row.user_rating for row in logged(21)][0:5:4] == [1, 5])
    assert len(logged(21)) == 21


def test_a_full_log_sheds_entries_and_never_requests(start: Start, postgres_server: URL, postgres_url: str) -> None:
    gateway = start(spool_bytes=3000)
    wait_for(lambda: gateway.http.get("/readyz").status_code == 200)
    with away(postgres_server, postgres_url):
        assert {gateway.ask().status_code for _ in range(30)} == {200}
        figures = gateway.http.get("/metrics").text
        shed = dict(line.split() for line in figures.splitlines() if line.startswith("tollgate_gateway_log_"))
        assert int(shed["tollgate_gateway_log_text_shed_total"]) >= 1
        assert 20 <= int(shed["tollgate_gateway_log_shed_total"]) < 30
        assert int(shed["tollgate_gateway_log_waiting_bytes"]) <= 3000


def test_an_entry_that_the_database_refuses_takes_no_other_with_it(start: Start, experiment: int) -> None:
    gateway = start(refresh_seconds=60, log_pause=0.3)
    gateway.ask("in", caller="kim")
    logged(1)
    with transaction() as session:
        session.delete(session.get_one(Experiment, experiment))
    gateway.ask("refused", caller="kim")
    gateway.ask("kept", model="base")
    assert [row.query for row in logged(1)] == ["kept"]


def test_a_gateway_that_starts_without_postgresql_waits_for_it(
    start: Start, postgres_server: URL, postgres_url: str
) -> None:
    with away(postgres_server, postgres_url):
        gateway = start()
        assert gateway.http.get("/readyz").status_code == 503
        assert gateway.http.get("/healthz").status_code == 200
        assert gateway.ask(model="base").status_code == 200
        assert gateway.ask().status_code == 404
    wait_for(lambda: gateway.ask().status_code == 200)
    assert gateway.http.get("/readyz").status_code == 200
