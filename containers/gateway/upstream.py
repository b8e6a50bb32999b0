"""Connections to providers: in which order their addresses are tried, and which are left alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from gateway.breaker import Breaker
from tollgate.serving.providers import Endpoint

_HEADERS = CIMultiDict({"Content-Type": "application/json", "Accept-Encoding": "identity"})
"""Answers are wanted unpacked: they are read, and passed on as they are."""


@dataclass(frozen=True, slots=True)
class Target:
    """One address of one provider."""

    provider: Endpoint
    address: str
    breaker: Breaker


class Upstream:
    """All providers' addresses, their breakers and one pool of connections.

    Args:
        timeout: Seconds that one answer may take, streams included, over all attempts.
        connect_timeout: Seconds to wait for a connection.
        failures: Failures in a row after which an address is left alone.
        rest_seconds: For so long.
    """

    def __init__(self, timeout: float, connect_timeout: float, failures: int, rest_seconds: float) -> None:
        self.timeout = timeout
        self._connect_timeout = connect_timeout
        self._failures = failures
        self._rest_seconds = rest_seconds
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self._urls: dict[tuple[str, str], URL] = {}
        self._turn = count()
        self._limits = aiohttp.ClientTimeout(total=timeout, sock_connect=connect_timeout)
        self._http = aiohttp.ClientSession(
            # vLLM closes a connection that was idle for 5 seconds: be faster, or a request may meet a closing one.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0),
            timeout=self._limits,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=2**18,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    def targets(self, chain: Sequence[Endpoint]) -> Iterator[Target]:
        """Addresses in the order in which to try them: one provider after the other, each one's addresses in turn.

        Those left alone by their breaker come last: when nobody else answered, trying them costs nothing.
        """
        turn = next(self._turn)
        resting = []
        for provider in chain:
            size = len(provider.addresses)
            for step in range(size):
                address = provider.addresses[(turn + step) % size]
                target = Target(provider, address, self._breaker(provider.name, address))
                if target.breaker.allows():
                    yield target
                else:
                    resting.append(target)
        yield from resting

    def post(self, target: Target, path: str, body: bytes, seconds: float) -> aiohttp.client._RequestContextManager:
        """Begin a request.

        Args:
            target: Where to.
            path: For example ``/v1/chat/completions``.
            body: JSON.
            seconds: What is left of the time for all attempts.
        """
        headers = _HEADERS
        if target.provider.key:
            headers = CIMultiDict(_HEADERS, Authorization=f"Bearer {target.provider.key}")
        url = self._urls.get((target.address, path))
        if url is None:
            url = self._urls[target.address, path] = URL(target.address + path)
        if seconds >= self.timeout:  # the first attempt: the session's own
            limits = self._limits
        else:
            limits = aiohttp.ClientTimeout(total=seconds, sock_connect=self._connect_timeout)
        # A redirect would take the key, and the question, to another address.
        return self._http.post(url, data=body, headers=headers, timeout=limits, allow_redirects=False)

    def open_breakers(self) -> list[tuple[str, str]]:
        """Providers and addresses that are being left alone."""
        return [name for name, breaker in self._breakers.items() if breaker.is_open]

    def _breaker(self, provider: str, address: str) -> Breaker:
        found = self._breakers.get((provider, address))
        if found is None:
            found = self._breakers[provider, address] = Breaker(self._failures, self._rest_seconds)
        return found
