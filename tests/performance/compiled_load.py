"""Load from wrk, a compiled generator: with one written in Python the generator itself would be what is measured."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = """
local number = 0
wrk.method = "POST"
wrk.body = [[%(body)s]]
request = function()
  number = number + 1
  wrk.headers["X-Tollgate-User"] = "user-" .. (number %% %(users)d)
  return wrk.format()
end
done = function(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  local half = latency:percentile(50)
  io.write(string.format("figures %%d %%d %%d %%d\\n", summary.requests, failed, summary.duration, half))
end
"""


@dataclass(frozen=True)
class CompiledLoad:
    """What came back; times in seconds and, for the median, milliseconds."""

    answers: int
    errors: int
    seconds: float
    p50: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


def program() -> str | None:
    """wrk, if it is installed (``BENCH_WRK`` names another)."""
    return os.environ.get("BENCH_WRK") or shutil.which("wrk")


def run(
    folder: Path, port: int, key: str | None, body: str, users: int, connections: int, seconds: int
) -> CompiledLoad:
    """Ask over so many connections for so long, as one user after the other.

    Args:
        folder: Where the script may be written.
        port: The server's, on this machine.
        key: Bearer key.
        body: The request's body.
        users: How many users there are.
        connections: Requests at a time.
        seconds: At least 1.
    """
    wrk = program()
    assert wrk is not None
    script = folder / "load.lua"
    script.write_text(_SCRIPT % {"body": body, "users": users}, encoding="utf-8")
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "-s", str(script)]
    command += ["-H", "Content-Type: application/json", *(["-H", f"Authorization: Bearer {key}"] if key else [])]
    command.append(f"http://127.0.0.1:{port}/v1/chat/completions")
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = next(line for line in output.splitlines() if line.startswith("figures "))
    answers, errors, microseconds, p50 = map(int, figures.split()[1:])
    return CompiledLoad(answers - errors, errors, microseconds / 1e6, p50 / 1000)
