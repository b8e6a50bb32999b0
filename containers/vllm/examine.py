"""Put a test part to full weights on a vLLM server of their own: ``python containers/vllm/examine.py FOLDER``.

The server is that of ``serve.py``, the one that serves in production, with other weights. It lives as long as this
process: it is stopped at the end and on SIGTERM, and the kernel kills it where this process is killed. Exit status: 0
every case was answered; 2 the order is wrong, and would be so again; 10 stopped; 1 anything else. On 1 and 2
``error.json`` says why. What was answered is kept, and a further attempt asks only for the rest.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tollgate.errors import BadInputError, ServiceUnavailableError, TollgateError
from tollgate.evaluation.cases import Case, read_json_lines
from tollgate.evaluation.examination import Examination, read_examination
from tollgate.evaluation.runner import run_cases

HOST = "127.0.0.1"
SERVER = (sys.executable, str(Path(__file__).resolve().with_name("serve.py")))
STOP_SECONDS = 20.0
"""Time between SIGTERM and SIGKILL; nobody waits for an answer any more."""
EXIT_FAILED, EXIT_BAD_ORDER, EXIT_STOPPED = 1, 2, 10
SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""

_without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def main(folder: Path, server: Sequence[str] = SERVER) -> int:
    """Carry out the order in ``folder``.

    Args:
        folder: Holds the order; ``result.json`` is written here.
        server: Command that starts the server; it finds weights, name and port in ``TOLLGATE_`` variables.

    Returns:
        The exit status.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_STOPPED))
    begun = time.monotonic()
    try:
        examination = read_examination(folder)
        cases = [case for _, case in read_json_lines(examination.cases, Case)]
        with served(examination, server) as address:
            loaded = time.monotonic()
            answered = asyncio.run(_ask(address, examination, cases))
    except TollgateError as error:
        kind = "bad_specification" if isinstance(error, BadInputError) else "server_failed"
        _write_json(folder / "error.json", {"kind": kind, "message": str(error)})
        print(error, file=sys.stderr, flush=True)  # ruff: ignore[T201]
        return EXIT_BAD_ORDER if isinstance(error, BadInputError) else EXIT_FAILED
    seconds = {"seconds_to_load": round(loaded - begun, 1), "seconds": round(time.monotonic() - begun, 1)}
    _write_json(folder / "result.json", {"status": "succeeded", "cases": answered, **seconds})
    return 0


async def _ask(address: str, examination: Examination, cases: Sequence[Case]) -> int:
    """Ask every case, for its answer and for the right one's likelihood; how many were answered."""
    name, concurrency = examination.served_name, examination.concurrency
    answers = await run_cases(
        address,
        name,
        cases,
        results_path=examination.answers,
        max_tokens=examination.max_tokens,
        concurrency=concurrency,
    )
    if (path := examination.perplexity) is not None:
        await run_cases(address, name, cases, results_path=path, concurrency=concurrency, way="perplexity")
    return len(answers)


@contextmanager
def served(examination: Examination, command: Sequence[str]) -> Iterator[str]:
    """Serve the weights within the block.

    Yields:
        The server's address, once it is healthy.

    Raises:
        ServiceUnavailableError: It ended, or was not healthy in time.
    """
    port = _free_port()
    address = f"http://{HOST}:{port}"
    prctl = ctypes.CDLL(None).prctl
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **_settings(examination, port)},
        preexec_fn=lambda: prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL),
    )
    try:
        _wait_until_healthy(server, address, examination.patience_seconds)
        yield address
    finally:
        _end(server)


def _settings(examination: Examination, port: int) -> dict[str, str]:
    """The settings of ``serve.py`` for these weights; all else is as in production."""
    return {
        "TOLLGATE_HOST": HOST,
        "TOLLGATE_VLLM_PORT": str(port),
        "TOLLGATE_BASE_MODEL": str(examination.model),
        "TOLLGATE_BASE_MODEL_NAME": examination.served_name,
        "TOLLGATE_MAX_MODEL_LEN": str(examination.max_model_len),
    }


def _wait_until_healthy(server: subprocess.Popen[bytes], address: str, patience: float) -> None:
    deadline = time.monotonic() + patience
    while not _is_healthy(address):
        if server.poll() is not None:
            raise ServiceUnavailableError(f"vLLM ended with status {server.returncode} before it served the weights.")
        if time.monotonic() > deadline:
            raise ServiceUnavailableError(f"vLLM has not loaded the weights within {patience:.0f} s.")
        time.sleep(0.5)


def _is_healthy(address: str) -> bool:
    try:
        with _without_proxy.open(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except (OSError, urllib.error.URLError):
        return False


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _write_json(path: Path, value: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: examine.py FOLDER")
    sys.exit(main(Path(sys.argv[1])))
