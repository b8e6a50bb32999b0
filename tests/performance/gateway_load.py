"""A load generator that costs little itself: bare protocols on uvloop, each connection asking again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

Request = Callable[[int], bytes]
"""The bytes of the n-th request."""


@dataclass
class Load:
    """What came back. Times are in milliseconds; ``broken`` connections were asked again elsewhere, ``errors`` not."""

    times: list[float] = field(default_factory=list)
    first_bytes: list[float] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)
    errors: int = 0
    broken: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.times) / self.seconds

    def p(self, share: float, of: list[float] | None = None) -> float:
        """A quantile in milliseconds."""
        return float(np.quantile(self.times if of is None else of, share))


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._buffer = bytearray()
        self._need: int | None = None
        self._done: asyncio.Future[tuple[int, bytes]] | None = None
        self.transport: asyncio.Transport | None = None
        self.first_byte = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        assert self.transport is not None
        self._buffer.clear()
        self._need = None
        self.first_byte = 0.0
        self._done = asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            self._done.set_exception(ConnectionError("closed"))
        else:
            self.transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._need is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            at = head.find(b"content-length:")
            self._need = end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else -1
        if not self.first_byte and (self._need >= 0 or b"data:" in self._buffer):
            self.first_byte = time.perf_counter()
        whole = len(self._buffer) >= self._need if self._need >= 0 else self._buffer.endswith(b"\r\n0\r\n\r\n")
        if whole and self._done is not None and not self._done.done():
            self._done.set_result((int(self._buffer[9:12]), bytes(self._buffer)))

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError("lost"))


@dataclass
class Client:
    """Asks servers over several connections at a time.

    Args:
        ports: The servers; where one breaks a connection off, the next one is asked the same.
        request: The n-th request.
        keeps_ids: Whether the answers' request ids are kept.
        starts_over: Seconds over which the connections begin; 0: all at once.
    """

    ports: Sequence[int]
    request: Request
    keeps_ids: bool = False
    starts_over: float = 0.0

    async def run(self, connections: int, most: int = 10**12, seconds: float = 1e9) -> Load:
        """Ask until so many answers have come, or so much time has passed."""
        load = Load()
        numbers = iter(range(most))
        began = time.perf_counter()
        tasks = [self._repeat(load, numbers, began + seconds, index, connections) for index in range(connections)]
        await asyncio.gather(*tasks)
        load.seconds = time.perf_counter() - began
        return load

    async def _repeat(self, load: Load, numbers: object, end: float, index: int, connections: int) -> None:
        if self.starts_over:
            await asyncio.sleep(self.starts_over * index / connections)
        connection: _Connection | None = None
        turn = index
        for number in numbers:  # type: ignore[attr-defined]
            if time.perf_counter() >= end:
                break
            request = self.request(number)
            began = time.perf_counter()
            for _ in range(2 * len(self.ports) + 1):
                try:
                    connection = connection or await self._connect(turn)
                    status, answer = await asyncio.wait_for(connection.ask(request), 60)
                except (OSError, TimeoutError):
                    load.broken += 1
                    connection = None
                    turn += 1
                    continue
                self._keep(load, connection, began, status, answer)
                break
            else:
                load.errors += 1
        if connection is not None and connection.transport is not None:
            connection.transport.close()

    async def _connect(self, turn: int) -> _Connection:
        port = self.ports[turn % len(self.ports)]
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", port)
        return connection

    def _keep(self, load: Load, connection: _Connection, began: float, status: int, answer: bytes) -> None:
        if status != 200 or (b"text/event-stream" in answer and b"[DONE]" not in answer):
            load.errors += 1
            return
        load.times.append(1000 * (time.perf_counter() - began))
        load.first_bytes.append(1000 * (connection.first_byte - began))
        if self.keeps_ids:
            at = answer.find(b"x-tollgate-request-id: ") + 23
            load.request_ids.append(answer[at : at + 32].decode())
