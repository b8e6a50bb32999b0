from __future__ import annotations

import threading
from collections.abc import Callable

import httpx
from tests.unit.containers.gateway.conftest import ROUTE, RunningGateway, logged, wait_for
from tests.unit.serving.fake_vllm import FakeVllm

from tollgate.serving import rollout
from tollgate.store.session import transaction

Start = Callable[..., RunningGateway]


def test_an_answer_says_where_it_came_from_and_is_logged(gateway: RunningGateway, models: list[int]) -> None:
    answer = gateway.ask("부산 방향", caller="010-1234-5678")
    assert answer.json()["choices"][0]["message"]["content"] == "router@v1: 부산 방향"
    assert answer.headers["x-tollgate-route"] == ROUTE
    assert answer.headers["x-tollgate-version"] == "router@v1"
    assert "x-tollgate-variant" not in answer.headers
    (row,) = logged(1)
    assert row.request_id == answer.headers["x-tollgate-request-id"]
    assert (row.query, row.response) == ("부산 방향", "router@v1: 부산 방향")
    assert (row.status_code, row.model_id, row.prompt_tokens, row.completion_tokens) == (200, models[0], 7, 5)
    assert row.experiment_id is None
    assert row.variant is None
    assert row.user_hash is not None
    assert "1234" not in row.user_hash


def test_the_model_server_learns_the_version_but_not_the_user(gateway: RunningGateway, backend: FakeVllm) -> None:
    gateway.ask(temperature=0.3, user="kim")
    assert backend.requests[0]["model"] == "router@v1"
    assert backend.requests[0]["temperature"] == 0.3
    assert "user" not in backend.requests[0]


def test_texts_are_not_kept_where_the_setting_says_so(start: Start) -> None:
    start(log_text=False).ask("비밀")
    (row,) = logged(1)
    assert row.query is row.response is None
    assert row.completion_tokens == 5


def test_models_are_the_routes_and_the_base(gateway: RunningGateway) -> None:
    cards = gateway.http.get("/v1/models").json()["data"]
    assert [card["id"] for card in cards] == ["base", ROUTE]
    assert gateway.ask(model="base").headers["x-tollgate-version"] == "base"


def test_an_unknown_route_is_told_which_there_are(gateway: RunningGateway) -> None:
    answer = gateway.ask(model="router@v1")
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["param"], error["type"]) == ("model_not_found", "model", "invalid_request_error")
    assert "base, router" in error["message"]


def test_a_request_that_cannot_be_understood_is_refused(start: Start) -> None:
    refused = {
        b"{": 400,
        b"[]": 400,
        b'{"messages": [{"role": "user", "content": "x"}]}': 400,
        b'{"model": "router"}': 400,
        b'{"model": "router", "messages": []}': 400,
        b'{"model": "' + b"x" * 3000 + b'"}': 413,
    }
    gateway = start(max_body_bytes=2048)
    for body, status in refused.items():
        answer = gateway.http.post("/v1/chat/completions", content=body)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error"), body


def test_other_paths_and_methods_are_refused(gateway: RunningGateway) -> None:
    assert gateway.http.get("/v1/chat/completions").status_code == 405
    assert "/v1/models" in gateway.http.get("/v2/x").json()["error"]["message"]


def test_a_key_is_asked_for_where_there_is_one(start: Start) -> None:
    gateway = start(key="sesame")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic sesame"}):
        answer = gateway.http.get("/v1/models", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert gateway.http.get("/v1/models", headers={"Authorization": "Bearer sesame"}).status_code == 200
    assert gateway.http.get("/healthz").status_code == 200


def test_a_moved_route_is_followed_without_a_restart(gateway: RunningGateway, models: list[int]) -> None:
    assert gateway.ask().headers["x-tollgate-version"] == "router@v1"
    with transaction() as session:
        rollout.set_route(session, ROUTE, {models[1]: 1.0}, "tester")
    wait_for(lambda: gateway.ask().headers["x-tollgate-version"] == "router@v2")


def test_a_canary_keeps_its_users_when_it_grows(gateway: RunningGateway, models: list[int]) -> None:
    def canary_users() -> set[str]:
        users = [f"user-{number}" for number in range(100)]
        return {user for user in users if gateway.ask(caller=user).headers["x-tollgate-version"] == "router@v2"}

    def set_share(share: float) -> None:
        with transaction() as session:
            rollout.set_route(session, ROUTE, {models[0]: 1 - share, models[1]: share}, "tester")

    set_share(0.2)
    wait_for(canary_users)
    few = canary_users()
    assert 5 <= len(few) <= 35
    set_share(0.6)
    wait_for(lambda: len(canary_users()) > len(few))
    assert few < canary_users()


def test_figures_are_counted_per_version(gateway: RunningGateway, backend: FakeVllm) -> None:
    gateway.ask()
    backend.refuse = True
    gateway.ask()
    labels = 'route="router",variant="",version="router@v1",provider="vllm"'
    expected = {
        f'tollgate_gateway_requests_total{{{labels},status="200"}} 1',
        f'tollgate_gateway_requests_total{{{labels},status="500"}} 1',
        f"tollgate_gateway_request_seconds_count{{{labels}}} 2",
        "tollgate_gateway_log_lost_total 0",
    }
    # A request is counted when its answer is gone, which may be after it arrived.
    wait_for(lambda: expected <= set(gateway.http.get("/metrics").text.splitlines()))


def test_a_stop_waits_for_answers_and_for_the_log(start: Start, backend: FakeVllm) -> None:
    gateway = start(log_pause=30)
    backend.pause = 0.3
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(gateway.ask()))
    asking.start()
    wait_for(lambda: backend.requests)
    gateway._server.should_exit = True
    asking.join(10)
    gateway._thread.join(10)
    assert answers[0].status_code == 200
    assert len(logged(1)) == 1
