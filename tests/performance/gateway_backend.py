"""A fast stand-in for a model server: it answers every request at once, or as a stream of events.

    python -m tests.performance.gateway_backend PORT

A bare protocol on uvloop, so that what is measured is the gateway and not this.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

EVENTS = 20
EVENT_PAUSE = 0.1
BODY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"{\\"intent\\": \\"restroom\\", \\"place\\": \\"Anseong\\"}"},'
    b'"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":31,"completion_tokens":17,"total_tokens":48}}'
)
_WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_EVENT = b'data: {"id":"1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
_LAST = b"data: [DONE]\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Backend(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + size:
                return
            body, self._buffer = self._buffer[end + 4 : end + 4 + size], self._buffer[end + 4 + size :]
            assert self._transport is not None
            if b'"stream":true' in body or b'"stream": true' in body:
                self._transport.write(_HEAD)
                self._event(EVENTS)
            else:
                self._transport.write(_WHOLE)

    def _event(self, left: int) -> None:
        assert self._transport is not None
        if self._transport.is_closing():
            return
        if not left:
            self._transport.write(_chunk(_LAST) + b"0\r\n\r\n")
            return
        self._transport.write(_chunk(_EVENT))
        asyncio.get_running_loop().call_later(EVENT_PAUSE, self._event, left - 1)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Backend, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
