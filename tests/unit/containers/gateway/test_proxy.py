from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from tests.unit.containers.gateway.conftest import ROUTE, RunningGateway, logged, wait_for
from tests.unit.serving.fake_vllm import FakeVllm

Start = Callable[..., RunningGateway]
STREAM = {"messages": [{"role": "user", "content": "하나 둘 셋"}], "stream": True}
NOWHERE = "http://127.0.0.1:1"


def test_a_stream_is_passed_on_byte_by_byte(gateway: RunningGateway, backend: FakeVllm) -> None:
    direct = httpx.post(f"{backend.address}/v1/chat/completions", json=STREAM | {"model": "router@v1"})
    through = gateway.http.post("/v1/chat/completions", json=STREAM | {"model": ROUTE})
    assert through.content == direct.content
    assert through.headers["content-type"].startswith("text/event-stream")
    assert through.headers["x-tollgate-version"] == "router@v1"
    (row,) = logged(1)
    assert (row.response, row.status_code) == ("router@v1: 하나 둘 셋 ", 200)


def test_a_stream_arrives_while_it_is_being_made(gateway: RunningGateway, backend: FakeVllm) -> None:
    backend.pause = 0.2
    with gateway.http.stream("POST", "/v1/chat/completions", json=STREAM | {"model": ROUTE}) as response:
        parts = [part for part in response.iter_raw() if part]
    assert len(parts) >= 4


def test_a_broken_stream_is_an_error_of_its_version_and_never_looks_whole(
    gateway: RunningGateway, backend: FakeVllm
) -> None:
    backend.cut_streams = True
    body = gateway.http.post("/v1/chat/completions", json=STREAM | {"model": ROUTE}).text
    assert "router@v1:" in body
    assert "upstream_broken" in body
    assert "[DONE]" not in body
    (row,) = logged(1)
    assert (row.status_code, row.response) == (502, "router@v1: ")


def test_without_a_server_the_error_is_the_version_s(start: Start, models: list[int], experiment: int) -> None:
    answer = start([NOWHERE]).ask(caller="kim")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "upstream_unavailable")
    (row,) = logged(1)
    assert (row.status_code, row.variant, row.experiment_id) == (503, answer.headers["x-tollgate-variant"], experiment)


def test_a_version_that_is_not_loaded_is_not_the_client_s_fault(gateway: RunningGateway, backend: FakeVllm) -> None:
    backend.restart_empty()
    answer = gateway.ask()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_not_loaded")


def test_an_error_of_the_model_server_is_passed_on_and_logged(gateway: RunningGateway, backend: FakeVllm) -> None:
    backend.refuse = True
    answer = gateway.ask()
    assert (answer.status_code, answer.json()["error"]["message"]) == (500, "EngineCore encountered an issue.")
    assert logged(1)[0].status_code == 500


@pytest.mark.parametrize("fault", ["down", "empty", "failing"])
def test_another_replica_answers_for_one_that_cannot(start: Start, backend: FakeVllm, fault: str) -> None:
    with FakeVllm() as other:
        other.refuse = fault == "failing"
        gateway = start([NOWHERE if fault == "down" else other.address, backend.address])
        assert {gateway.ask().status_code for _ in range(6)} == {200}
        assert [row.status_code for row in logged(6)] == [200] * 6


def test_an_answer_that_takes_too_long_ends(start: Start, backend: FakeVllm) -> None:
    backend.pause = 5
    answer = start(upstream_timeout=0.2).ask()
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    assert logged(1)[0].status_code == 504


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_stops_the_work(gateway: RunningGateway, backend: FakeVllm, stream: bool) -> None:
    backend.pause = 3
    with pytest.raises(httpx.ReadTimeout):
        gateway.http.post("/v1/chat/completions", json=STREAM | {"model": ROUTE, "stream": stream}, timeout=0.3)
    wait_for(backend.cancelled.is_set)
    assert logged(1)[0].status_code == 499
