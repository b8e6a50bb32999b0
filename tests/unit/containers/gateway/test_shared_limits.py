"""Limits that hold for several gateways together."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL, Engine
from tests.unit.containers.gateway.conftest import RunningGateway, wait_for
from tests.unit.containers.gateway.test_request_log import away

from gateway.limits import MinuteLimits, Others
from gateway.shared_limits import SharedLimits, _parts
from tollgate.serving import keys
from tollgate.store.session import transaction

Start = Callable[..., RunningGateway]
LIMIT = 20


def exchange(gateways: list[MinuteLimits], clock: float) -> None:
    """What the gateways' threads do."""
    counts = [gateway.counts(clock) for gateway in gateways]
    for place, gateway in enumerate(gateways):
        now: dict[str, int] = {}
        for other, (_, part) in enumerate(counts):
            if other != place:
                for client, count in part.items():
                    now[client] = now.get(client, 0) + count
        minute, told = counts[place]
        gateway.others = Others(len(gateways) - 1, minute, now, {}, told)


@given(
    st.integers(1, 50),
    st.integers(2, 5),
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=200),
)
def test_gateways_let_through_what_one_would(limit: int, number: int, requests: list[tuple[int, bool]]) -> None:
    gateways = [MinuteLimits() for _ in range(number)]
    exchange(gateways, 600.0)
    passed = 0
    for place, is_exchanged in requests:
        passed += not gateways[place % number].take("kim", limit, 600.0).retry_after
        if is_exchanged:
            exchange(gateways, 600.0)
    assert passed <= limit + number - 1
    for _ in range(2 * limit):  # and the whole limit can be had, at any of them
        exchange(gateways, 600.0)
        passed += not gateways[0].take("kim", limit, 600.0).retry_after
    assert passed >= limit


class _Channel:
    """Gateways whose messages wait to be heard; stands for PostgreSQL."""

    def __init__(self, gateways: int) -> None:
        self.limits = [MinuteLimits() for _ in range(gateways)]
        self.shared = [SharedLimits(cast(Engine, None), one) for one in self.limits]
        self.waiting: list[list[str]] = [[] for _ in range(gateways)]
        for one in self.shared:
            one._connection = self
        for _ in range(3):
            for place in range(gateways):
                self.tell(place)
            for place in range(gateways):
                self.hear(place)

    @contextmanager
    def cursor(self) -> Iterator[_Channel]:
        yield self

    def execute(self, _statement: str, values: tuple[str, str]) -> None:
        for waiting in self.waiting:
            waiting.append(values[1])

    def tell(self, place: int) -> None:
        self.shared[place]._tell()

    def hear(self, place: int, most: int | None = None) -> None:
        heard, self.waiting[place] = self.waiting[place][:most], self.waiting[place][most:] if most else []
        for message in heard:
            self.shared[place]._learn(json.loads(message))
        self.shared[place]._count_others()


@given(
    st.integers(1, 50),
    st.integers(2, 4),
    st.lists(st.tuples(st.sampled_from(["ask", "tell", "hear"]), st.integers(0, 3), st.integers(1, 30)), max_size=200),
)
def test_late_messages_let_nobody_pass(limit: int, gateways: int, steps: list[tuple[str, int, int]]) -> None:
    """Messages that wait, and gateways that tell at different times: what was told is not yet known."""
    with patch("gateway.shared_limits.time.time", return_value=600.0):
        channel, passed = _Channel(gateways), 0
        for what, number, count in steps:
            place = number % gateways
            if what == "ask":
                taken = [channel.limits[place].take("kim", limit, 600.0) for _ in range(count)]
                passed += sum(not one.retry_after for one in taken)
            elif what == "tell":
                channel.tell(place)
            else:
                channel.hear(place, count)
    assert passed <= limit + gateways - 1


def test_what_others_let_through_counts_in_the_next_minute_too() -> None:
    limits = MinuteLimits()
    limits.take("kim", 10, 659.0)
    limits.others = Others(1, 10, {"kim": 9}, {}, {"kim": 1})
    assert limits.take("kim", 10, 659.5).retry_after
    assert limits.take("kim", 10, 660.5).retry_after
    assert not limits.take("kim", 10, 690.0).retry_after


def test_messages_fit_into_postgresql_s() -> None:
    counts = {f"key {number:064d}": number for number in range(1000)}
    parts = list(_parts(counts))
    assert {client: count for part in parts for client, count in part.items()} == counts
    assert max(len(repr(part)) for part in parts) < 7900
    assert list(_parts({})) == [{}]


def others(gateway: RunningGateway) -> int:
    lines = gateway.http.get("/metrics").text.splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("tollgate_gateway_other_gateways "))


def test_two_gateways_hold_one_limit(start: Start, postgres_server: URL, postgres_url: str) -> None:
    with transaction() as session:
        key = keys.create(session, "web", "tester", requests_per_minute=LIMIT)
    pair = [start(key="own"), start(key="own")]
    wait_for(lambda: [others(one) for one in pair] == [1, 1], 60)
    began = time.monotonic()
    passed = 0

    def ask() -> int:
        nonlocal passed
        found = [one.http.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code for one in pair]
        assert set(found) <= {200, 429}
        passed += found.count(200)
        return passed

    for _ in range(2 * LIMIT):
        ask()
    # The window slides: as time goes on, more fits into it.
    assert passed <= LIMIT * (1 + (time.monotonic() - began) / 60) + 1
    wait_for(lambda: ask() >= LIMIT, 120)
    with away(postgres_server, postgres_url):
        wait_for(lambda: [others(one) for one in pair] == [0, 0], 60)
    wait_for(lambda: [others(one) for one in pair] == [1, 1], 60)
