"""Brings servers of full weights in line with what is needed: starts, looks, starts again, drains, stops.

Each step is one transaction and may be repeated after a kill: the row says what was done, and where a job was started
whose row could not be written any more, the host finds it again by its folder. ``ServerHost`` is what runs the servers;
the jobs' runtimes do so (``vllm_rollout.server_host``).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy.orm import Session

from tollgate.errors import ServiceUnavailableError, TollgateError
from tollgate.registry import lifecycle, signatures
from tollgate.serving import probes, server_metrics, servers
from tollgate.serving.client import VllmClient
from tollgate.serving.server_states import ServerState
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.store.tables import ModelServer, RegisteredModel

STARTS_TRIED = 3
"""Starts in a row that may fail before a server that nobody uses yet is given up; one in use is tried for ever."""

LONGEST_PAUSE = 300.0
"""Seconds between two starts, at most; they grow from one failure to the next."""

LOOK_PAUSE = dt.timedelta(seconds=15)
"""Between two looks at whether a server that does not answer still lives."""

LAST_LOOK_SECONDS = 10.0
"""How long a silent server may take to answer the look after which it is stopped: a slow answer is no hang."""


@dataclass(frozen=True)
class ServerOrder:
    """What a host is to serve.

    Args:
        served_name: The version; one server of each.
        model: Folder of its weights.
        folder: Where the server's log and records are.
    """

    served_name: str
    model: Path
    folder: Path


@dataclass(frozen=True)
class StartedServer:
    """A server that was started: the host's name of it, and where it will answer."""

    job_id: str
    address: str


class ServerHost(Protocol):
    """A place that runs servers, which outlive the process that started them."""

    def start(self, order: ServerOrder) -> StartedServer | str:
        """Start a server, or return the one of this order that runs already; a text says what it waits for.

        Raises:
            TollgateError: It could not be started.
        """

    def is_running(self, job_id: str) -> bool:
        """Whether it runs, healthy or not.

        Raises:
            ServiceUnavailableError: The host did not answer.
        """

    def stop(self, order: ServerOrder, job_id: str | None) -> None:
        """Stop it gently, and free what it holds; nothing to stop is fine."""

    def last_words(self, order: ServerOrder) -> str:
        """The end of its log."""


def keep(host: ServerHost) -> list[str]:
    """Take every server one step further.

    Returns:
        What was done and what stands in the way, a sentence each.
    """
    with transaction() as session:
        ids = [server.id for server in servers.unstopped(session)]
    return [said for server_id in ids for said in _keep_one(server_id, host)]


def is_due(session: Session, server: ModelServer) -> bool:
    """Whether :func:`keep` has something to do for a server: a look that costs little.

    Only ``keep`` needs a host, and a process of its own to have one.
    """
    state, needed = ServerState(server.state), servers.is_needed(session, server)
    if state is ServerState.WAITING:
        return not needed or _may_start(session, server)
    if state not in {ServerState.STARTING, ServerState.READY} or not needed:
        return True
    healthy = server.address is not None and server_metrics.is_healthy(server.address)
    if healthy:
        return state is ServerState.STARTING or server.silent_since is not None
    return server.looked_at is None or servers.now(session) >= server.looked_at + LOOK_PAUSE


def order_of(model: RegisteredModel) -> ServerOrder:
    """What a host is told about a version."""
    folder = settings().servers / model.served_name
    return ServerOrder(served_name=model.served_name, model=Path(model.model_path), folder=folder)


def _keep_one(server_id: int, host: ServerHost) -> list[str]:
    try:
        said = _step(server_id, host)
    except TollgateError as error:
        with transaction() as session:
            server = session.get_one(ModelServer, server_id)
            return [f"{lifecycle.get(session, server.model_id).served_name}: {error}"]
    return [said] if said else []


