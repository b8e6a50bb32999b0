"""What a plan takes: users, days and boundaries, from given or real traffic, in words and figures."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from tollgate.errors import BadInputError, Problem
from tollgate.experiments.plan import ExperimentPlan, Guardrail, detectable_effect
from tollgate.experiments.sequential import inflation

_SIZES = (50, 100, 200, 500, 1000)
_MOST_LOOKS_SHOWN = 12


class Traffic(BaseModel):
    """Users that an experiment can count on.

    Attributes:
        users_per_day: New users with the metric a day. A user who comes back is no new one.
        standard_deviation: Of the users' means; none where it was not measured.
        mean: Of the users' means; likewise.
        users: How many it was measured on.
        days: In how many days.
    """

    users_per_day: float
    standard_deviation: float | None = None
    mean: float | None = None
    users: int | None = None
    days: int | None = None


class Boundary(BaseModel):
    """A planned look: its number from 1, users per arm, the normal deviate to exceed, and the p value that this is.

    ``z`` is none where the look can't decide yet.
    """

    look: int
    users_per_arm: int
    z: float | None
    p: float


class Forecast(BaseModel):
    """What a plan takes.

    Attributes:
        users_per_arm: With the metric, in the smaller arm, at the last look.
        users_in_all: In both arms, at the plan's split.
        days: Until the last look; none without traffic.
        enough_time: Whether that is within the plan's days; none without traffic.
        inflation: By how much several looks enlarge the sample against one.
        boundaries: One per look.
        detectable_effect: By users per arm, what one look finds with the plan's power.
    """

    users_per_arm: int
    users_in_all: int
    days: int | None
    enough_time: bool | None
    traffic: Traffic | None
    inflation: float
    boundaries: list[Boundary]
    detectable_effect: dict[str, float]


def measured_traffic(values: NDArray[np.float64], days: int) -> Traffic:
    """Traffic from users' means in the last days.

    Raises:
        BadInputError: Fewer than ten users.
    """
    least = 10
    if values.size < least:
        problem = Problem("users with the metric", str(values.size), f"at least {least} in the last {days} days")
        raise BadInputError("There is too little traffic to measure.", [problem])
    return Traffic(
        users_per_day=values.size / days,
        standard_deviation=float(values.std(ddof=1)),
        mean=float(values.mean()),
        users=values.size,
        days=days,
    )


def forecast(plan: ExperimentPlan, traffic: Traffic | None = None) -> Forecast:
    """Compute what a plan takes at a traffic."""
    everyone = plan.users_expected()
    days = math.ceil(everyone / traffic.users_per_day) if traffic else None
    return Forecast(
        users_per_arm=plan.users_per_arm,
        users_in_all=everyone,
        days=days,
        enough_time=None if days is None else days <= plan.maximum_days,
        traffic=traffic,
        inflation=inflation(plan.looks, plan.alpha, plan.power) if plan.looks > 1 else 1.0,
        boundaries=_boundaries(plan),
        detectable_effect={
            str(size): round(detectable_effect(size, plan.standard_deviation, plan.alpha, plan.power), 4)
            for size in _SIZES
        },
    )


def _boundaries(plan: ExperimentPlan) -> list[Boundary]:
    found = []
    for look, boundary in enumerate(plan.boundaries(range(1, plan.looks + 1)), start=1):
        users = math.ceil(plan.users_per_arm * look / plan.looks)
        finite = boundary if math.isfinite(boundary) else None
        found.append(Boundary(look=look, users_per_arm=users, z=finite, p=plan.level_of(boundary)))
    return found


def shown_boundaries(figures: Forecast) -> list[Boundary]:
    """The looks that a table shows: all, or some evenly spaced and the last."""
    last = len(figures.boundaries)
    every = math.ceil(last / _MOST_LOOKS_SHOWN)
    return [one for one in figures.boundaries if one.look in {1, last} or one.look % every == 0]


def in_words(plan: ExperimentPlan, figures: Forecast) -> list[str]:
    """The plan as sentences."""
    said = [
        f"To find a difference of {plan.minimum_effect:g} in {plan.metric} (standard deviation "
        f"{plan.standard_deviation:g}) with {plan.power:.0%} power at alpha {plan.alpha:g} takes "
        f"{figures.users_per_arm:,} users in each arm, {figures.users_in_all:,} in all at this split.",
    ]
    if plan.looks > 1:
        said.append(
            f"There are {plan.looks} looks that may decide; they share alpha, which enlarges the sample by "
            f"{figures.inflation - 1:.1%}. The first differences that can end it are very large ones."
        )
    if figures.traffic:
        said.append(_pace(plan, figures, figures.traffic))
    said += [f"Guardrail: {_guardrail(one)}" for one in plan.guardrails]
    return said


def _pace(plan: ExperimentPlan, figures: Forecast, traffic: Traffic) -> str:
    measured = f" (measured: {traffic.users} users in {traffic.days} days)" if traffic.users else ""
    if figures.enough_time:
        return f"At {traffic.users_per_day:.1f} new users a day{measured} that is {figures.days} days."
    reached = max(2, math.floor(traffic.users_per_day * plan.maximum_days * min(plan.split.values())))
    found = detectable_effect(reached, plan.standard_deviation, plan.alpha, plan.power)
    return (
        f"At {traffic.users_per_day:.1f} new users a day{measured} that would be {figures.days} days, and the plan "
        f"ends after {plan.maximum_days} with the champion staying. In that time about {reached} users in each arm "
        f"would find a difference of {found:.3f}."
    )


def _guardrail(guardrail: Guardrail) -> str:
    margin = f"{guardrail.margin:.0%} of A's" if guardrail.relative else f"{guardrail.margin:g}"
    return f"rolled back once {guardrail.metric} is shown to be worse by more than {margin}."


def parse_guardrail(text: str) -> Guardrail:
    """A guardrail from ``metric=margin``; a margin in per cent is a share of A's value.

    Raises:
        BadInputError: The text is something else.
    """
    metric, _, margin = text.partition("=")
    relative = margin.endswith("%")
    try:
        value = float(margin.removesuffix("%")) / (100 if relative else 1)
        return Guardrail(metric=metric, margin=value, relative=relative)
    except ValueError as error:
        expected = "metric=margin, such as error_share=0.01 or response_time_p95_ms=20%"
        raise BadInputError("The guardrail is not valid.", [Problem("--guardrail", repr(text), expected)]) from error
