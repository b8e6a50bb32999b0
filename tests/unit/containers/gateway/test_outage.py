"""PostgreSQL is stopped for a while under load: every request is answered, and every one has its row afterwards.

``TOLLGATE_OUTAGE_SECONDS=600`` makes it ten minutes; the default is short.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.unit.containers.gateway.conftest import ROUTE, wait_for
from tests.unit.containers.gateway.test_killed_gateway import QUESTION, GatewayProcess
from tests.unit.serving.fake_vllm import FakeVllm

from tollgate.errors import ServiceUnavailableError
from tollgate.serving import rollout
from tollgate.stack import postgres
from tollgate.store import migrate
from tollgate.store.session import transaction
from tollgate.store.tables import RegisteredModel, RequestLog

OUTAGE_SECONDS = float(os.environ.get("TOLLGATE_OUTAGE_SECONDS", "4"))
PAUSE = 0.1
PATIENCE = 300.0


class Load:
    """Asks about ten times a second, and rates every tenth answer."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.statuses: list[int] = []
        self.request_ids: list[str] = []
        self.rated: set[str] = set()
        self._thread.start()

    def _run(self) -> None:
        for number in itertools.count():
            if self._stop.wait(PAUSE):
                return
            user = {"X-Tollgate-User": f"user-{number % 50}"}
            answer = self._gateway.http.post("/v1/chat/completions", json=QUESTION, headers=user)
            self.statuses.append(answer.status_code)
            request_id = answer.headers["x-tollgate-request-id"]
            self.request_ids.append(request_id)
            if number % 10 == 0:
                rating = {"request_id": request_id, "rating": 1 + number % 5}
                self.statuses.append(self._gateway.http.post("/v1/feedback", json=rating).status_code)
                self.rated.add(request_id)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def data(postgres_package: None) -> Iterator[Path]:
    """Folder of a PostgreSQL of this test's own, which may stop."""
    # A socket's path may have 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="tollgate-out-") as name:
        folder = Path(name) / "postgres"
        postgres.start(folder, ("tollgate",))
        yield folder
        postgres.stop(folder)


@pytest.fixture
def database(data: Path, tmp_path: Path) -> str:
    url = f"postgresql+psycopg2://postgres:@/tollgate?host={data}"
    migrate.upgrade(url)
    with transaction(url) as session:
        model = RegisteredModel(model_name=ROUTE, version=1, base_model="base", model_path=str(tmp_path))
        session.add(model)
        session.flush()
        rollout.set_route(session, ROUTE, {model.id: 1.0}, "tester")
    return url


def start_again(data: Path) -> None:
    try:
        postgres.start(data, ("tollgate",))
    except ServiceUnavailableError:  # a busy machine gives it no time
        wait_for(lambda: postgres.answers(data), PATIENCE)


def rows(database: str) -> dict[str, int | None]:
    with transaction(database) as session:
        return dict(session.execute(select(RequestLog.request_id, RequestLog.user_rating)).tuples().all())


def test_an_outage_of_postgresql_loses_no_request_and_no_row(
    data: Path, database: str, backend: FakeVllm, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    gateway = GatewayProcess(database, backend.address, home)
    try:
        load = Load(gateway)
        wait_for(lambda: len(load.request_ids) >= 5, PATIENCE)
        postgres.stop(data)
        before = len(load.request_ids)
        threading.Event().wait(OUTAGE_SECONDS)
        # However slow the machine is, some of it happens during the outage.
        wait_for(lambda: len(load.request_ids) >= before + 20, PATIENCE)
        start_again(data)
        after = len(load.request_ids)
        wait_for(lambda: len(load.request_ids) >= after + 5, PATIENCE)
        load.end()
        wait_for(lambda: set(rows(database)) >= set(load.request_ids), PATIENCE)
        wait_for(lambda: all(rows(database)[one] for one in load.rated), PATIENCE)
        assert set(load.statuses) <= {200, 202}
        assert len(rows(database)) == len(load.request_ids) == len(set(load.request_ids))
        figures = gateway.http.get("/metrics").text
        assert "tollgate_gateway_log_lost_total 0" in figures
        assert "tollgate_gateway_log_shed_total 0" in figures
    finally:
        gateway.close()
