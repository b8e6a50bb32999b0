"""Connections to providers: in which order their addresses are tried, and which are left alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from gateway.breaker import Breaker
from gateway.http_client import HttpClient, Response
from tollgate.serving.providers import Endpoint


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
        self._failures = failures
        self._rest_seconds = rest_seconds
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self._turn = count()
        self._http = HttpClient(connect_timeout)

    def close(self) -> None:
        """Close the connections that are kept."""
        self._http.close()

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

    async def post(self, target: Target, path: str, body: bytes, seconds: float) -> Response:
        """Ask, and wait until the answer is whole or a stream has begun. Raises as ``HttpClient.post`` does.

        Args:
            target: Where to.
            path: For example ``/v1/chat/completions``.
            body: JSON.
            seconds: What is left of the time for all attempts.
        """
        # A redirect would take the key, and the question, to another address: none is followed.
        return await self._http.post(target.address, path, target.provider.key, body, seconds)

    def open_breakers(self) -> list[tuple[str, str]]:
        """Providers and addresses that are being left alone."""
        return [name for name, breaker in self._breakers.items() if breaker.is_open]

    def _breaker(self, provider: str, address: str) -> Breaker:
        found = self._breakers.get((provider, address))
        if found is None:
            found = self._breakers[provider, address] = Breaker(self._failures, self._rest_seconds)
        return found
