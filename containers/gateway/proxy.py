"""Passing a request on to vLLM and its answer back, whole or as a stream."""

from __future__ import annotations

import time
from collections.abc import Sequence
from http import HTTPStatus
from itertools import count

import aiohttp

from gateway.asgi import Headers, Send, respond, start
from gateway.errors import RequestError
from gateway.request_log import RequestRecord

EVENT_STREAM = "text/event-stream"
_DONE = b"data: [DONE]"
_LOGGED_BYTES = 2**20
_RETRIED = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE})


class Upstream:
    """The vLLM replicas behind the gateway, asked in turn.

    Args:
        addresses: Their base addresses.
        timeout: Seconds that one answer may take, streams included.
        connect_timeout: Seconds to wait for a connection.
    """

    def __init__(self, addresses: Sequence[str], timeout: float, connect_timeout: float) -> None:
        self._addresses = list(addresses)
        self._turn = count()
        self._http = aiohttp.ClientSession(
            # vLLM closes a connection that was idle for 5 seconds: be faster, or a request may meet a closing one.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0),
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=connect_timeout),
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    async def post(self, path: str, body: bytes) -> aiohttp.ClientResponse:
        """Send a request to one replica; to the next where nothing has come back yet.

        A replica that does not have the adapter (it restarted empty) or that is shutting down is passed over too.

        Returns:
            The response, headers read and body not; of the last replica, whatever it is.

        Raises:
            RequestError: No replica answered.
        """
        first = next(self._turn)
        order = [self._addresses[(first + step) % len(self._addresses)] for step in range(len(self._addresses))]
        # The last one once more: a kept connection may have been closed just now.
        attempts = [*order, order[-1]]
        for number, address in enumerate(attempts):
            is_last = number >= len(order) - 1
            try:
                response = await self._http.post(
                    address + path, data=body, headers={"Content-Type": "application/json"}
                )
            except aiohttp.ClientConnectionError:  # also no connection in time
                continue
            except TimeoutError as error:
                raise _too_slow() from error
            if is_last or (response.status not in _RETRIED and response.status < HTTPStatus.INTERNAL_SERVER_ERROR):
                return response
            response.release()
        raise RequestError(
            HTTPStatus.SERVICE_UNAVAILABLE, "No model server answers at the moment. Try again.", "upstream_unavailable"
        )


async def forward(
    upstream: Upstream, path: str, body: bytes, record: RequestRecord, send: Send, headers: Headers
) -> None:
    """Ask vLLM and pass its answer on, filling ``record`` for the log.

    A stream that has begun cannot be asked for again: where it breaks the client gets an error event and no ``[DONE]``,
    and the record says 502.

    Raises:
        RequestError: There is no answer, and nothing was sent yet.
    """
    async with await upstream.post(path, body) as response:
        content_type = response.headers.get("Content-Type", "application/json")
        if response.status == HTTPStatus.NOT_FOUND:
            text = f"The version {record.version} is not loaded at the moment. Try again."
            raise RequestError(HTTPStatus.SERVICE_UNAVAILABLE, text, "model_not_loaded")
        if response.status == HTTPStatus.OK and content_type.startswith(EVENT_STREAM):
            await _pass_stream(response, record, send, headers)
        else:
            await _pass_whole(response, record, send, headers)


async def _pass_whole(response: aiohttp.ClientResponse, record: RequestRecord, send: Send, headers: Headers) -> None:
    try:
        record.answer = await response.read()
    except TimeoutError as error:
        raise _too_slow() from error
    except aiohttp.ClientError as error:
        raise _broken() from error
    record.status = response.status
    content_type = response.headers.get("Content-Type", "application/json").encode("latin-1")
    await respond(send, response.status, content_type, record.answer, headers)


async def _pass_stream(response: aiohttp.ClientResponse, record: RequestRecord, send: Send, headers: Headers) -> None:
    record.streamed = True
    kept = bytearray()
    tail = b""
    await start(send, HTTPStatus.OK, EVENT_STREAM.encode() + b"; charset=utf-8", headers)
    failure: RequestError | None = None
    try:
        async for part in response.content.iter_any():
            if not tail:
                record.first_byte_seconds = time.perf_counter() - record.started
            tail = (tail + part)[-64:]
            if len(kept) < _LOGGED_BYTES:
                kept += part
            await send({"type": "http.response.body", "body": part, "more_body": True})
        if _DONE not in tail:
            failure = _broken()
    except TimeoutError:
        failure = _too_slow()
    except aiohttp.ClientError:
        failure = _broken()
    finally:
        record.answer = bytes(kept)
    record.status = failure.status if failure else HTTPStatus.OK
    await send({"type": "http.response.body", "body": failure.event() if failure else b"", "more_body": False})


def _too_slow() -> RequestError:
    return RequestError(HTTPStatus.GATEWAY_TIMEOUT, "The model server took too long.", "upstream_timeout")


def _broken() -> RequestError:
    return RequestError(HTTPStatus.BAD_GATEWAY, "The model server broke its answer off.", "upstream_broken")
