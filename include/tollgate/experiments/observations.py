"""Reading an experiment's users from the request log."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Float, Select, Subquery, and_, case, cast, func, null, or_, select, union
from sqlalchemy.orm import Session

from tollgate.errors import BadInputError, Problem
from tollgate.experiments.decision import Arm
from tollgate.experiments.guardrails import Requests
from tollgate.experiments.looks import ARMS, Observations
from tollgate.experiments.plan import ExperimentPlan, quantile_of
from tollgate.store.tables import Assignment, Experiment, RequestLog

Floats = NDArray[np.float64]

_COLUMNS = {
    "response_time_ms": RequestLog.response_time_ms,
    "prompt_tokens": RequestLog.prompt_tokens,
    "completion_tokens": RequestLog.completion_tokens,
}
"""Columns of the log that may be metrics."""

_CLIENT_CLOSED_REQUEST = 499
_SERVER_ERROR = 500


def check_columns(plan: ExperimentPlan) -> None:
    """Refuse a plan whose metrics the request log does not have.

    Raises:
        BadInputError: Names each metric that is not known.
    """
    known = ("user_rating", "success", "error_share", "empty_share", *_COLUMNS)
    named = {"metric": plan.metric} | {f"guardrails[{n}].metric": one.metric for n, one in enumerate(plan.guardrails)}
    problems = []
    for where, metric in named.items():
        quantile = quantile_of(metric)
        if metric not in known and (quantile is None or quantile[0] not in _COLUMNS or where == "metric"):
            problems.append(
                Problem(where, metric, f"one of {', '.join(known)}, or response_time_p95_ms as a guardrail")
            )
    if problems:
        raise BadInputError("The request log has no such metric.", problems)


def load_observations(session: Session, experiment_id: int, minimum_ratings: int = 1) -> Observations:
    """Read an experiment's users, their metric and the guardrails.

    A rating counts for an arm only where the arm's own model gave the answer: after a failover the user rates another.

    Args:
        session: Of the caller's transaction.
        experiment_id: In ``ab_experiments``.
        minimum_ratings: Users with fewer values of the metric do not count.
    """
    experiment = session.get_one(Experiment, experiment_id)
    plan = ExperimentPlan.model_validate(experiment.plan)
    own = _own_model(experiment)
    assigned = _assigned(experiment_id)
    crossed = (
        select(assigned.c.user_hash)
        .group_by(assigned.c.user_hash)
        .having(func.count(assigned.c.variant) > 1)
        .subquery()
    )
    names = (plan.metric, *(one.metric for one in plan.guardrails if not quantile_of(one.metric)))
    users = session.execute(_by_user(experiment_id, own, crossed, names)).tuples().all()
    rated = {arm: [row for row in users if row[0] == arm and row[3] >= minimum_ratings] for arm in ARMS}
    means = {arm: _floats([row[4] for row in rows]) for arm, rows in rated.items()}
    foreign = select(func.count(RequestLog.user_rating)).where(
        *_of_experiment(experiment_id), RequestLog.model_id.is_distinct_from(own)
    )
    return Observations(
        means=means,
        arms=_arms(session, experiment_id, own, assigned, users, rated, means),
        foreign_ratings=session.scalar(foreign) or 0,
        crossed_users=session.scalar(select(func.count()).select_from(crossed)) or 0,
        history=_history(session, experiment, plan, rated) if plan.adjust_for_history else None,
        guardrail_means=_guardrail_means(names[1:], users),
        guardrail_requests=_guardrail_requests(session, plan, experiment_id, own, crossed),
    )


def _own_model(experiment: Experiment) -> ColumnElement[Any]:
    return case((RequestLog.variant == "a", experiment.model_a_id), (RequestLog.variant == "b", experiment.model_b_id))


def _of_experiment(experiment_id: int) -> tuple[ColumnElement[bool], ...]:
    return RequestLog.experiment_id == experiment_id, RequestLog.variant.in_(ARMS)


def _assigned(experiment_id: int) -> Subquery:
    """Users and their arms, from the assignments and, should one have been lost, from the log."""
    return union(
        select(Assignment.variant, Assignment.user_hash).where(
            Assignment.experiment_id == experiment_id, Assignment.variant.in_(ARMS)
        ),
        select(RequestLog.variant, RequestLog.user_hash).where(
            *_of_experiment(experiment_id), RequestLog.user_hash.is_not(None)
        ),
    ).subquery()


def _value(metric: str, own: ColumnElement[bool]) -> ColumnElement[Any]:
    """A request's value of a metric; null where it has none."""
    answered = and_(own, RequestLog.status_code < _SERVER_ERROR)
    # Whoever hangs up first saw neither an error nor an answer.
    left = RequestLog.status_code == _CLIENT_CLOSED_REQUEST
    # The answer of another model means that the arm's own did not answer.
    failed = or_(RequestLog.status_code >= _SERVER_ERROR, ~own)
    empty = case(
        (func.btrim(RequestLog.response) == "", True),
        (RequestLog.response.is_not(None), False),
        else_=RequestLog.completion_tokens == 0,
    )
    if metric == "user_rating":
        return case((own, cast(RequestLog.user_rating, Float)), else_=null())
    if metric == "error_share":
        return case((left, null()), (failed, 1.0), else_=0.0)
    if metric == "empty_share":
        return case((and_(answered, ~left), case((empty, 1.0), (~empty, 0.0), else_=null())), else_=null())
    if metric == "success":
        return case((left, null()), (failed, 0.0), (empty, 0.0), else_=1.0)
    return case((and_(answered, ~left), cast(_COLUMNS[metric], Float)), else_=null())