def _step(server_id: int, host: ServerHost) -> str | None:
    with transaction() as session:
        server = session.get_one(ModelServer, server_id)
        model = lifecycle.get(session, server.model_id)
        if not servers.try_lock(session, model):
            return None  # a rollout, or another keeper, is at work on it
        session.refresh(server)
        server.looked_at = servers.now(session)
        state = ServerState(server.state)
        steps = {
            ServerState.WAITING: _start,
            ServerState.STARTING: _await,
            ServerState.READY: _watch,
            ServerState.DRAINING: _drain,
        }
        if state in steps:
            return steps[state](session, server, model, host)
    return _stop(server_id, host)


def _start(session: Session, server: ModelServer, model: RegisteredModel, host: ServerHost) -> str | None:
    if not servers.is_needed(session, server):
        servers.change(session, server, ServerState.STOPPING)  # it may have a place in the queue for GPUs
        return None
    if not _may_start(session, server):
        return None
    order = order_of(model)
    try:
        if signatures.required():
            signatures.verify(order.model, model.manifest_digest)
        started = host.start(order)
    except ServiceUnavailableError:
        raise
    except TollgateError as error:
        return _failed(session, server, model, str(error))
    if isinstance(started, str):
        server.problem = started
        return f"{model.served_name} waits: {started}"
    server.job_id, server.address = started.job_id, started.address
    server.starts += 1
    servers.change(session, server, ServerState.STARTING)
    return f"started a server of {model.served_name} at {started.address}"


def _await(session: Session, server: ModelServer, model: RegisteredModel, host: ServerHost) -> str | None:
    """A server that starts: ready once it answers as its version is known to."""
    assert server.job_id is not None and server.address is not None, "the start wrote them"
    if not host.is_running(server.job_id):
        return _failed(session, server, model, f"it ended at its start. {host.last_words(order_of(model))}")
    if not servers.is_needed(session, server):
        servers.change(session, server, ServerState.STOPPING)
        return f"{model.served_name} is not needed any more"
    patience = dt.timedelta(seconds=settings().server_start_seconds)
    over = servers.now(session) >= server.changed_at + patience
    if not server_metrics.is_healthy(server.address):
        if not over:
            return None
        host.stop(order_of(model), server.job_id)
        return _failed(session, server, model, f"it was not healthy within {settings().server_start_seconds:.0f} s")
    try:
        _look_at_answers(server.address, model)
    except TollgateError as error:
        if isinstance(error, ServiceUnavailableError) and not over:
            raise
        host.stop(order_of(model), server.job_id)
        return _failed(session, server, model, str(error))
    server.failures, server.problem, server.answered = 0, None, 0
    servers.change(session, server, ServerState.READY)
    return f"{model.served_name} is ready at {server.address}"


def _watch(session: Session, server: ModelServer, model: RegisteredModel, host: ServerHost) -> str | None:
    assert server.job_id is not None, "the start wrote it"
    if not host.is_running(server.job_id):
        return _failed(session, server, model, f"it ended. {host.last_words(order_of(model))}")
    if servers.is_needed(session, server):
        return _listen(session, server, model, host)
    servers.change(session, server, ServerState.DRAINING)
    return f"{model.served_name} is drained: nothing leads to it any more"


def _listen(session: Session, server: ModelServer, model: RegisteredModel, host: ServerHost) -> str | None:
    """Have a server that lives but answers its health check no longer stopped and started again.

    Since when it is silent stands in its row, by the database's clock: a keeper that begins anew does not wait anew.
    """
    assert server.address is not None, "the start wrote it"
    limit = settings().server_hang_seconds
    silent_since = server.silent_since or servers.now(session)
    over = servers.now(session) >= silent_since + dt.timedelta(seconds=limit)
    if server_metrics.is_healthy(server.address, LAST_LOOK_SECONDS if over else server_metrics.TIMEOUT):
        server.silent_since = None
        return None
    server.silent_since = silent_since
    if not over:
        return None
    seconds = (servers.now(session) - silent_since).total_seconds()
    problem = f"it hung: it lives, but did not answer /health for {seconds:.0f} s. {host.last_words(order_of(model))}"
    return _failed(session, server, model, problem, ServerState.RESTARTING)


