"""A route that moves to and fro under load, through a real gateway: what users notice of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import httpx

from tollgate.registry import lifecycle
from tollgate.serving import release
from tollgate.serving.client import VllmClient
from tollgate.settings import PROJECT
from tollgate.store.session import transaction

STREAMS = 12
SETTLE = 1.5
"""Seconds of load after each move: more than the gateway's time to follow."""


@dataclass(frozen=True)
class Answered:
    """One request: when it was sent, which version the gateway named, and what came back."""

    sent: float
    version: str
    question: str
    text: str
    failed: bool


@dataclass
class Seen:
    """What was seen of all moves of the route.

    Args:
        seconds: From each decision to the last new request on the version that was left.
        requests: Requests in all.
        failed: Requests without a whole answer.
        foreign: Answers that are not what the version named gives to that question.
    """

    seconds: list[float] = field(default_factory=list)
    requests: int = 0
    failed: int = 0
    foreign: int = 0


@contextmanager
def gateway(database: str, vllm: str, folder: Path) -> Iterator[str]:
    """A gateway process of its own; its address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    paths = [str(PROJECT / "include"), str(PROJECT / "containers"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "TOLLGATE_DATABASE_URL": database,
        "TOLLGATE_VLLM_URLS": json.dumps([vllm]),
        "TOLLGATE_GATEWAY_REQUESTS_PER_MINUTE": "0",  # one address asks for all users
    }
    options = ["--factory", "--host", "127.0.0.1", "--port", str(port), "--no-access-log"]
    with (folder / "gateway.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "gateway.app:create_app", *options],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_until_ready(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the gateway ended"
        try:
            httpx.get(f"{address}/readyz").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError("the gateway did not start")


class Load:
    """Streams that ask a route one question after the other, each in its own tongue of users.

    Args:
        address: The gateway.
        route: The route.
        questions: Asked in turn.
        max_tokens: Longest answer.
    """

    def __init__(self, address: str, route: str, questions: Sequence[str], max_tokens: int = 16) -> None:
        self.answers: list[Answered] = []
        self._address = address
        self._route = route
        self._questions = questions
        self._max_tokens = max_tokens
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)

    async def _all(self) -> None:
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            await asyncio.gather(*(self._stream(http, number) for number in range(STREAMS)))

    async def _stream(self, http: aiohttp.ClientSession, number: int) -> None:
        for question in itertools.islice(itertools.cycle(self._questions), number, None):
            if self._stop.is_set():
                return
            self.answers.append(await self._ask(http, f"stream {number}", question))
            if self.answers[-1].failed:
                await asyncio.sleep(0.1)  # what fails at once must not be all that is measured

    async def _ask(self, http: aiohttp.ClientSession, user: str, question: str) -> Answered:
        body = {
            "model": self._route,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": self._max_tokens,
            "temperature": 0,
            "stream": True,
            "user": user,
        }
        sent = time.monotonic()
        try:
            async with http.post(f"{self._address}/v1/chat/completions", json=body) as response:
                text, whole = _read(await response.text())
                version = response.headers.get("X-Tollgate-Version", "")
                return Answered(sent, version, question, text, response.status != 200 or not whole)
        except (aiohttp.ClientError, TimeoutError):
            return Answered(sent, "", question, "", True)


def _read(events: str) -> tuple[str, bool]:
    text, whole = "", False
    for line in events.splitlines():
        if line == "data: [DONE]":
            whole = True
        elif line.startswith("data:"):
            choices = json.loads(line[5:]).get("choices") or [{}]
            text += (choices[0].get("delta") or {}).get("content") or ""
    return text, whole


def switch(
    load: Load, client: VllmClient, names: tuple[str, str], cycles: int, expected: Callable[[str, str], str]
) -> Seen:
    """Promote the second version and roll it back, ``cycles`` times, under load.

    Args:
        load: The running load.
        client: The replicas.
        names: The version in production, and the one that comes and goes.
        cycles: Promotions; as many rollbacks.
        expected: What a version answers to a question.
    """
    seen = Seen()
    with transaction() as session:
        second = lifecycle.find(session, names[1])
    for cycle in range(1, cycles + 1):
        with transaction() as session:
            release.promote(session, second.id, "bench", "better", ["ping"], client)
        time.sleep(SETTLE)
        decided = time.monotonic()
        with transaction() as session:
            release.roll_back(session, second.model_name, "bench", "worse", client, second.id)
        time.sleep(SETTLE)
        late = [one.sent - decided for one in load.answers if one.version == names[1] and one.sent > decided]
        seen.seconds.append(max(late, default=0.0))
        if cycle % 10 == 0:
            print(f"{2 * cycle} of {2 * cycles} moves", file=sys.stderr, flush=True)
    seen.requests = len(load.answers)
    seen.failed = sum(one.failed for one in load.answers)
    seen.foreign = sum(
        not one.failed and one.text.strip() != expected(one.version, one.question).strip() for one in load.answers
    )
    return seen
