"""The little of HTTP that a raw ASGI application needs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, Protocol

import orjson

from gateway.errors import RequestError, bad_request

Scope = Mapping[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]


EXTENSION = "tollgate.connection"
"""Name in ``scope["extensions"]`` by which the gateway's own server says more than ASGI has words for."""


class Connection(Protocol):
    """What the gateway's own server can do beyond ASGI; any other server does without.

    Attributes:
        on_gone: Called when the client goes away before its answer is complete.
    """

    on_gone: Callable[[], None] | None

    def whole_body(self) -> bytes | None:
        """The request's body if all of it is there."""

    def reply(self, status: int, headers: Headers, body: bytes) -> bool:
        """Send a whole response by one write. False, and nothing is sent, if the client reads too slowly for that."""


def connection_of(scope: Scope) -> Connection | None:
    """The extension, where the server has it."""
    extensions = scope.get("extensions")
    return extensions.get(EXTENSION) if extensions else None


class ClientDisconnectedError(Exception):
    """The client went away."""


class Reply:
    """A ``send`` that knows how far the response is. ``extra`` are headers of every response."""

    def __init__(self, send: Send, connection: Connection | None = None) -> None:
        self._send = send
        self.connection = connection
        self.complete = False
        self.started = False
        self.extra: Headers = ()

    async def __call__(self, message: dict[str, Any]) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            self.started = True
            if self.extra:
                message["headers"] = [*message["headers"], *self.extra]
        elif not message.get("more_body", False):
            self.complete = True
        await self._send(message)

    def whole(self, status: int, headers: Headers, body: bytes) -> bool:
        """Send a whole response at once, if the server can."""
        if self.connection is None or not self.connection.reply(status, [*headers, *self.extra], body):
            return False
        self.started = self.complete = True
        return True


def header(scope: Scope, name: bytes) -> str | None:
    """The first value of a request header; ``name`` in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None


async def read_json(scope: Scope, receive: Receive, limit: int, seconds: float) -> dict[str, Any]:
    """Read a request's body, a JSON object of at most ``limit`` bytes that arrives within so many seconds.

    Raises:
        RequestError: It is too large, too slow, or no JSON object.
        ClientDisconnectedError: It did not arrive in full.
    """
    connection = connection_of(scope)
    body = connection.whole_body() if connection is not None else None
    if body is None or len(body) > limit:
        body = await _read_in_time(receive, limit, seconds)
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"The request is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise bad_request("The request is not a JSON object.")
    return content


async def _read_in_time(receive: Receive, limit: int, seconds: float) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            return await _read_body(receive, limit)
    except TimeoutError as error:
        text = f"The request's body did not arrive within {seconds:g} s."
        raise RequestError(HTTPStatus.REQUEST_TIMEOUT, text, "request_timeout") from error


async def _read_body(receive: Receive, limit: int) -> bytes:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        body += message.get("body", b"")
        if len(body) > limit:
            text = f"The request is larger than {limit} bytes."
            raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text, "request_too_large")
        more = message.get("more_body", False)
    return bytes(body)


async def start(send: Send, status: int, content_type: bytes, headers: Headers = ()) -> None:
    """Send the status and the headers of a response."""
    fields = [(b"content-type", content_type), *headers]
    await send({"type": "http.response.start", "status": int(status), "headers": fields})


async def respond(send: Send, status: int, content_type: bytes, body: bytes, headers: Headers = ()) -> None:
    """Send a whole response."""
    if isinstance(send, Reply):
        fields = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
        if send.whole(int(status), fields, body):
            return
    await start(send, status, content_type, [(b"content-length", b"%d" % len(body)), *headers])
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, status: int, content: Any, headers: Headers = ()) -> None:
    """Send ``content`` as JSON."""
    await respond(send, status, b"application/json", orjson.dumps(content), headers)
