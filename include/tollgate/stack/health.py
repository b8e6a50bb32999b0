"""Ask services whether they work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from tollgate.stack.services import Service
from tollgate.stack.supervision import ProcessState

TIMEOUT = 5.0
"""Seconds that a service may take to answer."""

HEARTBEAT_SECONDS = 300.0
"""Age from which a heartbeat is none: one round of the reconciler may wait for a vLLM that does not answer."""


async def is_healthy(session: aiohttp.ClientSession, service: Service, started: float) -> bool:
    """Whether a service works right now.

    Args:
        session: The HTTP client.
        service: The service.
        started: When its process was started, in seconds since 1970: an older sign of life is a predecessor's.
    """
    if service.heartbeat is not None:
        return _beats(service.heartbeat, started)
    try:
        async with session.get(service.health_url, timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as answer:
            if answer.status != 200:
                return False
            return service.component is None or _component_lives(await answer.json(), service.component, started)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return False


def _beats(heartbeat: Path, started: float) -> bool:
    try:
        last = heartbeat.stat().st_mtime
    except OSError:
        return False
    return last >= started and time.time() - last < HEARTBEAT_SECONDS


def _component_lives(report: dict[str, Any], component: str, started: float) -> bool:
    found = report.get(component) or {}
    heartbeat = found.get(f"latest_{component}_heartbeat")
    if found.get("status") != "healthy" or heartbeat is None:
        return False
    return datetime.fromisoformat(heartbeat).timestamp() >= started


def check_all(services: Sequence[Service], states: dict[str, ProcessState]) -> dict[str, bool]:
    """Ask all services at the same time.

    Args:
        services: The services.
        states: What the supervisor knows of them; those without a process are not asked.

    Returns:
        Whether each works, by name.
    """

    async def check() -> dict[str, bool]:
        async with aiohttp.ClientSession() as session:
            running = [service for service in services if (s := states.get(service.name)) and s.process_id]
            answers = await asyncio.gather(
                *(is_healthy(session, service, states[service.name].started) for service in running)
            )
        healthy = dict(zip((service.name for service in running), answers, strict=True))
        return {service.name: healthy.get(service.name, False) for service in services}

    return asyncio.run(check())
