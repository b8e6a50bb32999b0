"""Which version serves which route: the wanted state, in PostgreSQL, and bringing vLLM's replicas to it.

A switch is: load the new adapter beside the old, look at its answers, move the route in one transaction, keep the old
one loaded. The gateway follows the table within a second. Every function works in the caller's transaction
(``tollgate.store.session.transaction``), so that a route moves together with what belongs to it, such as a promotion.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from tollgate.errors import BadInputError, Problem, ServiceUnavailableError, TollgateError
from tollgate.registry import lifecycle
from tollgate.registry.lifecycle import Stage
from tollgate.serving import probes, servers
from tollgate.serving.channel import ROUTES_CHANNEL
from tollgate.serving.client import Replica, VllmClient
from tollgate.serving.probes import KnownAnswer, Probe, ProbeFailedError
from tollgate.store.tables import Deployment, Experiment, RegisteredModel

ADAPTER = "peft"
_OUR_NAME = re.compile(r".+@v\d+")


@dataclass(frozen=True)
class Deployed:
    """What ``deploy`` did.

    Args:
        route: The route.
        served_name: The version that serves it now.
        moved: False if it served it before.
        former: Names of the versions that served it until now; they stay loaded.
        answers: What the version answered to the probes, by replica.
    """

    route: str
    served_name: str
    moved: bool
    former: tuple[str, ...]
    answers: Mapping[str, Sequence[str]]


@dataclass
class Reconciled:
    """What ``reconcile`` did; each entry is ``<adapter> at <address>`` or, for problems, a sentence."""

    loaded: list[str] = field(default_factory=list)
    unloaded: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def current(session: Session, route: str) -> dict[int, float]:
    """The route's versions now: shares (sum 1) by model id; empty where nothing is deployed."""
    rows = session.scalars(select(Deployment).where(Deployment.route == route, Deployment.ended_at.is_(None)))
    return {row.model_id: row.weight for row in rows}


def served_at(session: Session, route: str, at: dt.datetime) -> dict[str, float]:
    """Which versions served a route at one instant: shares by served name, the largest first; empty where none did."""
    rows = session.execute(
        select(RegisteredModel, Deployment.weight)
        .join(Deployment, Deployment.model_id == RegisteredModel.id)
        .where(
            Deployment.route == route,
            Deployment.started_at <= at,
            or_(Deployment.ended_at.is_(None), Deployment.ended_at > at),
        )
        .order_by(Deployment.weight.desc(), RegisteredModel.id)
    )
    return {model.served_name: weight for model, weight in rows}


def set_route(session: Session, route: str, weights: Mapping[int, float], by: str) -> bool:
    """Give the route to these versions from now on; what served it before becomes history.

    Args:
        session: The caller's transaction.
        route: Name that clients use.
        weights: Weight by model id, each above 0; stored as shares that sum to 1.
        by: Who decided: a user, or the name of a run.

    Returns:
        False if the route has these shares already; then nothing is written.

    Raises:
        BadInputError: No versions, an unknown one, or a weight that is no number above 0.
    """
    shares = _shares(session, weights)
    _lock(session, f"route:{route}")
    present = current(session, route)
    if present.keys() == shares.keys() and all(math.isclose(present[key], shares[key]) for key in shares):
        return False
    now = session.scalar(select(func.clock_timestamp()))
    session.execute(
        update(Deployment).where(Deployment.route == route, Deployment.ended_at.is_(None)).values(ended_at=now)
    )
    session.add_all(
        Deployment(route=route, model_id=model_id, weight=share, deployed_by=by, started_at=now)
        for model_id, share in shares.items()
    )
    session.flush()
    session.execute(select(func.pg_notify(ROUTES_CHANNEL, route)))  # heard when the transaction commits
    return True


def deploy(
    session: Session,
    route: str,
    model_id: int,
    by: str,
    prompts: Sequence[Probe],
    client: VllmClient,
    share: float = 1.0,
) -> Deployed:
    """Load a version on every replica, look at its answers, and move the route to it.

    Full weights are not loaded: their own server must be ready (``tollgate.serving.servers``), and is asked.

    What it answers is kept: a replica that loads it later, such as one that restarted, must answer the same.

    What served the route stays loaded, so that requests under way finish and a way back is instant. Whatever fails
    leaves the route as it was and no adapter behind that was not there before.

    Args:
        session: The caller's transaction; the route moves when it commits.
        route: Name that clients use.
        model_id: The version.
        by: Who decided: a user, or the name of a run.
        prompts: Questions that a working version answers; of some the answer may be known.
        client: The replicas.
        share: Share of the route's users, above 0 and up to 1; the present versions keep the rest in proportion.

    Raises:
        BadInputError: Unknown version, unusable files, a share out of range.
        ProbeFailedError: It answers nothing, or not what it is known to answer; the route was not moved.
        ServiceUnavailableError: A replica, or the version's own server, did not answer; the route was not moved.
    """
    if not 0 < share <= 1:
        raise BadInputError("No such share.", [Problem("share", str(share), "above 0 and up to 1")])
    model = lifecycle.get(session, model_id)
    if servers.has_own_server(model):
        with VllmClient([servers.claim(session, model)]) as own:
            answers = _put_questions(session, model, prompts, own)
    else:
        _lock_adapter(session, model)
        answers = _load_and_look(session, model, prompts, client)
    _lock(session, f"route:{route}")
    present = current(session, route)
    rest = {key: weight for key, weight in present.items() if key != model_id} if share < 1 else {}
    scale = (1 - share) / sum(rest.values()) if rest else 0.0
    moved = set_route(session, route, {key: weight * scale for key, weight in rest.items()} | {model_id: share}, by)
    former = tuple(lifecycle.get(session, key).served_name for key in present if key != model_id)
    return Deployed(route=route, served_name=model.served_name, moved=moved, former=former, answers=answers)


