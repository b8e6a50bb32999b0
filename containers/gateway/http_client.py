"""A small HTTP/1.1 client for providers: kept connections, answers whole or as they come.

It knows one kind of request, a POST of JSON, and so costs a fraction of what a general client does (figures in
docs/architecture.md): the request's head is made once for each provider, and who waits is woken once, when a whole
answer is there or a stream begins. httptools parses.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote, urlsplit

import httptools

EVENT_STREAM = b"text/event-stream"
_IDLE_SECONDS = 4.0
"""vLLM closes a connection that was idle for 5 seconds: be faster, or a request may meet a closing one."""
_MOST_HEADER_BYTES = 2**16
_MOST_WAITING_BYTES = 2**18
_WITHOUT_BODY = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class BrokenAnswerError(Exception):
    """The connection ended, or what came is no HTTP."""


class NotConnectedError(BrokenAnswerError):
    """There was no connection to be had."""


class ConnectTimeoutError(TimeoutError):
    """The address did not take the connection in time."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is: host and port, and the context of TLS where it speaks it."""

    host: str
    port: int
    tls: ssl.SSLContext | None


class Response:
    """An answer under way. Whoever took it from ``HttpClient.post`` closes it, whatever happens.

    Attributes:
        status: HTTP status.
        content_type: The header's value, or that of JSON.
    """

    __slots__ = (
        *("_connection", "_error", "_parts", "_timer", "_waiter", "_waiting"),
        *("content_type", "is_whole", "status"),
    )

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._parts: deque[bytes] = deque()
        self._waiting = 0
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._error: Exception | None = None
        self.status = 0
        self.content_type = b"application/json"
        self.is_whole = False

    @property
    def is_stream(self) -> bool:
        """Whether it comes as server-sent events."""
        return self.status == HTTPStatus.OK and self.content_type.startswith(EVENT_STREAM)

    async def read(self) -> bytes:
        """What is left of the body.

        Raises:
            BrokenAnswerError: It broke off.
            TimeoutError: It took too long.
        """
        while not self.is_whole:
            self._connection.resume()
            await self._wait()
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        return body

    async def next_part(self) -> bytes:
        """The bytes that have come since the last call; empty at the end. Raises as ``read`` does."""
        while not self._parts:
            if self.is_whole:
                return b""
            await self._wait()
        self._waiting = 0
        part = self._parts.popleft() if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._connection.resume()
        return part

    def close(self) -> None:
        """Give the connection back if the answer is whole, else break it off, so that the server stops working."""
        if self._timer is not None:
            self._timer.cancel()
        self._connection.end(self)

    async def until_ready(self) -> None:
        """Return when a stream has begun or another answer is whole. Raises as ``read`` does."""
        while not (self.is_whole or (self.status and self.is_stream)):
            await self._wait()

    def limit(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """Fail with ``TimeoutError`` unless the answer is whole in time."""
        self._timer = loop.call_later(seconds, self.fail, TimeoutError())

    def add(self, part: bytes) -> bool:
        """Take a part of the body. False if more waits than should."""
        self._parts.append(part)
        self._waiting += len(part)
        if self.is_stream:
            self.wake()
            return self._waiting < _MOST_WAITING_BYTES
        return True

    def finish(self) -> None:
        """All has come."""
        self.is_whole = True
        self.wake()

    def fail(self, error: Exception) -> None:
        """Nothing more comes."""
        if not self.is_whole and self._error is None:
            self._error = error
            self.wake()

    def wake(self) -> None:
        """Wake who waits."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _wait(self) -> None:
        if self._error is None:
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        if self._error is not None:
            raise self._error


class _Connection(asyncio.Protocol):
    """One kept connection, with one request at a time. The callbacks' names are httptools'."""

    def __init__(self, loop: asyncio.AbstractEventLoop, keep: Callable[[_Connection], None]) -> None:
        self.loop = loop
        self.idle_since = 0.0
        self._keep = keep
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._response: Response | None = None
        self._is_paused = False
        self._status = 0
        self._header_bytes = 0
        self._ends_with_connection = True
        self._is_kept = False

    @property
    def is_open(self) -> bool:
        """Whether it can take a request."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes) -> Response:
        """Send a request."""
        assert self._transport is not None
        self._begin()
        response = self._response = Response(self)
        self._transport.write(request)
        return response

    def end(self, response: Response) -> None:
        """The answer is of no more interest."""
        if self._response is not response:
            return
        self._response = None
        if response.is_whole and self.is_open and self._is_kept:
            self.resume()
            self._keep(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Break the connection off."""
        if self._transport is not None:
            self._transport.abort()

    def resume(self) -> None:
        """Go on reading."""
        if self._is_paused:
            assert self._transport is not None
            self._is_paused = False
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        response = self._response
        if response is None:
            return
        if self._status and self._ends_with_connection and exc is None:
            response.finish()
        else:
            response.fail(BrokenAnswerError("the connection ended"))

    def data_received(self, data: bytes) -> None:
        if self._response is None:  # nobody asked
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._response.fail(BrokenAnswerError("not HTTP"))
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > _MOST_HEADER_BYTES:
            raise ValueError("too many headers")
        name = name.lower()
        if name == b"content-type":
            if self._response is not None:
                self._response.content_type = value
        elif name == b"content-length" or (name == b"transfer-encoding" and b"chunked" in value.lower()):
            self._ends_with_connection = False

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < HTTPStatus.OK or self._response is None:
            return
        self._status = self._response.status = status
        self._is_kept = self._parser.should_keep_alive()  # known at this moment only
        if status in _WITHOUT_BODY:
            self._ends_with_connection = False
        if self._response.is_stream:
            self._response.wake()

    def on_body(self, body: bytes) -> None:
        if self._response is not None and not self._response.add(body) and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if not self._status:  # 100 Continue and its like: the answer is still to come
            self._begin()
        elif self._response is not None:
            self._response.finish()

    def _begin(self) -> None:
        self._status = 0
        self._header_bytes = 0
        self._ends_with_connection = True


class HttpClient:
    """Sends requests over kept connections; made and used within one event loop.

    Args:
        connect_timeout: Seconds to wait for a connection.
    """

    def __init__(self, connect_timeout: float) -> None:
        self._connect_timeout = connect_timeout
        self._loop = asyncio.get_running_loop()
        self._idle: dict[Place, list[_Connection]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None
        self._heads: dict[tuple[str, str, str | None], tuple[Place, bytes]] = {}

    async def post(self, address: str, path: str, key: str | None, body: bytes, seconds: float) -> Response:
        """Send a request and wait until its answer is whole, or a stream has begun.

        Args:
            address: For example ``http://127.0.0.1:8000``.
            path: For example ``/v1/chat/completions``.
            key: Bearer key, if the server wants one.
            body: JSON.
            seconds: Time for the whole answer, streams included.

        Raises:
            ConnectTimeoutError: The address did not take the connection in time.
            TimeoutError: The answer took too long.
            NotConnectedError: There was no connection to be had.
            BrokenAnswerError: The answer broke off.
        """
        found = self._heads.get((address, path, key))
        if found is None:
            found = self._heads[address, path, key] = self._head(address, path, key)
        place, head = found
        connection = self._kept(place) or await self._connect(place, seconds)
        response = connection.ask(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        response.limit(self._loop, seconds)
        try:
            await response.until_ready()
        except BaseException:
            response.close()
            raise
        return response

    def close(self) -> None:
        """Close the connections that are kept."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()

    def _head(self, address: str, path: str, key: str | None) -> tuple[Place, bytes]:
        parts = urlsplit(address)
        host = (parts.hostname or "").encode("idna").decode()
        shown = f"[{host}]" if ":" in host else host
        if parts.port is not None:
            shown = f"{shown}:{parts.port}"
        tls = None
        if parts.scheme == "https":
            tls = self._tls = self._tls or ssl.create_default_context()
        place = Place(host, parts.port or (443 if tls else 80), tls)
        # Answers are wanted unpacked: they are read, and passed on as they are.
        lines = [
            f"POST {quote(parts.path + path, safe='/:@%!$&()*+,;=~-._')} HTTP/1.1",
            f"Host: {shown}",
            "Accept: */*",
            "Accept-Encoding: identity",
            "Content-Type: application/json",
            *([f"Authorization: Bearer {key}"] if key else []),
            "Content-Length: ",
        ]
        return place, "\r\n".join(lines).encode("latin-1", "replace")

    def _kept(self, place: Place) -> _Connection | None:
        connections = self._idle.get(place)
        if not connections:
            return None
        youngest = time.monotonic() - _IDLE_SECONDS
        while connections:
            connection = connections.pop()
            if connection.is_open and connection.idle_since > youngest:
                return connection
            connection.abort()
        return None

    async def _connect(self, place: Place, seconds: float) -> _Connection:
        keep = functools.partial(self._keep, place)
        patience = min(seconds, self._connect_timeout)
        try:
            async with asyncio.timeout(patience):
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self._loop, keep), place.host, place.port, ssl=place.tls
                )
        except TimeoutError as error:  # the kernel's own one, too
            raise ConnectTimeoutError if patience < seconds else TimeoutError from error
        except OSError as error:
            raise NotConnectedError(str(error)) from error
        return connection

    def _keep(self, place: Place, connection: _Connection) -> None:
        connection.idle_since = time.monotonic()
        self._idle.setdefault(place, []).append(connection)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_IDLE_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for too long."""
        oldest = time.monotonic() - _IDLE_SECONDS
        for place, connections in list(self._idle.items()):
            for connection in connections:
                if connection.idle_since <= oldest:
                    connection.abort()
            self._idle[place] = [one for one in connections if one.is_open]
        self._idle = {place: connections for place, connections in self._idle.items() if connections}
        self._sweeper = self._loop.call_later(_IDLE_SECONDS, self._sweep) if self._idle else None
