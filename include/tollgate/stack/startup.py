"""Start what is missing, everything as soon as what it needs is there, and watch it until it works."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tollgate.errors import ServiceUnavailableError, TollgateError
from tollgate.stack.display import StartDisplay
from tollgate.stack.health import is_healthy
from tollgate.stack.services import Preparation, Service
from tollgate.stack.supervision import Supervisor

PATIENCE = 600.0
"""Seconds that a service may need until it works; the slowest takes 35 on two idle cores and 250 on very busy ones."""

POLL = 0.5
"""Seconds between two looks at a starting service."""

LOG_LINES = 20
"""Lines of a failed part's log that the user sees."""


@dataclass(frozen=True)
class Part:
    """Something to start.

    Args:
        name: Its name in the display.
        after: The parts it waits for.
        run: Starts it and returns, once it works, what a reader should know of it.
    """

    name: str
    after: frozenset[str]
    run: Callable[[], Awaitable[str]]


async def start_all(parts: Iterable[Part], display: StartDisplay) -> None:
    """Start all parts, each as soon as those it waits for are done; a part that is not listed counts as done.

    Args:
        parts: What to start.
        display: Where to show it.

    Raises:
        TollgateError: The first part that failed; waiting ones are not started any more.
    """
    parts = list(parts)
    done = {part.name: asyncio.Event() for part in parts}

    async def go(part: Part) -> None:
        for name in part.after & done.keys():
            await done[name].wait()
        display.change(part.name, "starting")
        try:
            detail = await part.run()
        except TollgateError:
            display.change(part.name, "failed")
            raise
        display.change(part.name, "healthy", detail)
        done[part.name].set()

    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(go(part))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


def preparation(step: Preparation, environment: dict[str, str], log: Path) -> Part:
    """A part that runs a command to its end.

    Args:
        step: The command.
        environment: The environment that all of the stack's processes share.
        log: Where its output goes.
    """

    async def run() -> str:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *step.command, env=environment | dict(step.environment), stdout=output, stderr=asyncio.subprocess.STDOUT
            )
            try:
                status = await process.wait()
            except asyncio.CancelledError:
                process.terminate()
                raise
        if status != 0:
            raise ServiceUnavailableError(f"{step.name} ended with status {status}.\n{log_end(log)}")
        return ""

    return Part(step.name, step.after, run)


def service(unit: Service, supervisor: Supervisor, log: Path) -> Part:
    """A part that starts a supervised service and waits until it is healthy.

    Args:
        unit: The service.
        supervisor: Who starts it.
        log: Where its output goes.
    """

    async def run() -> str:
        await asyncio.to_thread(supervisor.start_service, unit.name)
        async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE):
            first = None
            while True:
                state = (await asyncio.to_thread(supervisor.states))[unit.name]
                first = first or state.process_id
                if not state.alive or state.process_id != first:
                    supervisor.stop_service(unit.name)
                    raise ServiceUnavailableError(f"{unit.name} ended while it started.\n{log_end(log)}")
                if await is_healthy(session, unit, state.started):
                    return unit.address or ""
                await asyncio.sleep(POLL)

    async def run_in_time() -> str:
        try:
            return await run()
        except TimeoutError:
            place = unit.heartbeat or unit.health_url
            text = f"{unit.name} does not answer at {place} after {PATIENCE:.0f} s.\n{log_end(log)}"
            raise ServiceUnavailableError(text) from None

    return Part(unit.name, unit.after, run_in_time)


def log_end(log: Path, lines: int = LOG_LINES) -> str:
    """The last lines of a log, under its path."""
    try:
        content = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        content = []
    return "\n".join([f"The end of {log}:", *(f"    {line}" for line in content[-lines:])])
