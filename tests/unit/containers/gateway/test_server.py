"""The server's protocol, by bytes on a socket."""

from __future__ import annotations

import json
import socket

from tests.unit.containers.gateway.conftest import ROUTE, RunningGateway, logged


def talk(gateway: RunningGateway, request: bytes, answers: int) -> bytes:
    """Send, and read until so many answers have come, or the connection ends."""
    host, port = gateway.address.removeprefix("http://").split(":")
    found = b""
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request)
        while found.count(b"HTTP/1.1 ") < answers or not found.endswith(b"}"):
            part = connection.recv(65536)
            if not part:
                break
            found += part
    return found


def question(text: str, *headers: str) -> bytes:
    body = json.dumps({"model": ROUTE, "messages": [{"role": "user", "content": text}]}).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: gateway",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_pipelined_requests_are_answered_in_their_order(gateway: RunningGateway) -> None:
    found = talk(gateway, question("one") + question("two") + question("three"), 3)
    assert found.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert found.index(b"v1: one") < found.index(b"v1: two") < found.index(b"v1: three")
    assert len({row.request_id for row in logged(3)}) == 3


def test_a_client_that_wants_the_connection_closed_gets_that(gateway: RunningGateway) -> None:
    found = talk(gateway, question("one", "Connection: close"), 2)  # it ends before a second one
    assert found.count(b"HTTP/1.1 200 OK\r\n") == 1
    assert b"connection: close\r\n" in found


def test_a_client_that_waits_to_be_told_is_told_to_go_on(gateway: RunningGateway) -> None:
    head, _, body = question("one", "Expect: 100-continue").partition(b"\r\n\r\n")
    host, port = gateway.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.sendall(body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_what_is_no_http_is_refused(gateway: RunningGateway) -> None:
    assert talk(gateway, b"SSH-2.0-OpenSSH\r\n\r\n", 1).startswith(b"HTTP/1.1 400 ")
    assert gateway.ask().status_code == 200
