"""Guardrails: has the challenger harmed a metric beyond the margin that the plan tolerates?

Each is watched by a one-sided asymptotic confidence sequence (:func:`.sequential.half_width`), so that it may be looked
at as often as one likes. The plan's ``guardrail_alpha`` is divided among the guardrails (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from tollgate.experiments.plan import ExperimentPlan, Guardrail, quantile_of
from tollgate.experiments.sequential import half_width, tuning

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Requests:
    """Values of single requests, for quantiles.

    Args:
        values: Shape (requests,).
        users: The user of each, as numbers from 0, shape (requests,).
    """

    values: Floats
    users: NDArray[np.int64]


class GuardrailResult(BaseModel):
    """One guardrail at one look; harm is what B is worse than A, in the metric's units.

    Attributes:
        a: Mean or quantile of arm A; none without users.
        harm: ``b - a`` or, where higher is better, ``a - b``.
        low: The harm is at least this, with confidence ``1 - alpha`` at all looks together; none while there are too
            few users to say.
        limit: Harm that is tolerated.
        users: Users with the metric, per arm.
        violated: ``low`` is above ``limit``.
    """

    metric: str
    a: float | None
    b: float | None
    harm: float | None
    low: float | None
    limit: float | None
    alpha: float
    users: dict[str, int]
    violated: bool


def watch(
    plan: ExperimentPlan, means: Mapping[str, Mapping[str, Floats]], requests: Mapping[str, Mapping[str, Requests]]
) -> list[GuardrailResult]:
    """Look at every guardrail of a plan.

    Args:
        plan: Names the guardrails.
        means: Per metric and arm, each user's mean, shape (users,).
        requests: Per metric that is a quantile and arm, the requests' values.
    """
    alpha = plan.guardrail_alpha / max(1, len(plan.guardrails))
    found = []
    for guardrail in plan.guardrails:
        if quantile_of(guardrail.metric):
            found.append(_quantile(plan, guardrail, requests[guardrail.metric], alpha))
        else:
            found.append(_mean(plan, guardrail, means[guardrail.metric], alpha))
    return found


def contrast_factor(guardrail: Guardrail) -> float:
    """What A's mean is multiplied with before it is compared: 1, or more (less) by a relative margin."""
    return 1 - guardrail.sign * guardrail.margin if guardrail.relative else 1.0


def _mean(plan: ExperimentPlan, guardrail: Guardrail, arms: Mapping[str, Floats], alpha: float) -> GuardrailResult:
    a, b = arms["a"], arms["b"]
    users = {"a": a.size, "b": b.size}
    means = {arm: float(values.mean()) if values.size else None for arm, values in arms.items()}
    if min(users.values()) < 2:
        return _unknown(guardrail, means, users, alpha)
    factor = contrast_factor(guardrail)
    error = math.sqrt(b.var(ddof=1) / b.size + factor**2 * a.var(ddof=1) / a.size)
    # Above 0: worse than A with the relative margin; an absolute margin is compared with afterwards.
    excess = -guardrail.sign * float(b.mean() - factor * a.mean())
    rho = tuning(plan.users_expected(), alpha, one_sided=True)
    low = excess - float(half_width(a.size + b.size, error, alpha, rho, one_sided=True))
    limit = abs(1 - factor) * float(a.mean()) if guardrail.relative else guardrail.margin
    return _result(plan, guardrail, means, users, alpha, low + (limit if guardrail.relative else 0.0), limit)


def _quantile(
    plan: ExperimentPlan, guardrail: Guardrail, arms: Mapping[str, Requests], alpha: float
) -> GuardrailResult:
    """Quantiles over requests of clustered users: each arm's bound at half of alpha.

    The share of requests at or below the present quantile is a ratio of two means per user; its standard error follows
    from the delta method (Deng, Knoblich & Lu 2018, KDD), and the quantile's bound is the quantile at the share's
    bound.
    """
    named = quantile_of(guardrail.metric)
    assert named is not None
    share = named[1]
    users = {arm: int(np.unique(one.users).size) for arm, one in arms.items()}
    points = {arm: float(np.quantile(one.values, share)) if one.values.size else None for arm, one in arms.items()}
    if min(users.values()) < 2:
        return _unknown(guardrail, points, users, alpha)
    rho = {arm: tuning(plan.users_per_arm, alpha / 2, one_sided=True) for arm in arms}
    widths = {arm: _share_width(one, share, users[arm], alpha / 2, rho[arm]) for arm, one in arms.items()}
    # Harm is the arm that should not be higher minus the other: at least the former's least minus the latter's most.
    higher, lower = ("b", "a") if guardrail.sign < 0 else ("a", "b")
    least = _quantile_at(arms[higher].values, share - widths[higher])
    most = _quantile_at(arms[lower].values, share + widths[lower])
    assert points["a"] is not None
    limit = guardrail.margin * points["a"] if guardrail.relative else guardrail.margin
    if guardrail.relative and guardrail.sign < 0:
        low = least - contrast_factor(guardrail) * most + limit
    elif guardrail.relative:
        low = contrast_factor(guardrail) * least - most + limit
    else:
        low = least - most
    return _result(plan, guardrail, points, users, alpha, low, limit)


def _share_width(requests: Requests, share: float, users: int, alpha: float, rho: float) -> float:
    _, codes = np.unique(requests.users, return_inverse=True)
    below = requests.values <= np.quantile(requests.values, share)
    counts = np.bincount(codes, minlength=users)
    residuals = np.bincount(codes, weights=below - below.mean(), minlength=users)
    error = math.sqrt(float(residuals.var(ddof=1)) / users) / float(counts.mean())
    return float(half_width(users, error, alpha, rho, one_sided=True))


def _quantile_at(values: Floats, share: float) -> float:
    if share <= 0:
        return -math.inf
    return math.inf if share >= 1 else float(np.quantile(values, share))


def _unknown(
    guardrail: Guardrail, values: Mapping[str, float | None], users: dict[str, int], alpha: float
) -> GuardrailResult:
    return GuardrailResult(
        metric=guardrail.metric,
        a=values["a"],
        b=values["b"],
        harm=None,
        low=None,
        limit=None if guardrail.relative else guardrail.margin,
        alpha=alpha,
        users=users,
        violated=False,
    )


def _result(
    plan: ExperimentPlan,
    guardrail: Guardrail,
    values: Mapping[str, float | None],
    users: dict[str, int],
    alpha: float,
    low: float,
    limit: float,
) -> GuardrailResult:
    a, b = values["a"], values["b"]
    assert a is not None
    assert b is not None
    enough = min(users.values()) >= plan.guardrail_minimum_users and math.isfinite(low)
    return GuardrailResult(
        metric=guardrail.metric,
        a=a,
        b=b,
        harm=guardrail.sign * (a - b) + 0.0,  # no minus before a zero
        low=low if math.isfinite(low) else None,
        limit=limit,
        alpha=alpha,
        users=users,
        violated=enough and low > limit,
    )
