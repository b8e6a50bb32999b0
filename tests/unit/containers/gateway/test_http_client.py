"""The client that asks providers, against servers that say every byte themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from gateway.http_client import BrokenAnswerError, HttpClient, NotConnectedError, Response

Say = Callable[[asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\n"
STREAM = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LONG = 30.0


@dataclass
class Server:
    """What came, and over how many connections."""

    address: str
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def server(*answers: bytes | Say, closes: bool = False) -> AsyncIterator[Server]:
    """Gives one answer after the other, over whichever connection; ``closes`` the connection after each."""
    found = Server("")
    turn = iter(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
                await reader.readexactly(size)
                found.heads.append(head)
                answer = next(turn)
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(writer)
                if closes:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            found.left.set()
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    found.address = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        listening.close()


async def ask(client: HttpClient, address: str, seconds: float = LONG, key: str | None = None) -> Response:
    return await client.post(address, "/v1/x", key, b"{}", seconds)


async def body_of(client: HttpClient, address: str) -> tuple[int, bytes]:
    response = await ask(client, address)
    try:
        return response.status, await response.read()
    finally:
        response.close()


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 5\r\n\r\nhello",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 5\r\n\r\nhello",
    ],
)
async def test_connections_are_kept(answer: bytes) -> None:
    client = HttpClient(5.0)
    async with server(answer, answer, answer) as found:
        for _ in range(3):
            assert await body_of(client, found.address) == (200, b"hello")
        assert found.connections == 1
        client.close()


@pytest.mark.parametrize(
    "answer",
    [OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello", OK + b"\r\nhello", b"HTTP/1.0 200 OK\r\n\r\nhello"],
)
async def test_answers_that_end_their_connection(answer: bytes) -> None:
    client = HttpClient(5.0)
    async with server(answer, answer, closes=True) as found:
        for _ in range(2):
            assert await body_of(client, found.address) == (200, b"hello")
        assert found.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        OK + b"Content-Length: 9\r\n\r\nhello",
        OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\nhello",
        b"SSH-2.0-OpenSSH\r\n",
        OK + b"X-Long: " + b"x" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_half_an_answer_is_none(answer: bytes) -> None:
    client = HttpClient(5.0)
    async with server(answer, closes=True) as found:
        with pytest.raises(BrokenAnswerError):
            await body_of(client, found.address)


async def test_a_stream_comes_part_by_part_and_its_end_may_break_off() -> None:
    goes_on = asyncio.Event()

    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + b"3\r\none\r\n")
        await goes_on.wait()
        writer.write(b"3\r\ntwo\r\n")

    client = HttpClient(5.0)
    async with server(say, closes=True) as found:
        response = await ask(client, found.address)
        assert response.is_stream
        assert await response.next_part() == b"one"
        goes_on.set()
        assert await response.next_part() == b"two"
        with pytest.raises(BrokenAnswerError):
            await response.next_part()
        response.close()


async def test_a_stream_that_nobody_reads_waits_at_the_server() -> None:
    sent = 0
    total = 64 * 2**20

    async def say(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(STREAM)
        while sent < total:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()
            sent += 65536
        writer.write(b"0\r\n\r\n")

    client = HttpClient(5.0)
    async with server(say) as found:
        response = await ask(client, found.address)
        await asyncio.sleep(0.5)
        assert sent < total / 2
        size = 0
        while part := await response.next_part():
            size += len(part)
        assert size == total
        response.close()


async def test_who_leaves_is_noticed_by_the_server() -> None:
    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + b"3\r\none\r\n")

    client = HttpClient(5.0)
    async with server(say) as found:
        response = await ask(client, found.address)
        assert await response.next_part() == b"one"
        response.close()
        await asyncio.wait_for(found.left.wait(), LONG)


async def test_an_answer_that_does_not_come_and_a_server_that_is_not_there() -> None:
    async def say(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(LONG)

    client = HttpClient(5.0)
    async with server(say) as found:
        with pytest.raises(TimeoutError):
            await ask(client, found.address, 0.2)
    with pytest.raises(NotConnectedError):
        await ask(client, "http://127.0.0.1:1")


async def test_the_head_names_host_path_and_key() -> None:
    client = HttpClient(5.0)
    async with server(OK + b"Content-Length: 0\r\n\r\n") as found:
        response = await ask(client, f"{found.address}/v2/모델", key="secret")
        response.close()
    lines = found.heads[0].decode().split("\r\n")
    assert lines[0] == "POST /v2/%EB%AA%A8%EB%8D%B8/v1/x HTTP/1.1"
    assert f"Host: {found.address.removeprefix('http://')}" in lines
    assert "Authorization: Bearer secret" in lines
    assert "Accept-Encoding: identity" in lines
