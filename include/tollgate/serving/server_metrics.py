"""What a vLLM server says about requests: how many are under way, and how many it has answered."""

from __future__ import annotations

import re
from dataclasses import dataclass

import httpx

from tollgate.errors import ServiceUnavailableError

TIMEOUT = 3.0
"""Seconds that an answer may take."""

_LINE = re.compile(r"^(vllm:[a-z_]+?)(?:_total)?(?:\{[^}]*\})?\s+([0-9.eE+-]+)\s*$", re.MULTILINE)
_UNDER_WAY = frozenset({"vllm:num_requests_running", "vllm:num_requests_waiting"})
_ANSWERED = "vllm:request_success"


@dataclass(frozen=True)
class Traffic:
    """A server's requests.

    Args:
        under_way: Running or waiting, 0 or more.
        answered: Ended so far, since the server's start.
    """

    under_way: int
    answered: int


def is_healthy(address: str, timeout: float = TIMEOUT) -> bool:
    """Whether the server says that its engine is alive.

    Args:
        address: Base address without a slash at the end.
        timeout: Seconds that the answer may take, above 0.
    """
    try:
        return httpx.get(f"{address}/health", timeout=timeout, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def traffic(address: str) -> Traffic:
    """Ask a server for its requests.

    Args:
        address: Base address without a slash at the end.

    Raises:
        ServiceUnavailableError: It did not answer, or has no such figures.
    """
    try:
        response = httpx.get(f"{address}/metrics", timeout=TIMEOUT, trust_env=False)
    except httpx.TransportError as error:
        raise ServiceUnavailableError(f"vLLM at {address} did not answer: {error or type(error).__name__}") from error
    found = [(name, int(float(value))) for name, value in _LINE.findall(response.text)]
    if response.status_code != httpx.codes.OK or not {name for name, _ in found} >= _UNDER_WAY:
        raise ServiceUnavailableError(f"vLLM at {address} does not say how many requests are under way.")
    return Traffic(
        under_way=sum(value for name, value in found if name in _UNDER_WAY),
        answered=sum(value for name, value in found if name == _ANSWERED),
    )
