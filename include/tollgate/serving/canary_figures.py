"""What the gateway's request log says about the two versions of a rollout since the present share began."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import ColumnElement, Integer, case, func, or_, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from tollgate.serving.canary import ArmFigures
from tollgate.store.tables import RegisteredModel, RequestLog

_OK, _SERVER_ERROR = 200, 500
_WHITE = " \n\r\t"


def measure(session: Session, route: str, model: RegisteredModel, since: dt.datetime) -> ArmFigures:
    """Figures of one version on one route.

    A request that another provider had to answer in its place counts as failed: without that one it would have. Errors
    of the client (4xx) and requests that the client gave up are no fault of a version. An empty answer is one without
    a visible character; where the gateway keeps no texts, one of at most one token.

    Args:
        session: The caller's transaction.
        route: The route.
        model: The version that users were given.
        since: Requests that began from then on.
    """
    failed = (RequestLog.status_code >= _SERVER_ERROR) | RequestLog.model_id.is_distinct_from(model.id)
    answered = (RequestLog.status_code == _OK) & (RequestLog.model_id == model.id)
    empty = _is_empty()
    users = (
        select(
            func.count().label("requests"),
            func.count().filter(failed | (answered & empty)).label("bad_requests"),
            func.bool_or(failed).cast(Integer).label("failed"),
            func.count().filter(answered & empty.is_not(None)).label("known"),
            func.count().filter(answered & empty).label("empty"),
            func.count().filter(answered & empty.is_(None)).label("untold"),
            func.array_agg(aggregate_order_by(RequestLog.response_time_ms, RequestLog.id.desc()))
            .filter(answered)
            .label("latencies"),
        )
        .where(
            RequestLog.route == route,
            or_(RequestLog.model_id == model.id, RequestLog.assigned_version == model.served_name),
            RequestLog.created_at >= since,
        )
        .group_by(func.coalesce(RequestLog.user_hash, RequestLog.request_id))
        .subquery()
    )
    found = session.execute(
        select(
            func.coalesce(func.sum(users.c.requests), 0),
            func.coalesce(func.sum(users.c.bad_requests), 0),
            func.count(),
            func.coalesce(func.sum(users.c.failed), 0),
            func.count().filter(users.c.known > 0),
            func.count().filter(users.c.empty > 0),
            func.array_agg(users.c.latencies[1]).filter(users.c.latencies.is_not(None)),
            func.coalesce(func.sum(users.c.untold), 0),
        )
    ).one()
    requests, bad, number, failures, known, nothing, latencies, untold = found
    return ArmFigures(
        requests=int(requests),
        bad_requests=int(bad),
        users=number,
        failed_users=int(failures),
        answered_users=known,
        empty_users=nothing,
        latencies=tuple(latencies or ()),
        untold=int(untold),
    )


def _is_empty() -> ColumnElement[bool | None]:
    """Whether an answer is empty; null where the log keeps neither its text nor its length."""
    text_is_kept = RequestLog.query.is_not(None) | RequestLog.response.is_not(None)
    no_text = func.btrim(func.coalesce(RequestLog.response, ""), _WHITE) == ""
    return case(
        (text_is_kept, no_text),
        (RequestLog.completion_tokens.is_not(None), RequestLog.completion_tokens <= 1),
        else_=None,
    )
