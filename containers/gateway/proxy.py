"""Passing a request on to those who may answer it, one after the other, and the answer back, whole or as a stream.

Nothing is sent to the client before an answer is there in full, or a stream has begun: until then the next provider can
answer instead. A stream that has begun cannot be asked for again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson

from gateway.answers import StreamNotes, read_whole, with_note
from gateway.asgi import Headers, Send, respond, start
from gateway.errors import RequestError
from gateway.http_client import EVENT_STREAM, BrokenAnswerError, ConnectTimeoutError, NotConnectedError, Response
from gateway.request_log import RequestRecord
from gateway.upstream import Target, Upstream
from tollgate.serving.providers import Endpoint

_DONE = b"data: [DONE]"
_LOGGED_BYTES = 2**20
_LONGEST_LINE = 8 * 2**20
_NO_ACCESS = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PAYMENT_REQUIRED})
_PASSED_OVER = _NO_ACCESS | {HTTPStatus.NOT_FOUND, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


@dataclass(slots=True)
class Call:
    """What a client asks for, and what each provider is sent.

    Args:
        path: The endpoint.
        payload: The request without ``model`` and ``user``: versions are the gateway's affair, and a user's name is
            none of a provider's.
        chain: Who may answer, in order.
    """

    path: str
    payload: dict[str, Any]
    chain: Sequence[Endpoint]
    _bodies: dict[tuple[str, bool], bytes] = field(default_factory=dict)

    def body(self, model: str, adds_usage: bool) -> bytes:
        """The request for one model, asking for a stream's tokens where the client does not."""
        found = self._bodies.get((model, adds_usage))
        if found is None:
            payload = self.payload | {"model": model}
            if adds_usage:
                asked = self.payload.get("stream_options")
                options = (asked if isinstance(asked, dict) else {}) | {"include_usage": True}
                payload = payload | {"stream_options": options}
            found = self._bodies[model, adds_usage] = orjson.dumps(payload)
        return found

    def adds_usage(self, provider: Endpoint) -> bool:
        """Whether a provider is to be asked for a stream's tokens although the client did not ask."""
        if not provider.stream_usage or self.payload.get("stream") is not True:
            return False
        options = self.payload.get("stream_options")
        return not (isinstance(options, dict) and options.get("include_usage"))