def _by_user(experiment_id: int, own_model: ColumnElement[Any], crossed: Subquery, names: Sequence[str]) -> Select[Any]:
    """A row a user: arm, pseudonym, own answers, values of the metric, its mean, then the guardrails' means."""
    own = RequestLog.model_id.is_not_distinct_from(own_model)
    values = [_value(name, own) for name in names]
    return (
        select(
            RequestLog.variant,
            RequestLog.user_hash,
            func.count().filter(own),
            func.count(values[0]),
            *(func.avg(value) for value in values),
        )
        .where(
            *_of_experiment(experiment_id),
            RequestLog.user_hash.is_not(None),
            RequestLog.user_hash.not_in(select(crossed.c.user_hash)),
        )
        .group_by(RequestLog.variant, RequestLog.user_hash)
        .order_by(RequestLog.user_hash)
    )


def _arms(
    session: Session,
    experiment_id: int,
    own: ColumnElement[Any],
    assigned: Subquery,
    users: Sequence[Sequence[Any]],
    rated: Mapping[str, Sequence[Sequence[Any]]],
    means: Mapping[str, Floats],
) -> dict[str, Arm]:
    answers = (
        select(RequestLog.variant, func.count(), func.avg(RequestLog.response_time_ms))
        .where(*_of_experiment(experiment_id), RequestLog.model_id == own)
        .group_by(RequestLog.variant)
    )
    requests = {variant: (count, time) for variant, count, time in session.execute(answers).tuples()}
    sizes = select(assigned.c.variant, func.count()).group_by(assigned.c.variant)
    assigned_users: dict[str, int] = dict(session.execute(sizes).tuples().all())
    return {
        arm: Arm(
            assigned=assigned_users.get(arm, 0),
            served=sum(row[0] == arm and row[2] > 0 for row in users),
            users=means[arm].size,
            ratings=sum(row[3] for row in rated[arm]),
            mean=float(means[arm].mean()) if means[arm].size else None,
            requests=requests.get(arm, (0, None))[0],
            response_time_ms=requests.get(arm, (0, None))[1],
        )
        for arm in ARMS
    }


def _guardrail_means(names: Sequence[str], users: Sequence[Sequence[Any]]) -> dict[str, dict[str, Floats]]:
    return {
        name: {
            arm: _floats([row[5 + place] for row in users if row[0] == arm and row[5 + place] is not None])
            for arm in ARMS
        }
        for place, name in enumerate(names)
    }


def _guardrail_requests(
    session: Session, plan: ExperimentPlan, experiment_id: int, own_model: ColumnElement[Any], crossed: Subquery
) -> dict[str, dict[str, Requests]]:
    own = RequestLog.model_id.is_not_distinct_from(own_model)
    found = {}
    for guardrail in plan.guardrails:
        quantile = quantile_of(guardrail.metric)
        if quantile is None:
            continue
        value = _value(quantile[0], own)
        query = select(RequestLog.variant, RequestLog.user_hash, value).where(
            *_of_experiment(experiment_id),
            value.is_not(None),
            RequestLog.user_hash.is_not(None),
            RequestLog.user_hash.not_in(select(crossed.c.user_hash)),
        )
        found[guardrail.metric] = _requests(session.execute(query).tuples().all())
    return found


def _requests(rows: Sequence[tuple[str, str, float]]) -> dict[str, Requests]:
    found = {}
    for arm in ARMS:
        mine = [(user, value) for variant, user, value in rows if variant == arm]
        _, codes = np.unique(np.array([user for user, _ in mine], dtype=str), return_inverse=True)
        found[arm] = Requests(_floats([value for _, value in mine]), codes.astype(np.int64))
    return found


def _history(
    session: Session, experiment: Experiment, plan: ExperimentPlan, rated: Mapping[str, Sequence[Sequence[Any]]]
) -> dict[str, Floats]:
    """The users' metric on the route before the experiment began, whatever model answered."""
    answered = RequestLog.model_id.is_not(None)
    value = _value(plan.metric, answered)
    query = (
        select(RequestLog.user_hash, func.avg(value))
        .where(RequestLog.route == experiment.route, RequestLog.created_at < experiment.start_date)
        .where(RequestLog.user_hash.is_not(None), value.is_not(None))
        .group_by(RequestLog.user_hash)
    )
    before: dict[str, float] = dict(session.execute(query).tuples().all())
    return {arm: _floats([before.get(row[1], np.nan) for row in rows]) for arm, rows in rated.items()}


def route_traffic(session: Session, route: str, metric: str, days: int, now: dt.datetime | None = None) -> Floats:
    """Users' means of a metric on a route in the last days, shape (users,): the traffic that a plan can count on.

    Args:
        session: Of the caller's transaction.
        route: Name that clients use.
        metric: As in a plan.
        days: How far to look back.
        now: With a time zone.
    """
    value = _value(metric, RequestLog.model_id.is_not(None))
    since = (now or dt.datetime.now(dt.UTC)) - dt.timedelta(days=days)
    query = (
        select(func.avg(value))
        .where(RequestLog.route == route, RequestLog.created_at >= since)
        .where(RequestLog.user_hash.is_not(None), value.is_not(None))
        .group_by(RequestLog.user_hash)
        .order_by(RequestLog.user_hash)
    )
    return _floats(session.scalars(query).all())


def _floats(values: Sequence[Any]) -> Floats:
    return np.array(values, dtype=np.float64)