def _drain(session: Session, server: ModelServer, model: RegisteredModel, host: ServerHost) -> str | None:
    """Stop once no request has been there for a while: nothing under way, and none answered since the last look."""
    assert server.job_id is not None and server.address is not None, "the start wrote them"
    if servers.is_needed(session, server):
        servers.change(session, server, ServerState.READY)
        return f"{model.served_name} is needed again"
    now = servers.now(session)
    if host.is_running(server.job_id) and now < server.changed_at + dt.timedelta(
        seconds=settings().server_drain_seconds
    ):
        try:
            seen = server_metrics.traffic(server.address)
        except ServiceUnavailableError:
            return None  # too busy to say; the limit above ends this
        if seen.under_way or seen.answered != server.answered:
            server.idle_since = None
        elif server.idle_since is None:
            server.idle_since = now
        server.answered = seen.answered
        quiet = dt.timedelta(seconds=settings().server_quiet_seconds)
        if server.idle_since is None or now < server.idle_since + quiet:
            return None
    servers.change(session, server, ServerState.STOPPING)
    return None


def _stop(server_id: int, host: ServerHost) -> str | None:
    """Stop the process; repeated it finds nothing to stop.

    It may take its time, so no rollout waits for it. Another keeper does not stop beside it: the later one would give
    back what the next start has leased by then.
    """
    with transaction() as session:
        server = session.get_one(ModelServer, server_id)
        model = lifecycle.get(session, server.model_id)
        if not servers.try_lock_stop(session, model):
            return None
        session.refresh(server)
        if server.state not in {ServerState.STOPPING, ServerState.RESTARTING}:
            return None
        order = order_of(model)
        host.stop(order, server.job_id)
        servers.lock(session, model)
        session.refresh(server)
        if server.state not in {ServerState.STOPPING, ServerState.RESTARTING}:
            return None
        server.job_id = server.address = None
        asked_for = server.problem is None and servers.is_needed(session, server)  # while it stopped
        wanted = server.state == ServerState.RESTARTING or asked_for
        servers.change(session, server, ServerState.WAITING if wanted else ServerState.STOPPED)
        return f"stopped the server of {order.served_name}"


def _failed(
    session: Session,
    server: ModelServer,
    model: RegisteredModel,
    problem: str,
    then: ServerState = ServerState.WAITING,
) -> str:
    """Try again after a pause; one that nobody uses yet is given up after :data:`STARTS_TRIED`.

    ``then`` is where the way back to a start begins: waiting for it, or with the stop of a job that is still there.
    """
    server.failures += 1
    server.problem = problem[-2000:]
    server.address = None
    if server.failures >= STARTS_TRIED and not servers.is_in_use(session, model.id):
        server.requested_until = servers.now(session)
        servers.change(session, server, ServerState.STOPPING)
        return f"gave the server of {model.served_name} up: {problem}"
    servers.change(session, server, then)
    return f"the server of {model.served_name} failed and is started again: {problem}"


def _may_start(session: Session, server: ModelServer) -> bool:
    if not server.failures:
        return True
    pause = min(LONGEST_PAUSE, 2.0**server.failures - 1)
    return servers.now(session) >= server.changed_at + dt.timedelta(seconds=pause)


def _look_at_answers(address: str, model: RegisteredModel) -> None:
    """Put the known questions to a server that has just started.

    Raises:
        TollgateError: It does not serve these weights, or does not answer as they are known to.
    """
    with VllmClient([address]) as client:
        replica = client.replicas[0]
        if not replica.serves(model.served_name, Path(model.model_path)):
            raise ServiceUnavailableError(f"The server at {address} does not list {model.served_name} yet.")
        if known := probes.from_json(model.deployment_config.get("probes")):
            client.probe_on(replica, model.served_name, known)
