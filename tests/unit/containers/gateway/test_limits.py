from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.containers.gateway.conftest import ROUTE, RunningGateway, wait_for

from gateway.access import Access
from gateway.errors import RequestError
from gateway.limits import MinuteLimits
from tollgate.serving import keys
from tollgate.store.session import transaction
from tollgate.store.tables import GatewayKey

Start = Callable[..., RunningGateway]


def let_through(limits: MinuteLimits, times: list[float], limit: int) -> list[float]:
    return [at for at in times if not limits.take("kim", limit, at).retry_after]


def test_a_minute_lets_as_many_through_as_the_limit_says() -> None:
    assert len(let_through(MinuteLimits(), [600.0 + step / 10 for step in range(300)], 100)) == 100


def test_a_full_minute_does_not_double_the_limit() -> None:
    limits = MinuteLimits()
    passed = let_through(limits, [659.0] * 150 + [661.0] * 150, 100)
    assert len(passed) <= 102


def test_clients_do_not_share_a_limit() -> None:
    limits = MinuteLimits()
    assert let_through(limits, [600.0], 1)
    assert not limits.take("lee", 1, 600.0).retry_after
    assert limits.take("kim", 1, 600.0).retry_after


@given(st.lists(st.floats(0, 400), max_size=300).map(sorted), st.integers(1, 40))
def test_waiting_as_long_as_told_lets_the_request_through(times: list[float], limit: int) -> None:
    limits = MinuteLimits()
    for at in times:
        wait = limits.take("kim", limit, 6000.0 + at).retry_after
        if wait:
            assert not limits.take("kim", limit, 6000.0 + at + wait + 1e-6).retry_after
            return


def scope(client: str | None, **headers: str) -> dict[str, Any]:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"client": (client, 1) if client else None, "headers": pairs}


def refusals(access: Access, requests: list[dict[str, Any]]) -> list[int]:
    found = []
    for request in requests:
        try:
            access.check(request)
            found.append(0)
        except RequestError as error:
            found.append(int(error.status))
    return found


def test_addresses_keys_and_the_own_key_have_their_limits() -> None:
    known = {keys.digest("plain"): None, keys.digest("big"): 5}
    access = Access("own", "s", 2, lambda: known)
    own, plain, big, wrong = (scope("10.0.0.1", authorization=f"Bearer {key}") for key in ("own", "plain", "big", "x"))
    assert refusals(access, [own] * 10) == [0] * 10
    assert refusals(access, [plain] * 3) == [0, 0, 429]
    assert refusals(access, [big] * 6) == [0] * 5 + [429]
    elsewhere = scope("10.0.0.2", authorization="Bearer plain")
    assert refusals(access, [elsewhere]) == [429]  # another address, the same key
    assert refusals(access, [scope("10.0.0.3", authorization="Bearer x")] * 3) == [401, 401, 429]
    assert refusals(access, [wrong]) == [429]


def test_a_key_is_known_by_its_digest_and_can_be_revoked(start: Start) -> None:
    with transaction() as session:
        key = keys.create(session, "web", "tester", requests_per_minute=1000)
        kept = session.query(GatewayKey).one()
        assert key not in {kept.name, kept.key_hash}
        assert len(kept.key_hash) == 64
    gateway = start(key="own")

    def status(bearer: str) -> int:
        return gateway.http.get("/v1/models", headers={"Authorization": f"Bearer {bearer}"}).status_code

    assert (status(key), status("own"), status(key + "x")) == (200, 200, 401)
    with transaction() as session:
        keys.revoke(session, "web")
    wait_for(lambda: status(key) == 401)
    assert status("own") == 200


@pytest.mark.parametrize("body", [b'{"model": "router", "messages": [', b""])
def test_a_body_that_does_not_arrive_is_refused(start: Start, body: bytes) -> None:
    import socket

    gateway = start(body_seconds=0.2)
    host, port = gateway.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=15) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {ROUTE}\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
