"""Versions with a server of their own: each one's traffic goes to its own address, in the moment of the switch too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from tests.unit.containers.gateway.conftest import ROUTE, RunningGateway, wait_for
from tests.unit.serving.fake_vllm import FakeVllm

from tollgate.serving import rollout, servers
from tollgate.serving.server_states import ServerState
from tollgate.store.session import transaction
from tollgate.store.tables import ModelServer

V1, V2 = f"{ROUTE}@v1", f"{ROUTE}@v2"


@pytest.fixture
def green(models: list[int]) -> Iterator[FakeVllm]:
    """The second version's own server, which is ready."""
    with ExitStack() as stack:
        server = stack.enter_context(FakeVllm(base=V2))
        with transaction() as session:
            row = servers.request(session, models[1], "kim")
            row.address = server.address
            servers.change(session, row, ServerState.READY)
        yield server


def set_route(weights: dict[int, float]) -> None:
    with transaction() as session:
        rollout.set_route(session, ROUTE, weights, "tester")


def test_each_version_is_asked_at_its_own_server(
    gateway: RunningGateway, models: list[int], backend: FakeVllm, green: FakeVllm
) -> None:
    backend.loaded = {V1: "/models/x"}
    set_route({models[0]: 0.5, models[1]: 0.5})
    wait_for(lambda: {gateway.ask(caller=f"u{n}").headers["X-Tollgate-Version"] for n in range(20)} == {V1, V2})
    for number in range(40):
        answer = gateway.ask(caller=f"u{number}")
        version = answer.headers["X-Tollgate-Version"]
        assert answer.json()["choices"][0]["message"]["content"].startswith(version)
    assert {request["model"] for request in green.requests} == {V2}
    assert {request["model"] for request in backend.requests} == {V1}


def test_no_request_is_lost_while_the_route_goes_to_and_fro(
    gateway: RunningGateway, models: list[int], backend: FakeVllm, green: FakeVllm
) -> None:
    backend.loaded = {V1: "/models/x"}

    def ask(number: int) -> tuple[int, bool]:
        answer = gateway.ask(f"q{number}", caller=f"u{number}")
        text = answer.json()["choices"][0]["message"]["content"]
        return answer.status_code, text == f"{answer.headers['X-Tollgate-Version']}: q{number}"

    with ThreadPoolExecutor(4) as pool:
        asked = []
        for move in range(6):
            set_route({models[(move + 1) % 2]: 1.0})
            asked += [pool.submit(ask, number) for number in range(25)]
            wait_for(asked[-1].done)
        assert {one.result() for one in asked} == {(200, True)}
    assert green.requests
    assert backend.requests


def test_a_version_whose_server_is_away_is_told_in_words_and_comes_back_with_it(
    start: Callable[..., RunningGateway], models: list[int], backend: FakeVllm, green: FakeVllm
) -> None:
    backend.loaded = {V1: "/models/x"}
    gateway = start()
    set_route({models[1]: 1.0})
    wait_for(lambda: gateway.ask().headers["X-Tollgate-Version"] == V2)
    _set_state(models[1], ServerState.WAITING)
    answer = wait_for(lambda: (found := gateway.ask()).status_code == 503 and found)
    assert "is not loaded at the moment" in answer.text
    _set_state(models[1], ServerState.READY)
    wait_for(lambda: gateway.ask().status_code == 200)


def _set_state(model_id: int, state: ServerState) -> None:
    with transaction() as session:
        server = servers.find(session, model_id)
        assert isinstance(server, ModelServer)
        servers.change(session, server, state)
