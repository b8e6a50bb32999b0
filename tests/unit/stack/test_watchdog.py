"""A server that hangs is ended, one that is slow to start or busy is not; real processes under SIGSTOP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from tests.unit.stack.conftest import free_port

from tollgate.stack import watchdog

SERVER = """
import http.server, pathlib, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        with open(sys.argv[2], "a") as looks:
            looks.write(".")
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@contextmanager
def watched(program: str, *arguments: str, url: str) -> Iterator[subprocess.Popen[str]]:
    """A program under the watchdog, as the leader of its group, as a supervisor starts it."""
    under = [sys.executable, "-m", "tollgate.stack.watchdog", url, "1", "1"]
    command = [*under, sys.executable, "-c", program, *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, process_group=0) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_under_sigstop_is_ended_and_says_why(tmp_path: Path) -> None:
    port, looks = free_port(), tmp_path / "looks"
    with watched(SERVER, str(port), str(looks), url=f"http://127.0.0.1:{port}/health") as process:
        wait_until(looks.exists)
        os.killpg(process.pid, signal.SIGSTOP)
        assert process.wait(120) == -signal.SIGKILL
        assert process.stdout is not None
        assert "The server hangs: it has not answered" in process.stdout.read()


def test_the_watch_ends_with_the_server(tmp_path: Path) -> None:
    port, looks = free_port(), tmp_path / "looks"
    with watched(SERVER, str(port), str(looks), url=f"http://127.0.0.1:{port}/health") as process:
        wait_until(looks.exists)
        (watch,) = psutil.Process(process.pid).children()
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM, "the signal reaches the server itself"
    wait_until(lambda: not watch.is_running() or watch.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize(
    ("answers", "ended"),
    [
        ([False] * 9, False),  # it has not been healthy yet: a slow start
        ([True, False, True, False, True, False, True], False),
        ([True, False, False, True, True], False),  # the last, patient look found it slow
        ([True, False, False, False], True),
    ],
)
def test_only_one_that_was_healthy_and_stays_silent_hangs(
    monkeypatch: pytest.MonkeyPatch, answers: list[bool], ended: bool
) -> None:
    left, killed, clock = list(answers), [], iter(range(0, 1000, 5))
    monkeypatch.setattr(watchdog, "is_healthy", lambda url, timeout: left.pop(0))
    monkeypatch.setattr(watchdog, "_end", lambda server, grace: killed.append(server))
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None))
    monkeypatch.setattr(watchdog, "os", SimpleNamespace(getppid=lambda: 7 if left else 1))
    watchdog.watch("http://server/health", 5, 1, 7)
    assert killed == ([7] if ended else [])
    assert left == []
