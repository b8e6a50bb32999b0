from __future__ import annotations

import datetime as dt
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from tollgate.stack.health import HEARTBEAT_SECONDS, is_healthy
from tollgate.stack.services import Service

STARTED = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC).timestamp()
SERVICE = Service("scheduler", (), {}, "", component="scheduler")


async def _ask(service: Service, body: object, status: int = 200) -> bool:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    application = web.Application()
    application.router.add_get("/health", answer)
    async with TestServer(application) as server, ClientSession() as session:
        return await is_healthy(session, replace(service, health_url=str(server.make_url("/health"))), STARTED)


@pytest.mark.parametrize(
    ("report", "healthy"),
    [
        ({"status": "healthy", "latest_scheduler_heartbeat": "2026-03-01T12:00:01+00:00"}, True),
        ({"status": "healthy", "latest_scheduler_heartbeat": "2026-03-01T11:59:59+00:00"}, False),  # its predecessor's
        ({"status": "unhealthy", "latest_scheduler_heartbeat": "2026-03-01T12:00:01+00:00"}, False),
        ({"status": "healthy", "latest_scheduler_heartbeat": None}, False),
        (None, False),
    ],
)
async def test_a_component_lives_by_its_own_heartbeat(report: dict[str, str] | None, healthy: bool) -> None:
    assert await _ask(SERVICE, {"scheduler": report}) is healthy


async def test_a_server_lives_when_it_answers_200() -> None:
    server = replace(SERVICE, component=None)
    assert await _ask(server, "anything")
    assert not await _ask(server, "loading", status=503)
    async with ClientSession() as session:
        assert not await is_healthy(session, replace(server, health_url="http://127.0.0.1:1/"), STARTED)


@pytest.mark.parametrize(
    ("age", "started_ago", "healthy"),
    [(1.0, 10.0, True), (10.0, 5.0, False), (HEARTBEAT_SECONDS + 1, HEARTBEAT_SECONDS + 60, False)],
)
async def test_a_service_without_a_port_lives_by_its_file(
    tmp_path: Path, age: float, started_ago: float, healthy: bool
) -> None:
    service = Service("reconciler", (), {}, "", heartbeat=tmp_path / "heartbeat")
    now = time.time()
    async with ClientSession() as session:
        assert not await is_healthy(session, service, now - started_ago)
        (tmp_path / "heartbeat").touch()
        os.utime(tmp_path / "heartbeat", (now - age, now - age))
        assert await is_healthy(session, service, now - started_ago) is healthy  # a predecessor's beat is none
