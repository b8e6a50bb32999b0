"""Servers of full weights, as tasks and people ask for them: have one, wait for it, keep them all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tollgate.errors import GateRefusedError, ServiceUnavailableError
from tollgate.registry import lifecycle
from tollgate.serving import release, server_keeper, servers
from tollgate.serving.server_states import ServerState
from tollgate.serving.servers import ServerView
from tollgate.settings import PROJECT
from tollgate.store.session import transaction
from tollgate.store.tables import ModelServer

POLL_SECONDS = 1.0
KEEPER = (sys.executable, "-m", "vllm_rollout.keeper")
"""The process that starts and stops servers: plugins know the runtimes, and nothing here may import them."""

BLOCKED_DATABASE = "airflow-db-not-allowed"
"""What Airflow 3.3 writes into a task's environment in place of its database's address."""

Keeper = Callable[[], list[str]]


def ensure(model_id: int, by: str, keep: Keeper | None = None, poll_seconds: float = POLL_SECONDS) -> str | None:
    """Return once a version has a server that is ready; an adapter needs none, for the shared ones take it.

    Repeated after a kill it finds the server that was started before. Whoever stops waiting loses the server after
    ``servers.REQUEST_TIME``, unless a route leads to it by then.

    Args:
        model_id: The version.
        by: Who asks.
        keep: Takes the servers further; default: :func:`keep_if_due`.
        poll_seconds: Pause between two looks.

    Returns:
        The server's address; null for an adapter.

    Raises:
        BadInputError: There is no such version.
        ServiceUnavailableError: The server could not be started; the text says why.
    """
    with transaction() as session:
        if not servers.has_own_server(lifecycle.get(session, model_id)):
            return None
        server_id = servers.request(session, model_id, by).id
    while True:
        said = (keep or keep_if_due)()
        with transaction() as session:
            server = session.get_one(ModelServer, server_id)
            state = ServerState(server.state)
            if state is ServerState.READY:
                return server.address
            if state is ServerState.STOPPED or (state is ServerState.STOPPING and server.problem):
                name = lifecycle.get(session, model_id).served_name
                raise ServiceUnavailableError(f"{name} has no server. {server.problem or ' '.join(said)}")
            servers.request(session, model_id, by)
        time.sleep(poll_seconds)


@contextmanager
def ready_for_release(version: str | int, by: str) -> Iterator[None]:
    """Have a server before a version is released; where the release is refused the server stops.

    Args:
        version: Its name, for example ``highway-router@v3``, or its id.
        by: Who asks.
    """
    with transaction() as session:
        model = lifecycle.get(session, version) if isinstance(version, int) else lifecycle.find(session, version)
    ensure(model.id, by)
    try:
        yield
    except GateRefusedError:
        give_up(model.id)
        raise


def ensure_former(route: str, by: str, away_from: str | None = None) -> None:
    """Have a server for the version that a rollback of a route goes back to; where it is up nothing is done.

    It is while ``TOLLGATE_SERVER_RETENTION_SECONDS`` have not passed; afterwards it has to be started again, which
    takes minutes.

    Args:
        route: The route.
        by: Who asks.
        away_from: The version that will be left; null: whichever was released last.
    """
    with transaction() as session:
        left = lifecycle.find(session, away_from).id if away_from else None
        former = release.way_back(session, route, left)
        if former is None or not servers.has_own_server(former):
            return
        server = servers.find(session, former.id)
        if server is not None and server.state in {ServerState.READY, ServerState.DRAINING}:
            return
    ensure(former.id, by)


def give_up(model_id: int) -> None:
    """A version was refused: its server stops, unless a route leads to it."""
    with transaction() as session:
        if servers.has_own_server(lifecycle.get(session, model_id)):
            servers.withdraw(session, model_id)


def address_of(served_name: str) -> str | None:
    """Where a version of full weights answers now; null for adapters and for versions without a ready server."""
    with transaction() as session:
        server = servers.find(session, lifecycle.find(session, served_name).id)
        return server.address if server is not None and server.state == ServerState.READY else None


def keep_if_due(environment: Mapping[str, str] | None = None, database: str | None = None) -> list[str]:
    """Take all servers further where there is something to do.

    Args:
        environment: Variables of the process that does it; default: those of this one.
        database: Tollgate's database; default: that of the settings.

    Returns:
        What was done and what stands in the way.

    Raises:
        ServiceUnavailableError: PostgreSQL or what runs the servers did not answer.
    """
    with transaction(database) as session:
        due = any(server_keeper.is_due(session, server) for server in servers.unstopped(session))
    return _keep(environment or os.environ) if due else []


def start_all(environment: Mapping[str, str], database: str, tell: Callable[[str], None]) -> None:
    """After a start of the stack: bring the servers that are needed up, and wait for them.

    It does not wait for a server that has failed :data:`server_keeper.STARTS_TRIED` times or waits for a GPU.

    Args:
        environment: Variables of the process that starts them.
        database: Tollgate's database.
        tell: Called with what was done.
    """
    while True:
        for line in keep_if_due(environment, database):
            tell(line)
        with transaction(database) as session:
            if not any(_is_awaited(server) for server in servers.unstopped(session)):
                return
        time.sleep(POLL_SECONDS)


def _is_awaited(server: ModelServer) -> bool:
    if server.state in {ServerState.STARTING, ServerState.RESTARTING}:
        return True
    waits_for_gpu = server.problem is not None and not server.failures
    return server.state == ServerState.WAITING and not waits_for_gpu and server.failures < server_keeper.STARTS_TRIED


def views() -> list[ServerView]:
    """All servers that are not stopped."""
    with transaction() as session:
        return servers.views(session)


def _keep(environment: Mapping[str, str]) -> list[str]:
    paths = [*(str(PROJECT / name) for name in ("include", "plugins")), environment.get("PYTHONPATH", "")]
    # In a task Airflow's address is one that does not even parse; importing Airflow in another process fails with it.
    usable = {name: value for name, value in environment.items() if not value.startswith(BLOCKED_DATABASE)}
    ended = subprocess.run(
        KEEPER,
        env={**usable, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise ServiceUnavailableError(f"Servers could not be kept: {ended.stderr.strip()[-2000:]}")
    return ended.stdout.splitlines()
