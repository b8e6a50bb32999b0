"""What serves which route: read from PostgreSQL again and again, and kept as it was while PostgreSQL is away."""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from sqlalchemy import Engine, ScalarSelect, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from gateway.assignment import Assignments
from gateway.route_news import RouteNews
from tollgate.serving.server_states import ANSWERING
from tollgate.store.tables import Assignment, Deployment, Experiment, ModelServer, RegisteredModel

log = logging.getLogger(__name__)

_COMMIT_TIME = dt.timedelta(seconds=2)
"""Assignments carry the time at which their transaction began; it ends within this time."""
_ROWS_AT_ONCE = 20_000


@dataclass(frozen=True, slots=True)
class Version:
    """One version as vLLM serves it. ``model_id`` is null for the base model.

    ``address`` is that of the version's own server; null where the shared ones serve it.
    """

    name: str
    model_id: int | None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Arms:
    """A running experiment: the version behind each arm and the share of users that each gets."""

    experiment_id: int
    salt: str
    split: Mapping[str, float]
    versions: Mapping[str, Version]


@dataclass(frozen=True, slots=True)
class Route:
    """A name that clients use, what is deployed behind it (shares sum to 1), and the experiment on it, if any."""

    name: str
    shares: tuple[tuple[Version, float], ...]
    arms: Arms | None


class RoutesTable:
    """The routes, read whenever one moves and every ``refresh_seconds``, in a thread of its own.

    Args:
        engine: Tollgate's database.
        assignments: Told which users an experiment has already assigned, before the experiment is used.
        base_model_name: Name under which vLLM serves the base model; a route of its own.
        refresh_seconds: Longest pause between two reads.
    """

    def __init__(self, engine: Engine, assignments: Assignments, base_model_name: str, refresh_seconds: float) -> None:
        self._engine = engine
        self._assignments = assignments
        self._base = Route(base_model_name, ((Version(base_model_name, None), 1.0),), None)
        self._refresh_seconds = refresh_seconds
        self._routes: Mapping[str, Route] = {base_model_name: self._base}
        self._arms: Mapping[int, Arms] = {}
        self._learned: dict[int, dt.datetime] = {}
        self._read_at: float | None = None
        self._is_away = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="routes", daemon=True)

    def start(self) -> None:
        """Read once and go on reading in the background."""
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        """Stop reading."""
        self._stop.set()

    def get(self, name: str) -> Route | None:
        """The route of that name."""
        return self._routes.get(name)

    def names(self) -> list[str]:
        """All routes, sorted."""
        return sorted(self._routes)

    @property
    def age(self) -> float | None:
        """Seconds since the routes were read; null if they never were."""
        return None if self._read_at is None else time.monotonic() - self._read_at

    def refresh(self) -> bool:
        """Read the routes now. False, and all stays as it was, if PostgreSQL does not answer."""
        try:
            with Session(self._engine) as session:
                arms = _experiments(session)
                self._learn_assignments(session, arms)
                routes = _routes(session, arms)
        except SQLAlchemyError as error:
            if not self._is_away:
                log.warning("Routes stay as they were, PostgreSQL does not answer: %s", type(error).__name__)
            self._is_away = True
            return False
        if self._is_away:
            log.warning("PostgreSQL answers again.")
        self._is_away = False
        self._arms = {experiment.experiment_id: experiment for experiment in arms.values()}
        self._routes = {self._base.name: self._base} | routes
        self._read_at = time.monotonic()
        self._assignments.keep_only(self._arms)
        return True

    def _learn_assignments(self, session: Session, arms: Mapping[str, Arms]) -> None:
        """Learn all assignments of a new experiment, and what this and other gateways have written since.

        It comes before a changed split is used: whoever was assigned under the old one is known by then.
        """
        for experiment in arms.values():
            since = self._learned.get(experiment.experiment_id) if experiment.experiment_id in self._arms else None
            query = select(Assignment.user_hash, Assignment.variant, Assignment.assigned_at).where(
                Assignment.experiment_id == experiment.experiment_id
            )
            if since is not None:
                query = query.where(Assignment.assigned_at >= since - _COMMIT_TIME)
            for rows in session.execute(query.execution_options(yield_per=_ROWS_AT_ONCE)).partitions():
                self._assignments.learn(experiment.experiment_id, {user: variant for user, variant, _ in rows})
                newest = max(written for *_, written in rows)
                self._learned[experiment.experiment_id] = max(newest, since or newest)

    def _run(self) -> None:
        news = RouteNews(self._engine, self._stop)
        while not self._stop.is_set():
            news.wait(self._refresh_seconds)
            if not self._stop.is_set():
                self.refresh()
        news.close()


def _experiments(session: Session) -> dict[str, Arms]:
    first, second = aliased(RegisteredModel), aliased(RegisteredModel)
    rows = session.execute(
        select(Experiment, first, second, _address(first.id), _address(second.id))
        .join(first, first.id == Experiment.model_a_id)
        .join(second, second.id == Experiment.model_b_id)
        .where(Experiment.status == "running")
    )
    found = {}
    for experiment, model_a, model_b, address_a, address_b in rows:
        try:
            split = {arm: float(experiment.traffic_split[arm]) for arm in ("a", "b")}
        except (KeyError, TypeError, ValueError):
            log.error("Experiment %s has no usable split; its route goes on without it.", experiment.id)  # noqa: TRY400
            continue
        versions = {"a": _version(model_a, address_a), "b": _version(model_b, address_b)}
        found[experiment.route] = Arms(experiment.id, experiment.salt, split, versions)
    return found


def _routes(session: Session, arms: Mapping[str, Arms]) -> dict[str, Route]:
    # The newest version comes first, so that a canary which grows keeps the users it has.
    rows = session.execute(
        select(Deployment.route, Deployment.weight, RegisteredModel, _address(RegisteredModel.id).label("address"))
        .join(RegisteredModel, RegisteredModel.id == Deployment.model_id)
        .where(Deployment.ended_at.is_(None))
        .order_by(Deployment.route, RegisteredModel.id.desc())
    )
    shares = {
        name: tuple((_version(row.RegisteredModel, row.address), row.weight) for row in group)
        for name, group in groupby(rows, key=attrgetter("route"))
    }
    return {name: Route(name, shares.get(name, ()), arms.get(name)) for name in shares.keys() | arms.keys()}


def _address(model_id: InstrumentedAttribute[int]) -> ScalarSelect[str | None]:
    """Where a version's own server answers; read with its route, so that no route is seen without its address."""
    answering = [state.value for state in ANSWERING]
    server = select(ModelServer.address).where(ModelServer.model_id == model_id, ModelServer.state.in_(answering))
    return server.scalar_subquery()


def _version(model: RegisteredModel, address: str | None) -> Version:
    return Version(model.served_name, model.id, address)
