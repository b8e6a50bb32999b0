"""Simulated users at a small gateway."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
from aiohttp import web
from tests.unit.stack.conftest import free_port

from tollgate.demo.users import Crowd, Question, Visit, send_users
from tollgate.errors import ServiceUnavailableError

RIGHT = {"분류": "통행료", "긴급": False}
QUESTIONS = [Question(system="Sort.", text=f"q{number}", right_answer=RIGHT) for number in range(20)]


class Gateway:
    """Answers right; users with an odd number are in arm b, and ``refuse`` may answer a question otherwise."""

    def __init__(self) -> None:
        self.asked: dict[str, list[str]] = {}
        self.keys: set[str | None] = set()
        self.ratings: dict[str, int] = {}
        self.refuse: Callable[[str], web.Response | None] = lambda question: None
        self.answer = json.dumps(RIGHT)
        self.address = ""
        self._numbers = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/feedback", self._rate)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
        self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        user, question = request.headers["X-Tollgate-User"], body["messages"][-1]["content"]
        self.asked.setdefault(user, []).append(question)
        self.keys.add(request.headers.get("Authorization"))
        refused = self.refuse(question)
        if refused is not None:
            return refused
        variant = "b" if int(user.rpartition("-")[2]) % 2 else "a"
        headers = {
            "x-tollgate-request-id": str(next(self._numbers)),
            "x-tollgate-variant": variant,
            "x-tollgate-version": f"{body['model']}@{variant}",
        }
        return web.json_response({"choices": [{"message": {"content": self.answer}}]}, headers=headers)

    async def _rate(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.ratings[body["request_id"]] = body["rating"]
        return web.json_response({})


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as gateway:
        yield gateway


def send(gateway: Gateway, **changes: Any) -> list[Visit]:
    crowd = Crowd.model_validate(
        {"route": "router", "questions": QUESTIONS, "users": 6, "questions_each": 5, **changes}
    )
    return send_users(gateway.address, "secret", crowd, lambda _: None)


def test_every_user_asks_different_questions_and_rates_each_answer(gateway: Gateway) -> None:
    visits = send(gateway)
    assert [visit.user for visit in visits] == [f"simulated-0-{number}" for number in range(6)]
    assert {len(set(questions)) for questions in gateway.asked.values()} == {5}
    assert gateway.keys == {"Bearer secret"}
    assert [(visit.variant, visit.version) for visit in visits[:2]] == [("a", "router@a"), ("b", "router@b")]
    assert all((visit.right, visit.failed, len(visit.seconds)) == (5, 0, 5) for visit in visits)
    rated = sorted(gateway.ratings.values())
    assert rated == sorted(rating for visit in visits for rating in visit.ratings)
    assert set(rated) == {5}


@pytest.mark.parametrize("answer", ["모름", '{"분류": "통행료"}', "null"])
def test_a_wrong_answer_is_rated_low(gateway: Gateway, answer: str) -> None:
    gateway.answer = answer
    assert {rating for visit in send(gateway) for rating in visit.ratings} == {1, 2}


def test_a_seed_draws_the_same_again_and_a_second_wave_brings_new_people(gateway: Gateway) -> None:
    first = [(visit.user, visit.ratings) for visit in send(gateway, users=4)]
    questions = dict(gateway.asked)
    gateway.asked.clear()
    assert [(visit.user, visit.ratings) for visit in send(gateway, users=4)] == first
    assert gateway.asked == questions
    assert [visit.user for visit in send(gateway, users=1, first_user=4)] == ["simulated-0-4"]
    gateway.asked.clear()
    send(gateway, users=1, seed=1)
    assert gateway.asked["simulated-1-0"] != questions["simulated-0-0"]


@pytest.mark.parametrize("content_type", ["application/json", "text/html"])
def test_a_failed_request_is_counted_and_not_rated(gateway: Gateway, content_type: str) -> None:
    gateway.refuse = lambda question: web.Response(status=503, text="busy", content_type=content_type)
    seen: list[Visit] = []
    crowd = Crowd(route="router", questions=QUESTIONS, users=2, questions_each=3)
    visits = send_users(gateway.address, "", crowd, seen.append)
    assert [(visit.failed, visit.ratings, visit.variant) for visit in visits] == [(3, [], None)] * 2
    assert sorted(visit.user for visit in seen) == [visit.user for visit in visits]
    assert (gateway.ratings, gateway.keys) == ({}, {None})


def test_a_gateway_that_is_away_is_named() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    crowd = Crowd(route="router", questions=QUESTIONS, users=2)
    with pytest.raises(ServiceUnavailableError, match=address):
        send_users(address, "", crowd, lambda _: None)
