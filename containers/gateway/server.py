"""uvicorn's HTTP protocol with less work for each request, and the gateway's extension of ASGI.

uvicorn is kept for what is hard: parsing, limits, pipelining, draining, the life of a server. What a gateway does for
every request is made cheap: one write for a whole response, no timer for each one, and a client that goes away is
told by a call, where ASGI needs a task that waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.asgi import EXTENSION, Headers

_FOREVER = float("inf")


class ClientConnection:
    """The extension (``gateway.asgi.Connection``) of one request."""

    __slots__ = ("_cycle", "on_gone")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self.on_gone: Callable[[], None] | None = None

    def whole_body(self) -> bytes | None:
        """The request's body if all of it is there."""
        cycle = self._cycle
        return None if cycle.more_body or cycle.disconnected else bytes(cycle.body)

    def reply(self, status: int, headers: Headers, body: bytes) -> bool:
        """Send a whole response by one write, if the client reads as fast as it is written to."""
        cycle = self._cycle
        if cycle.flow.write_paused or cycle.response_started or cycle.scope["method"] == "HEAD":
            return False
        if cycle.disconnected:
            return True
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        parts = [STATUS_LINE[status]]
        for name, value in (*cycle.default_headers, *headers):
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n", body)
        cycle.transport.write(b"".join(parts))
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True

    def is_answered(self) -> bool:
        """Whether the response is complete."""
        return self._cycle.response_complete


class ServerProtocol(HttpToolsProtocol):
    """uvicorn's protocol; what is said of a request goes to its ``ClientConnection``, too."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._client: ClientConnection | None = None
        self._idle_since = _FOREVER

    def on_headers_complete(self) -> None:
        """Begin a request; its task runs later, and then finds the extension."""
        super().on_headers_complete()
        if self.cycle is not None:
            self._client = ClientConnection(self.cycle)
            self.scope["extensions"] = {EXTENSION: self._client}  # type: ignore[dict-item]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who works for the client."""
        super().connection_lost(exc)
        client, self._client = self._client, None
        if client is not None and client.on_gone is not None and not client.is_answered():
            client.on_gone()

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for one, by one timer for many of them."""
        if self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._wait(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it was idle for long enough, else look again when it may be."""
        self.timeout_keep_alive_task = None
        if self.transport.is_closing():
            return
        idle = self.loop.time() - self._idle_since
        if idle >= self.timeout_keep_alive - 0.001:
            self.transport.close()
        elif idle >= 0:
            self._wait(self.timeout_keep_alive - idle)

    def _wait(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = _FOREVER
