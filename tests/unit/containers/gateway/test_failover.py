"""Several providers behind one route: order, failure, switching, keys and what the log says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.containers.gateway.conftest import ROUTE, RunningGateway, logged, wait_for
from tests.unit.serving.fake_vllm import FakeVllm

from gateway.breaker import Breaker
from tollgate.serving import providers
from tollgate.serving.providers import ProviderForm
from tollgate.store.session import transaction

Start = Callable[..., RunningGateway]
KEY = "sk-secret-123"
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def other() -> Iterator[FakeVllm]:
    with FakeVllm(base="gpt") as server:
        yield server


@pytest.fixture
def fallback(models: list[int], other: FakeVllm, tmp_path: Path) -> None:
    """The route is answered by vLLM, then by another provider with a model, a key and prices."""
    source = providers.write_key("other", KEY, tmp_path / "home" / "provider-keys")
    prices = {"prompt_price": 100_000.0, "completion_price": 200_000.0}
    keep("other", other.address, model="gpt", key_source=source, **prices)
    order("vllm", "other")


def keep(name: str, address: str, **fields: Any) -> None:
    with transaction() as session:
        providers.save(session, ProviderForm(name=name, addresses=[address], **fields), "tester")


def order(*names: str, route: str = ROUTE) -> None:
    with transaction() as session:
        providers.set_chain(session, route, names)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["down", "empty", "failing", "busy", "refusing", "slow"])
def test_the_next_provider_answers_and_the_arm_is_not_credited(
    start: Start, backend: FakeVllm, fallback: None, experiment: int, models: list[int], fault: str, stream: bool
) -> None:
    backend.status = {"failing": 500, "busy": 429, "refusing": 401}.get(fault, 0)
    if fault == "empty":
        backend.restart_empty()
    if fault == "slow":
        backend.pause = 30
        with transaction() as session:
            providers.save(session, ProviderForm(name="vllm", timeout_seconds=0.2), "tester")
    gateway = start([NOWHERE] if fault == "down" else None)
    answer = gateway.ask("부산", caller="kim", stream=stream)
    assert answer.status_code == 200
    assert "gpt: " in answer.text
    assert "부산" in answer.text
    assert answer.headers["x-tollgate-provider"] == "other"
    assert answer.headers["x-tollgate-fallback"] == "true"
    (row,) = logged(1)
    assigned = {"a": "router@v1", "b": "router@v2"}[row.variant or ""]
    assert (row.assigned_version, row.served_version, row.provider) == (assigned, "gpt", "other")
    assert (row.fallback, row.model_id, row.experiment_id) == (True, None, experiment)
    assert row.cost == pytest.approx((7 * 100_000 + 5 * 200_000) / 1e6)


def test_the_other_provider_gets_its_key_and_nobody_else(
    start: Start, backend: FakeVllm, other: FakeVllm, fallback: None
) -> None:
    gateway = start(key="own")
    gateway.http.headers["Authorization"] = "Bearer own"
    gateway.ask()
    backend.refuse = True
    gateway.ask()
    assert backend.keys == [None, None]
    assert other.keys == [f"Bearer {KEY}"]


def test_a_refused_key_is_not_told_to_clients(start: Start, other: FakeVllm, fallback: None) -> None:
    order("other")
    other.status = 401
    answer = start().ask()
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "provider_refused")
    assert KEY not in answer.text


def test_a_provider_is_switched_without_a_restart(start: Start, fallback: None, models: list[int]) -> None:
    gateway = start()
    assert gateway.ask().headers["x-tollgate-provider"] == "vllm"
    order("other", "vllm")
    wait_for(lambda: gateway.ask().headers["x-tollgate-provider"] == "other")
    assert "x-tollgate-fallback" not in gateway.ask().headers
    order()
    wait_for(lambda: gateway.ask().headers["x-tollgate-provider"] == "vllm")


def test_a_route_of_another_provider_alone_needs_no_version(start: Start, fallback: None) -> None:
    order("other", route="assistant")
    gateway = start()
    answer = gateway.ask("안녕", model="assistant")
    assert answer.json()["choices"][0]["message"]["content"] == "gpt: 안녕"
    assert "assistant" in [card["id"] for card in gateway.http.get("/v1/models").json()["data"]]


def test_a_provider_with_the_same_versions_answers_as_the_version(
    start: Start, backend: FakeVllm, models: list[int]
) -> None:
    keep("second-site", backend.address)
    order("second-site")
    start([NOWHERE]).ask()
    (row,) = logged(1)
    assert (row.provider, row.served_version, row.model_id) == ("second-site", "router@v1", models[0])


def test_a_stream_that_has_begun_is_not_asked_for_again(
    gateway: RunningGateway, backend: FakeVllm, other: FakeVllm, fallback: None
) -> None:
    backend.cut_streams = True
    body = gateway.ask("하나 둘 셋", stream=True).text
    assert "router@v1:" in body
    assert "upstream_broken" in body
    assert other.requests == []


def test_a_client_s_own_mistake_is_not_asked_elsewhere(
    gateway: RunningGateway, backend: FakeVllm, other: FakeVllm, fallback: None
) -> None:
    backend.status = 400
    assert gateway.ask().status_code == 400
    assert other.requests == []


def test_an_address_that_keeps_failing_is_left_alone(start: Start, backend: FakeVllm, fallback: None) -> None:
    backend.refuse = True
    gateway = start(breaker_failures=3, breaker_seconds=1000)
    for _ in range(10):
        assert gateway.ask().headers["x-tollgate-provider"] == "other"
    assert len(backend.requests) == 3
    assert "tollgate_gateway_open_breakers 1" in gateway.http.get("/metrics").text


def test_a_provider_without_its_key_is_passed_over(start: Start, fallback: None, tmp_path: Path) -> None:
    (tmp_path / "home" / "provider-keys" / "other").unlink()
    order("other", "vllm")
    gateway = start()
    assert gateway.ask().headers["x-tollgate-provider"] == "vllm"
    providers.write_key("other", KEY, tmp_path / "home" / "provider-keys")
    wait_for(lambda: gateway.ask().headers["x-tollgate-provider"] == "other")


def test_a_breaker_lets_one_request_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("gateway.breaker.time.monotonic", lambda: now[0])
    breaker = Breaker(2, 10.0)
    breaker.failed()
    assert breaker.allows()
    breaker.failed()
    assert [breaker.is_open, breaker.allows()] == [True, False]
    now[0] = 10.0
    assert [breaker.allows(), breaker.allows()] == [True, False]
    breaker.failed()
    now[0] = 20.0
    assert breaker.allows()
    breaker.succeeded()
    assert [breaker.is_open, breaker.allows(), breaker.allows()] == [False, True, True]