def roll_back(
    session: Session, route: str, by: str, client: VllmClient, away_from: int | None = None
) -> dict[int, float]:
    """Give the route back to what served it before.

    Args:
        session: The caller's transaction; the route moves when it commits.
        route: Name that clients use.
        by: Who decided: a user, or the name of a run.
        client: The replicas; the former versions are loaded where they are not any more.
        away_from: The version to leave: the newest former state without it is taken, and nothing happens if it does
            not serve, so that a retry cannot go back twice. Without it the last state before the present one is taken.

    Returns:
        The shares that the route has now, by model id.

    Raises:
        BadInputError: There is no former state to go back to.
        ServiceUnavailableError: No replica has a former version; the route was not moved.
    """
    _lock(session, f"route:{route}")
    present = current(session, route)
    if away_from is not None and away_from not in present:
        return present
    former = next((state for state in _former(session, route) if away_from not in state), None)
    if former is None:
        raise BadInputError("There is nothing to go back to.", [Problem("route", route, "one with a former version")])
    for model_id in former:
        ensure_served(session, lifecycle.get(session, model_id), client)
    set_route(session, route, former, by)
    return former


def ensure_served(session: Session, model: RegisteredModel, client: VllmClient) -> None:
    """Make sure that at least one replica holds a version that served before, for the way back must not wait for all.

    The gateway passes over replicas that lack it; the reconciler brings them what they lack. Full weights have one
    server of their own, which nobody stops until the caller's transaction ends.

    Raises:
        BadInputError: No replica has it, and its files or the replicas rule it out.
        ServiceUnavailableError: No replica has it, and one did not answer; or its own server is not ready.
    """
    if servers.has_own_server(model):
        servers.claim(session, model)
        return
    failures: list[TollgateError] = []
    for replica in client.replicas:
        try:
            client.load_on(replica, model.served_name, Path(model.model_path), model.manifest_digest)
        except (ServiceUnavailableError, BadInputError) as error:
            failures.append(error)
    if len(failures) == len(client.replicas):
        raise failures[0]


def is_served(model: RegisteredModel, client: VllmClient) -> bool:
    """Whether at least one replica holds a version; the first that does is asked, and no other."""
    for replica in client.replicas:
        with suppress(ServiceUnavailableError):
            if replica.holds(model.served_name, Path(model.model_path)):
                return True
    return False


def known_answers(model: RegisteredModel) -> list[KnownAnswer]:
    """What a version is known to answer, from its first deployment on."""
    return probes.from_json(model.deployment_config.get("probes"))


def adapters_in_use(session: Session) -> dict[str, RegisteredModel]:
    """Versions that requests may reach now, deployed or in a running experiment, by served name."""
    deployed = select(Deployment.model_id).where(Deployment.ended_at.is_(None))
    running = select(Experiment).where(Experiment.status == "running").subquery()
    return _adapters(
        session,
        or_(
            RegisteredModel.id.in_(deployed),
            RegisteredModel.id.in_(select(running.c.model_a_id)),
            RegisteredModel.id.in_(select(running.c.model_b_id)),
        ),
    )


def unload_if_unused(session: Session, model_id: int, client: VllmClient) -> bool:
    """Unload a version on every replica unless it is deployed or in a running experiment.

    Returns:
        True if it is unloaded now, or was before.

    Raises:
        ServiceUnavailableError: A replica did not answer; the others have unloaded it.
    """
    model = lifecycle.get(session, model_id)
    _lock_adapter(session, model)
    if model.served_name in adapters_in_use(session):
        return False
    client.unload_adapter(model.served_name)
    return True


def reconcile(session: Session, client: VllmClient) -> Reconciled:
    """Load what replicas lack, such as one that restarted empty, and unload versions that nothing refers to.

    Loaded are the versions in use and those that a rollback would go back to. Kept, but not loaded, are candidates
    still without a verdict, which are being evaluated, and versions in staging or production. Only names of the form
    ``<model>@v<number>`` are ever unloaded. A replica that is down or a version whose files are gone is reported, and
    the rest is done.
    """
    done = Reconciled()
    for replica in client.replicas:
        try:
            _reconcile_replica(session, client, replica, done)
        except ServiceUnavailableError as error:
            done.problems.append(str(error))
    return done


