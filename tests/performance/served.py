"""Starts the fast server beside the caller."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).parents[2]


@contextmanager
def fast_server(delay: float = 0.0) -> Iterator[str]:
    """The address of a server in a process of its own, ended with the block."""
    command = [sys.executable, "-m", "tests.performance.fast_server", "--delay", str(delay)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()