@dataclass(slots=True)
class Exchange:
    """One request under way: whom to ask, whom to tell, what to note.

    Args:
        on_end: Called once the answer is known and before its last byte leaves, so that the log has it whatever comes.
        on_failover: Called with a provider's name for each attempt that failed.
    """

    upstream: Upstream
    call: Call
    record: RequestRecord
    send: Send
    headers: Callable[[RequestRecord], Headers]
    note: Callable[[RequestRecord], Mapping[str, Any]]
    on_end: Callable[[RequestRecord], None]
    on_failover: Callable[[str], None]

    async def run(self) -> None:
        """Ask one target after the other until one answers.

        Raises:
            RequestError: Nobody answered, and nothing was sent yet.
        """
        end = time.perf_counter() + self.upstream.timeout
        left = self.upstream.timeout
        failure: _Failure | None = None
        for target in self.upstream.targets(self.call.chain):
            if failure is not None:
                left = end - time.perf_counter()
            if left <= 0:
                break
            failure = await self._ask(target, left)
            if failure is None:
                return
            self.on_failover(target.provider.name)
        if failure is None:
            raise _unavailable()
        await self._give_up(failure)

    async def _ask(self, target: Target, left: float) -> _Failure | None:
        """Ask one target; null if the client has its answer."""
        # A kept connection may have been closed just now: once more, before the address counts as failed.
        for is_last in (False, True):
            began = time.perf_counter()
            try:
                return await self._ask_once(target, left)
            except TimeoutError as error:
                target.breaker.failed()
                slow = not isinstance(error, ConnectTimeoutError)
                return _Failure(_too_slow() if slow else _unavailable())
            except BrokenAnswerError as error:
                left -= time.perf_counter() - began
                if is_last or left <= 0:
                    target.breaker.failed()
                    refused = isinstance(error, NotConnectedError)
                    return _Failure(_unavailable() if refused else _broken())
        raise AssertionError("the second attempt returns")

    async def _ask_once(self, target: Target, left: float) -> _Failure | None:
        if target.provider.timeout_seconds is None:
            return await self._exchange(target, left, None)
        async with asyncio.timeout(target.provider.timeout_seconds) as patience:
            return await self._exchange(target, left, patience)

    async def _exchange(self, target: Target, left: float, patience: asyncio.Timeout | None) -> _Failure | None:
        """One request; ``patience`` ends with the answer, or with a stream's beginning."""
        model = target.provider.model or self.record.assigned_version
        adds_usage = self.call.adds_usage(target.provider)
        response = await self.upstream.post(target, self.call.path, self.call.body(model, adds_usage), left)
        try:
            if _is_passed_over(response.status):
                return await self._refused(target, response)
            target.breaker.succeeded()
            lines = _whole_lines(response) if response.is_stream else None
            first = await anext(lines, None) if lines else await response.read()
            if patience is not None:
                patience.reschedule(None)
            if lines is None:
                await self._give_whole(target, response.status, response.content_type, first or b"")
            elif first is None:
                return _Failure(_broken())
            else:
                await self._give_stream(target, first, lines, adds_usage)
        finally:
            response.close()
        return None

    async def _refused(self, target: Target, response: Response) -> _Failure:
        body = await response.read()
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            target.breaker.failed()
        else:
            target.breaker.succeeded()
        if response.status in _NO_ACCESS:
            # Its text may hold a part of the key.
            text = f"The provider {target.provider.name} does not accept the gateway's key."
            return _Failure(RequestError(HTTPStatus.BAD_GATEWAY, text, "provider_refused"))
        if response.status == HTTPStatus.NOT_FOUND:
            text = f"{target.provider.model or self.record.assigned_version} is not loaded at the moment. Try again."
            return _Failure(RequestError(HTTPStatus.SERVICE_UNAVAILABLE, text, "model_not_loaded"))
        return _Failure(None, target, response.status, response.content_type, body)

    async def _give_up(self, failure: _Failure) -> None:
        if failure.error is not None:
            raise failure.error
        assert failure.target is not None
        await self._give_whole(failure.target, failure.status, failure.content_type, failure.body)

    def _serve(self, target: Target) -> None:
        record, provider = self.record, target.provider
        record.provider = provider.name
        record.served_version = provider.model or record.assigned_version
        record.served_model_id = None if provider.model else record.model_id
        record.fallback = provider is not self.call.chain[0]
        record.prompt_price, record.completion_price = provider.prompt_price, provider.completion_price

    async def _give_whole(self, target: Target, status: int, content_type: bytes, body: bytes) -> None:
        self._serve(target)
        record = self.record
        record.status = status
        record.answer, content = read_whole(body)
        if status == HTTPStatus.OK:
            body = with_note(content, body, self.note(record))
        self.on_end(record)
        await respond(self.send, status, content_type, body, self.headers(record))

    async def _give_stream(self, target: Target, first: bytes, lines: AsyncIterator[bytes], adds_usage: bool) -> None:
        self._serve(target)
        record = self.record
        record.first_byte_seconds = time.perf_counter() - record.started
        notes = StreamNotes(self.note(record), adds_usage)
        kept = bytearray()
        tail = b""
        failure: RequestError | None = None
        await start(self.send, HTTPStatus.OK, EVENT_STREAM + b"; charset=utf-8", self.headers(record))
        try:
            part: bytes | None = first
            while part is not None:
                tail = (tail + part)[-64:]
                if len(kept) < _LOGGED_BYTES:
                    kept += part
                passed = notes.treat(part)
                if _DONE in tail:
                    # What is noted must be noted before the client knows that the answer is whole.
                    self._end_stream(None, kept, notes)
                if passed:
                    await self.send({"type": "http.response.body", "body": passed, "more_body": True})
                part = await anext(lines, None)
            if _DONE not in tail:
                failure = _broken()
        except TimeoutError:
            failure = _too_slow()
        except BrokenAnswerError:
            failure = _broken()
        finally:
            record.events = record.events or bytes(kept)
        if failure is not None:
            target.breaker.failed()
        self._end_stream(failure, kept, notes)
        await self.send({"type": "http.response.body", "body": failure.event() if failure else b"", "more_body": False})

    def _end_stream(self, failure: RequestError | None, kept: bytearray, notes: StreamNotes) -> None:
        self.record.status = failure.status if failure else HTTPStatus.OK
        self.record.events = bytes(kept)
        self.record.answer = notes.answer
        self.on_end(self.record)


@dataclass(frozen=True, slots=True)
class _Failure:
    """An attempt without an answer: an error of our own, or what a provider said."""

    error: RequestError | None
    target: Target | None = None
    status: int = 0
    content_type: bytes = b""
    body: bytes = b""


def _is_passed_over(status: int) -> bool:
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSED_OVER


async def _whole_lines(response: Response) -> AsyncIterator[bytes]:
    """A stream's bytes, cut at ends of lines: half an event is of no use to anybody.

    Raises:
        BrokenAnswerError: It broke off, or a line has no end.
    """
    rest = b""
    while part := await response.next_part():
        end = part.rfind(b"\n") + 1
        if not end:
            rest += part
            if len(rest) > _LONGEST_LINE:
                raise BrokenAnswerError("a line without an end")
            continue
        yield rest + part[:end] if rest else part[:end] if end < len(part) else part
        rest = part[end:]
    if rest:
        yield rest


def _too_slow() -> RequestError:
    return RequestError(HTTPStatus.GATEWAY_TIMEOUT, "The model server took too long.", "upstream_timeout")


def _broken() -> RequestError:
    return RequestError(HTTPStatus.BAD_GATEWAY, "The model server broke its answer off.", "upstream_broken")


def _unavailable() -> RequestError:
    text = "No model server answers at the moment. Try again."
    return RequestError(HTTPStatus.SERVICE_UNAVAILABLE, text, "upstream_unavailable")
