"""Run a server and end it once it hangs: ``python -m tollgate.stack.watchdog URL SECONDS GRACE PROGRAM ARGUMENT …``.

Who supervises a server, supervisord or a Docker engine, starts it again where it ends, and takes one that lives for one
that works. The program takes this process's place, so that signals reach it as before; a child of it, in a session of
its own, asks for its health. Only a server that has been healthy can hang: a slow start is none. Standard library only.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from typing import NoReturn

LOOK_SECONDS = 5.0
"""Pause between two looks."""

TIMEOUT = 3.0
"""Seconds that an answer may take."""

LAST_TIMEOUT = 10.0
"""The same for the look after which the server is ended: a slow answer is no hang."""

_WATCH = "--watch"


def is_healthy(url: str, timeout: float) -> bool:
    """Whether a server answers with status 200, asked without a proxy.

    Args:
        url: Of its health check.
        timeout: Seconds that the answer may take, above 0.
    """
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=timeout) as answer:
            return bool(answer.status == http.client.OK)
    except (OSError, http.client.HTTPException):
        return False


def watch(url: str, seconds: float, grace: float, server: int) -> None:
    """Look at a server until it has gone, and end it where it hangs.

    Args:
        url: Of its health check.
        seconds: How long it may not answer once it has been healthy.
        grace: Seconds between SIGTERM and SIGKILL.
        server: Its process number; this process's parent.
    """
    was_healthy, silent_since = False, None
    while os.getppid() == server:
        now = time.monotonic()
        if is_healthy(url, TIMEOUT):
            was_healthy, silent_since = True, None
        elif was_healthy:
            silent_since = silent_since or now
            if now - silent_since >= seconds and not is_healthy(url, LAST_TIMEOUT):
                _say(f"The server hangs: it has not answered {url} for {now - silent_since:.0f} s. It is ended.")
                _end(server, grace)
                return
        time.sleep(LOOK_SECONDS)


def _end(server: int, grace: float) -> None:
    _signal(server, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while os.getppid() == server and time.monotonic() < deadline:
        time.sleep(0.2)
    if os.getppid() == server:
        _signal(server, signal.SIGKILL)


def _signal(server: int, number: signal.Signals) -> None:
    """To its process group where it leads one, as its supervisor made it: workers must not keep its port."""
    with suppress(ProcessLookupError):
        if os.getpgid(server) == server:
            os.killpg(server, number)
        else:
            os.kill(server, number)


def _say(text: str) -> None:
    print(text, flush=True)  # ruff: ignore[T201]


def main(words: list[str]) -> None:
    """Watch, in the child; else start it and become the program."""
    if words[0] == _WATCH:
        url, seconds, grace, server = words[1:]
        watch(url, float(seconds), float(grace), int(server))
    else:
        _run(words[:3], words[3:])


def _run(how: list[str], command: list[str]) -> NoReturn:
    # In a session of its own a stop or pause of the server's group does not reach it.
    own = [sys.executable, "-m", "tollgate.stack.watchdog", _WATCH, *how, str(os.getpid())]
    subprocess.Popen(own, stdin=subprocess.DEVNULL, start_new_session=True)
    os.execvp(command[0], command)  # ruff: ignore[S606]


if __name__ == "__main__":
    main(sys.argv[1:])
