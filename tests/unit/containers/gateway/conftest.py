"""A gateway under uvicorn, in front of servers that behave as vLLM does, on a real PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import select
from sqlalchemy.orm import Session
from tests.unit.serving.fake_vllm import FakeVllm

from gateway.app import Gateway
from gateway.configuration import GatewayOptions
from gateway.server import ServerProtocol
from tollgate.serving import rollout
from tollgate.settings import Settings
from tollgate.store.session import transaction
from tollgate.store.tables import Experiment, RegisteredModel, RequestLog

ROUTE = "router"


class RunningGateway:
    """A gateway in a thread; ``http`` talks to it."""

    def __init__(self, database_url: str, addresses: list[str], home: Path, **options: Any) -> None:
        chosen = {"refresh_seconds": 0.05, "log_pause": 0.05, "requests_per_minute": 0} | options
        environment = Settings(database_url=database_url, vllm_urls=addresses, home=home)
        app = Gateway(GatewayOptions(**chosen), environment)
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]
            host="127.0.0.1",
            port=0,
            http=ServerProtocol,
            log_level="error",
            timeout_graceful_shutdown=5,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_for(lambda: self._server.started)
        self.address = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
        self.http = httpx.Client(base_url=self.address, timeout=20, trust_env=False)

    def ask(self, question: str = "안녕", caller: str | None = None, **fields: Any) -> httpx.Response:
        """One question; ``caller`` goes into the header, ``fields`` into the request's body."""
        body = {"model": ROUTE, "messages": [{"role": "user", "content": question}]} | fields
        return self.http.post("/v1/chat/completions", json=body, headers={"X-Tollgate-User": caller} if caller else {})

    def stop(self) -> None:
        """As on SIGTERM."""
        self._server.should_exit = True
        self._thread.join(15)
        assert not self._thread.is_alive()
        self.http.close()


def wait_for(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Wait until the condition holds; the time is a limit against hanging, not an assertion."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "the condition did not come about"
        time.sleep(0.02)
    return result


@pytest.fixture
def backend() -> Iterator[FakeVllm]:
    with FakeVllm() as server:
        server.loaded = {f"{ROUTE}@v{version}": "/models/x" for version in (1, 2)}
        yield server


@pytest.fixture
def models(postgres_url: str, tmp_path: Path) -> list[int]:
    """Ids of two versions; the first is deployed."""
    with transaction() as session:
        rows = [
            RegisteredModel(model_name=ROUTE, version=version, base_model="base", model_path=str(tmp_path))
            for version in (1, 2)
        ]
        session.add_all(rows)
        session.flush()
        rollout.set_route(session, ROUTE, {rows[0].id: 1.0}, "tester")
        return [row.id for row in rows]


@pytest.fixture
def experiment(models: list[int]) -> int:
    """Id of a running experiment of the two versions, half and half."""
    with transaction() as session:
        row = Experiment(
            experiment_name="e",
            route=ROUTE,
            model_a_id=models[0],
            model_b_id=models[1],
            salt="pepper",
            plan={},
            traffic_split={"a": 0.5, "b": 0.5},
        )
        session.add(row)
        session.flush()
        return row.id


@pytest.fixture
def start(
    postgres_url: str, models: list[int], backend: FakeVllm, tmp_path: Path
) -> Iterator[Callable[..., RunningGateway]]:
    """Starts gateways, in front of ``backend`` unless other addresses are given, and stops them afterwards."""
    with ExitStack() as stack:

        def run(addresses: list[str] | None = None, **options: Any) -> RunningGateway:
            gateway = RunningGateway(postgres_url, addresses or [backend.address], tmp_path / "home", **options)
            stack.callback(gateway.stop)
            return gateway

        yield run


@pytest.fixture
def gateway(start: Callable[..., RunningGateway]) -> RunningGateway:
    return start()


def logged(count: int) -> list[RequestLog]:
    """The log's rows, oldest first, as soon as there are so many."""

    def rows() -> list[RequestLog]:
        with transaction() as session:
            return list(session.scalars(select(RequestLog).order_by(RequestLog.created_at)))

    wait_for(lambda: len(rows()) >= count)
    return rows()


def change(model: type[Any], row_id: int, **values: Any) -> None:
    """Change one row."""
    with transaction() as session:
        _set(session.get_one(model, row_id), session, values)


def _set(row: Any, session: Session, values: dict[str, Any]) -> None:
    for column, value in values.items():
        setattr(row, column, value)
    session.flush()
