"""The little of HTTP that a raw ASGI application needs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

import orjson

from gateway.errors import RequestError, bad_request

Scope = Mapping[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]


class ClientDisconnectedError(Exception):
    """The client went away."""


class Reply:
    """A ``send`` that knows how far the response is. ``extra`` are headers of every response."""

    def __init__(self, send: Send) -> None:
        self._send = send
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


def header(scope: Scope, name: bytes) -> str | None:
    """The first value of a request header; ``name`` in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None


async def read_json(receive: Receive, limit: int, seconds: float) -> dict[str, Any]:
    """Read a request's body, a JSON object of at most ``limit`` bytes that arrives within so many seconds.

    Raises:
        RequestError: It is too large, too slow, or no JSON object.
        ClientDisconnectedError: It did not arrive in full.
    """
    try:
        async with asyncio.timeout(seconds):
            body = await _read_body(receive, limit)
    except TimeoutError as error:
        text = f"The request's body did not arrive within {seconds:g} s."
        raise RequestError(HTTPStatus.REQUEST_TIMEOUT, text, "request_timeout") from error
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"The request is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise bad_request("The request is not a JSON object.")
    return content


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
    await start(send, status, content_type, [(b"content-length", b"%d" % len(body)), *headers])
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, status: int, content: Any, headers: Headers = ()) -> None:
    """Send ``content`` as JSON."""
    await respond(send, status, b"application/json", orjson.dumps(content), headers)
