"""Servers of full weights: which versions need one of their own, where it is, and who waits for it.

Full weights cannot be loaded into a running server, so such a version gets a vLLM server of its own beside those that
serve now (blue and green). Whether a server is needed is never stored but follows from routes, experiments and
requests; ``tollgate.serving.server_keeper`` brings the processes in line with it. Every change of a version's server is
made under the lock that ``rollout.deploy`` takes, so a route never moves to a server that is being given up.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from tollgate.errors import ServiceUnavailableError
from tollgate.registry import lifecycle
from tollgate.serving.channel import ROUTES_CHANNEL
from tollgate.serving.client import VllmClient
from tollgate.serving.server_states import ServerState
from tollgate.settings import settings
from tollgate.store.tables import Deployment, Experiment, ModelServer, RegisteredModel

FULL_WEIGHTS = "transformers"

REQUEST_TIME = dt.timedelta(minutes=15)
"""A request holds for so long unless it is made again: whoever asked may have died."""


@dataclass(frozen=True)
class ServerView:
    """A server as people see it.

    Args:
        served_name: The version.
        route: Its route.
        state: A ``ServerState``.
        since: When it came into that state.
        address: Where it answers, while it runs.
        starts: How often it was started.
        problem: What stood or stands in the way.
    """

    server_id: int
    served_name: str
    route: str
    state: str
    since: dt.datetime
    address: str | None
    starts: int
    problem: str | None


def has_own_server(model: RegisteredModel) -> bool:
    """Whether the version is full weights, which the shared servers cannot load."""
    return model.model_format == FULL_WEIGHTS


def request(session: Session, model_id: int, by: str) -> ModelServer:
    """Ask for a server of a version, or hold the one that there is, for the next :data:`REQUEST_TIME`.

    However often it is asked there is one: a unique index makes a second one impossible.

    Args:
        session: The caller's transaction.
        model_id: A version of full weights.
        by: Who asks.
    """
    model = lifecycle.get(session, model_id)
    lock(session, model)
    until = now(session) + REQUEST_TIME
    server = find(session, model_id)
    if server is None:
        server = ModelServer(model_id=model_id, requested_by=by, requested_until=until)
        session.add(server)
    server.requested_until = max(until, server.requested_until)
    session.flush()
    session.refresh(server)
    return server


def withdraw(session: Session, model_id: int) -> None:
    """Take a request back: the server stops unless a route, an experiment or a way back needs it."""
    model = lifecycle.get(session, model_id)
    lock(session, model)
    server = find(session, model_id)
    if server is not None:
        server.requested_until = now(session)
        session.flush()


def claim(session: Session, model: RegisteredModel) -> str:
    """Make sure that a version's server answers and that nobody stops it until the caller's transaction ends.

    A server that was about to be stopped goes on.

    Args:
        session: The caller's transaction, in which a route moves to the version.
        model: A version of full weights.

    Returns:
        The server's address.

    Raises:
        ServiceUnavailableError: It has none that is ready, or that does not answer.
        AdapterNameTakenError: Something else answers there.
    """
    lock(session, model)
    server = find(session, model.id)
    state = ServerState.STOPPED if server is None else ServerState(server.state)
    if server is None or server.address is None or state not in {ServerState.READY, ServerState.DRAINING}:
        raise ServiceUnavailableError(f"{model.served_name} has no server that is ready: it is {state}.")
    with VllmClient([server.address]) as client:
        if not client.replicas[0].serves(model.served_name, Path(model.model_path)):
            raise ServiceUnavailableError(f"The server at {server.address} does not serve {model.served_name}.")
    if state is ServerState.DRAINING:
        change(session, server, ServerState.READY)
    return server.address


def change(session: Session, server: ModelServer, state: ServerState) -> None:
    """Note a server's new state, and tell the gateways: requests go where a server is ready."""
    server.state = state.value
    server.changed_at = now(session)
    server.idle_since = server.silent_since = None
    session.flush()
    route = lifecycle.get(session, server.model_id).model_name
    session.execute(select(func.pg_notify(ROUTES_CHANNEL, route)))


def is_needed(session: Session, server: ModelServer) -> bool:
    """Whether a request, a route, a running experiment or a way back needs the server."""
    if server.requested_until > now(session) or is_in_use(session, server.model_id):
        return True
    model = lifecycle.get(session, server.model_id)
    if lifecycle.champion(session, model.model_name) is None:
        return False  # the route was retired: there is nothing to go back from
    former = lifecycle.predecessor(session, model.model_name)
    return former is not None and former.id == model.id and _left_lately(session, model.id)


def is_in_use(session: Session, model_id: int) -> bool:
    """Whether requests may reach the version now."""
    deployed = select(Deployment.id).where(Deployment.model_id == model_id, Deployment.ended_at.is_(None))
    compared = select(Experiment.id).where(
        Experiment.status == "running", or_(Experiment.model_a_id == model_id, Experiment.model_b_id == model_id)
    )
    return any(session.scalar(query.limit(1)) is not None for query in (deployed, compared))


def find(session: Session, model_id: int) -> ModelServer | None:
    """The version's server that is not stopped, as it is now."""
    return session.scalar(
        select(ModelServer)
        .where(ModelServer.model_id == model_id, ModelServer.state != ServerState.STOPPED.value)
        .execution_options(populate_existing=True)
    )


def unstopped(session: Session) -> Sequence[ModelServer]:
    """All servers that are not stopped."""
    query = select(ModelServer).where(ModelServer.state != ServerState.STOPPED.value).order_by(ModelServer.id)
    return session.scalars(query.execution_options(populate_existing=True)).all()


def views(session: Session) -> list[ServerView]:
    """All servers that are not stopped, for people."""
    return [_view(lifecycle.get(session, server.model_id), server) for server in unstopped(session)]


def lock(session: Session, model: RegisteredModel) -> None:
    """Let nobody else change the version's server until the transaction ends; ``rollout.deploy`` takes the same."""
    session.execute(select(func.pg_advisory_xact_lock(_lock_key(model))))


def try_lock(session: Session, model: RegisteredModel) -> bool:
    """:func:`lock`, but false where somebody has it, instead of waiting."""
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(_lock_key(model)))))


def try_lock_stop(session: Session, model: RegisteredModel) -> bool:
    """Be the only one who stops the version's server until the transaction ends; false where somebody else is."""
    key = func.hashtextextended(f"stop:{model.served_name}", 0)
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(key))))


def now(session: Session) -> dt.datetime:
    """The database's clock: every process has the same."""
    return session.scalars(select(func.clock_timestamp())).one()


def _lock_key(model: RegisteredModel) -> object:
    return func.hashtextextended(f"adapter:{model.served_name}", 0)


def _left_lately(session: Session, model_id: int) -> bool:
    left = session.scalar(select(func.max(Deployment.ended_at)).where(Deployment.model_id == model_id))
    kept = dt.timedelta(seconds=settings().server_retention_seconds)
    return left is not None and now(session) < left + kept


def _view(model: RegisteredModel, server: ModelServer) -> ServerView:
    return ServerView(
        server_id=server.id,
        served_name=model.served_name,
        route=model.model_name,
        state=server.state,
        since=server.changed_at,
        address=server.address,
        starts=server.starts,
        problem=server.problem or _silence(server),
    )


def _silence(server: ModelServer) -> str | None:
    if server.silent_since is None:
        return None
    return f"it does not answer /health since {server.silent_since:%Y-%m-%d %H:%M:%S %Z}"
