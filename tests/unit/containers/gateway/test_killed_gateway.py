"""A gateway as a process of its own: SIGKILL loses no log entry, SIGTERM waits for answers and says so before."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from sqlalchemy import URL
from tests.unit.containers.gateway.conftest import ROUTE, RunningGateway, logged, wait_for
from tests.unit.containers.gateway.test_request_log import away
from tests.unit.serving.fake_vllm import FakeVllm

from gateway.request_log import new_request_id
from tollgate.store.session import transaction
from tollgate.store.tables import RequestLog

PROJECT = Path(__file__).parents[4]
QUESTION = {"model": ROUTE, "messages": [{"role": "user", "content": "안녕"}]}


class GatewayProcess:
    """``python -m gateway``."""

    def __init__(self, database: str, vllm: str, home: Path, **options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        settings = {
            "TOLLGATE_DATABASE_URL": database,
            "TOLLGATE_VLLM_URLS": f'["{vllm}"]',
            "TOLLGATE_HOME": str(home),
            "TOLLGATE_GATEWAY_KEY": "sesame",
            "PYTHONPATH": f"{PROJECT / 'include'}:{PROJECT / 'containers'}",
        }
        command = [sys.executable, "-m", "gateway", "--port", str(port)]
        self.process = subprocess.Popen(command, env=os.environ | settings | options, cwd=home.parent)
        self.http = httpx.Client(
            base_url=self.address, timeout=30, trust_env=False, headers={"Authorization": "Bearer sesame"}
        )
        wait_for(lambda: self.status("/readyz") == 200, 120)

    def status(self, path: str) -> int:
        try:
            return self.http.get(path).status_code
        except httpx.TransportError:
            return 0

    def ask(self) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=QUESTION)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGKILL)
        self.http.close()


Run = Callable[..., GatewayProcess]


@pytest.fixture
def run(postgres_url: str, models: list[int], backend: FakeVllm, tmp_path: Path) -> Iterator[Run]:
    home = tmp_path / "home"
    home.mkdir()
    with ExitStack() as stack:

        def start_process(**options: str) -> GatewayProcess:
            gateway = GatewayProcess(postgres_url, backend.address, home, **options)
            stack.callback(gateway.close)
            return gateway

        yield start_process


def test_a_killed_gateway_s_entries_are_written_by_another_one(
    run: Run, start: Callable[..., RunningGateway], postgres_server: URL, postgres_url: str
) -> None:
    gateway = run()
    with away(postgres_server, postgres_url):
        names = {gateway.ask().headers["x-tollgate-request-id"] for _ in range(50)}
        rated = next(iter(names))
        assert gateway.http.post("/v1/feedback", json={"request_id": rated, "rating": 2}).status_code == 202
        assert gateway.end(signal.SIGKILL) == -signal.SIGKILL
    other = start()  # with the same home
    wait_for(lambda: len(logged(50)) == 50)
    assert {row.request_id for row in logged(50)} == names
    wait_for(lambda: [row.request_id for row in logged(50) if row.user_rating == 2] == [rated])
    assert other.http.get("/healthz").status_code == 200


def test_an_accepted_rating_outlives_the_gateway_that_waits_for_its_row(
    run: Run, start: Callable[..., RunningGateway], tmp_path: Path
) -> None:
    gateway = run(TOLLGATE_GATEWAY_LOG_PAUSE="0.05")
    young = new_request_id()  # its row is still in another gateway's spool
    for rating in (5, 2):
        answer = gateway.http.post("/v1/feedback", json={"request_id": young, "rating": rating})
        assert answer.status_code == 202
    # It has left the queue, and waits for its row.
    wait_for(lambda: [path for path in (tmp_path / "home").glob("gateway-spool/*/aside") if b":2" in path.read_bytes()])
    gateway.end(signal.SIGKILL)
    start()
    wait_for(lambda: len(list((tmp_path / "home" / "gateway-spool").iterdir())) == 1)
    with transaction() as session:
        session.add(RequestLog(request_id=young, route=ROUTE, status_code=200, response_time_ms=1.0))
    wait_for(lambda: logged(1)[0].user_rating == 2)


def test_a_rating_for_which_there_is_no_room_is_not_accepted(
    start: Callable[..., RunningGateway], postgres_server: URL, postgres_url: str
) -> None:
    gateway = start(spool_bytes=1024)
    with away(postgres_server, postgres_url):
        request_ids = [gateway.ask().headers["x-tollgate-request-id"] for _ in range(10)]
        answers = [
            gateway.http.post("/v1/feedback", json={"request_id": one, "text": "x" * 500}) for one in request_ids
        ]
    assert answers[-1].status_code == 503
    assert answers[-1].json()["error"]["code"] == "log_full"


def test_sigterm_makes_it_unready_and_waits_for_answers(run: Run, backend: FakeVllm, tmp_path: Path) -> None:
    gateway = run(TOLLGATE_GATEWAY_DRAIN_SECONDS="2")
    backend.pause = 3
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(gateway.ask()))
    asking.start()
    wait_for(lambda: backend.requests)
    gateway.process.send_signal(signal.SIGTERM)
    with httpx.Client(base_url=gateway.address, trust_env=False) as balancer:
        wait_for(lambda: balancer.get("/readyz").status_code == 503)
        assert balancer.get("/healthz").status_code == 200
    asking.join(30)
    assert answers[0].status_code == 200
    gateway.process.wait(60)
    assert len(logged(1)) == 1
    assert list((tmp_path / "home" / "gateway-spool").iterdir()) == []
