from __future__ import annotations

from typing import Any

import pytest

from gateway.access import Access
from gateway.errors import RequestError


def scope(client: str | None, **headers: str) -> dict[str, Any]:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"client": (client, 1) if client else None, "headers": pairs}


@pytest.mark.parametrize("client", ["127.0.0.1", "127.9.9.9", "::1", None])
def test_without_a_key_this_machine_is_served(client: str | None) -> None:
    Access(None, "").check(scope(client))


@pytest.mark.parametrize("client", ["10.0.0.1", "::2", "testclient"])
def test_without_a_key_nobody_else_is(client: str) -> None:
    with pytest.raises(RequestError, match="TOLLGATE_GATEWAY_KEY"):
        Access(None, "").check(scope(client))


def test_with_a_key_only_the_key_counts() -> None:
    access = Access("sesame", "")
    access.check(scope("10.0.0.1", authorization="bearer sesame"))
    with pytest.raises(RequestError):
        access.check(scope("127.0.0.1"))
    with pytest.raises(RequestError):
        access.check(scope("127.0.0.1", authorization="Bearer 열려라"))


def test_another_secret_gives_other_pseudonyms() -> None:
    first, second = (Access(None, secret).user(scope(None), {"user": "kim"}) for secret in ("s", "t"))
    assert first != second
    assert first == Access(None, "s").user(scope(None), {"user": "kim"})
    assert Access(None, "s").user(scope(None), {}) is None