def _reconcile_replica(session: Session, client: VllmClient, replica: Replica, done: Reconciled) -> None:
    served = replica.list_models()
    for name, model in _wanted(session).items():
        try:
            if client.load_on(replica, name, Path(model.model_path), model.manifest_digest):
                _look(client, replica, model)
                done.loaded.append(f"{name} at {replica.address}")
        except (BadInputError, ProbeFailedError) as error:
            done.problems.append(str(error))
    for name in served:
        if not _OUR_NAME.fullmatch(name):
            continue
        _lock(session, f"adapter:{name}")
        if name not in _kept(session) and replica.unload_adapter(name):
            done.unloaded.append(f"{name} at {replica.address}")


def _look(client: VllmClient, replica: Replica, model: RegisteredModel) -> None:
    """Put the known questions to a version that a replica has just loaded; one that fails is taken away again.

    Raises:
        ProbeFailedError: It does not answer as it is known to; requests for it go to the other replicas.
    """
    if not (known := known_answers(model)):
        return
    try:
        client.probe_on(replica, model.served_name, known)
    except TollgateError:
        with suppress(ServiceUnavailableError):
            replica.unload_adapter(model.served_name)
        raise


def _wanted(session: Session) -> dict[str, RegisteredModel]:
    routes = session.scalars(select(Deployment.route).where(Deployment.ended_at.is_(None)).distinct())
    ids = {model_id for route in routes for model_id in next(iter(_former(session, route)), ())}
    return adapters_in_use(session) | _adapters(session, RegisteredModel.id.in_(ids))


def _kept(session: Session) -> dict[str, RegisteredModel]:
    under_evaluation = (RegisteredModel.status == Stage.CANDIDATE.value) & RegisteredModel.verdict.is_(None)
    decided = RegisteredModel.status.in_([Stage.STAGING.value, Stage.PRODUCTION.value])
    return _wanted(session) | _adapters(session, under_evaluation | decided)


def _former(session: Session, route: str) -> list[dict[int, float]]:
    """The route's past states, newest first; ``set_route`` starts all rows of a state at the same instant."""
    rows = session.scalars(
        select(Deployment)
        .where(Deployment.route == route, Deployment.ended_at.is_not(None))
        .order_by(Deployment.started_at.desc())
    )
    return [{row.model_id: row.weight for row in state} for _, state in groupby(rows, key=lambda row: row.started_at)]


def _load_and_look(
    session: Session, model: RegisteredModel, prompts: Sequence[Probe], client: VllmClient
) -> dict[str, list[str]]:
    name = model.served_name
    lacking = [replica for replica in client.replicas if name not in replica.list_models()]
    try:
        client.load_adapter(name, Path(model.model_path), model.manifest_digest)
        return _put_questions(session, model, prompts, client)
    except TollgateError:
        for replica in lacking:
            with suppress(ServiceUnavailableError):
                replica.unload_adapter(name)
        raise


def _put_questions(
    session: Session, model: RegisteredModel, prompts: Sequence[Probe], client: VllmClient
) -> dict[str, list[str]]:
    """Ask a version what it is known to answer, and the further questions; its first answers are kept."""
    known = known_answers(model)
    asked = [probe.question for probe in known]
    questions = [*known, *(prompt for prompt in prompts if probes.question_of(prompt) not in asked)]
    answers = client.probe(model.served_name, questions)
    if not known:
        _keep_answers(session, model, questions, answers)
    return answers


def _keep_answers(
    session: Session, model: RegisteredModel, asked: Sequence[Probe], answers: Mapping[str, Sequence[str]]
) -> None:
    """Keep what the first replica answers, once the others answer the same."""
    first = next(iter(answers.values()))
    kept = [KnownAnswer(probes.question_of(probe), answer) for probe, answer in zip(asked, first, strict=True)]
    for address, others in answers.items():
        probes.check_answers(model.served_name, address, kept, others)
    model.deployment_config = {**model.deployment_config, "probes": probes.to_json(kept)}
    session.flush()


def _adapters(session: Session, condition: ColumnElement[bool]) -> dict[str, RegisteredModel]:
    query = select(RegisteredModel).where(condition, RegisteredModel.model_format == ADAPTER)
    return {model.served_name: model for model in session.scalars(query.execution_options(populate_existing=True))}


def _shares(session: Session, weights: Mapping[int, float]) -> dict[int, float]:
    problems = [
        Problem(f"weight of model {model_id}", str(weight), "a number above 0")
        for model_id, weight in weights.items()
        if not (math.isfinite(weight) and weight > 0)
    ]
    if problems or not weights:
        raise BadInputError(
            "The route's weights cannot be used.", problems or [Problem("weights", "none", "one or more")]
        )
    for model_id in weights:
        lifecycle.get(session, model_id)
    total = sum(weights.values())
    return {model_id: weight / total for model_id, weight in weights.items()}


def _lock_adapter(session: Session, model: RegisteredModel) -> None:
    """Let nobody unload the adapter between its load and the move of the route, until the transaction ends."""
    _lock(session, f"adapter:{model.served_name}")


def _lock(session: Session, name: str) -> None:
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))
