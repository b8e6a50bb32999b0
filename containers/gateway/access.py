"""Who may use the gateway, how often, and who a request's user is."""

from __future__ import annotations

import hmac
import ipaddress
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from gateway.asgi import Scope, header
from gateway.errors import RequestError
from gateway.limits import Allowance, MinuteLimits
from tollgate.experiments.assignment import hash_user
from tollgate.serving.keys import digest

USER_HEADER = b"x-tollgate-user"


class Access:
    """Checks bearer keys, holds clients to their limits, and gives users their pseudonyms.

    The installation's own key has no limit; other keys have theirs, or the gateway's, and share the limit of their
    address unless they have their own.

    Args:
        key: The installation's own key; without any key only this machine's clients are let in.
        secret: Secret of the pseudonyms.
        requests_per_minute: Limit of each key and each address; 0: none.
        client_keys: Digests of the other keys in use, with their own limits; asked at each request.
    """

    def __init__(
        self,
        key: str | None,
        secret: str,
        requests_per_minute: int = 0,
        client_keys: Callable[[], Mapping[str, int | None]] = dict,
    ) -> None:
        self._key = key.encode() if key else None
        self._secret = secret
        self._limit = requests_per_minute
        self._client_keys = client_keys
        self.limits = MinuteLimits()
        self._hash = lru_cache(maxsize=4096)(lambda user: hash_user(user, secret))
        self._digest = lru_cache(maxsize=1024)(digest)

    def check(self, scope: Scope) -> Allowance | None:
        """What is left of the client's limit if it may go on; null where it has none.

        Raises:
            RequestError: 401 for a missing or wrong key, 403 for a foreign client where there is no key, 429 beyond a
                limit.
        """
        known = self._client_keys()
        bearer = _bearer(scope)
        if self._key is not None and hmac.compare_digest(bearer.encode(), self._key):
            return None
        address = _address(scope)
        if self._key is None and not known:
            if not _is_local(address):
                text = "The gateway has no key yet (TOLLGATE_GATEWAY_KEY) and serves its own machine only."
                raise RequestError(HTTPStatus.FORBIDDEN, text, "no_key_configured")
            return self._take(f"address {address}", self._limit)
        name = self._digest(bearer) if bearer else ""
        if name not in known:
            self._take(f"address {address}", self._limit)  # so that keys can't be tried out at will
            text = "The API key is missing or wrong; send it as 'Authorization: Bearer <key>'."
            raise RequestError(HTTPStatus.UNAUTHORIZED, text, "invalid_api_key")
        own = known[name]
        if own is not None:
            return self._take(f"key {name}", own)
        self._take(f"address {address}", self._limit)
        return self._take(f"key {name}", self._limit)

    def user(self, scope: Scope, payload: Mapping[str, Any]) -> str | None:
        """Pseudonym of the request's user: the header, else the field ``user``, else the API key; else null."""
        named = header(scope, USER_HEADER) or payload.get("user")
        if isinstance(named, str) and named:
            return self._hash(named)
        key = _bearer(scope)
        return self._hash(f"key {key}") if key else None

    def _take(self, client: str, limit: int) -> Allowance | None:
        if limit <= 0:
            return None
        allowance = self.limits.take(client, limit)
        if allowance.retry_after:
            seconds = math.ceil(allowance.retry_after)
            text = f"More than {limit} requests in a minute. Try again in {seconds} s."
            headers = [(b"retry-after", b"%d" % seconds), *allowance_headers(allowance)]
            raise RequestError(HTTPStatus.TOO_MANY_REQUESTS, text, "rate_limit_exceeded", headers=headers)
        return allowance


def allowance_headers(allowance: Allowance | None) -> list[tuple[bytes, bytes]]:
    """What is left of a limit, as OpenAI's API writes it."""
    if allowance is None:
        return []
    return [
        (b"x-ratelimit-limit-requests", b"%d" % allowance.limit),
        (b"x-ratelimit-remaining-requests", b"%d" % allowance.remaining),
    ]


def _bearer(scope: Scope) -> str:
    scheme, _, key = (header(scope, b"authorization") or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _address(scope: Scope) -> str | None:
    client = scope.get("client")
    return client[0] if client else None


def _is_local(address: str | None) -> bool:
    if address is None:  # a Unix socket
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
