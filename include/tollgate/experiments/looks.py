"""One look at observations, wherever they come from: a pure function from users' values to all figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tollgate.experiments.decision import Analysis, Arm
from tollgate.experiments.guardrails import Requests, watch
from tollgate.experiments.plan import ExperimentPlan
from tollgate.experiments.sequential import half_width, tuning
from tollgate.experiments.statistics import Adjustment, Comparison, adjust, compare, response_rates, sample_ratio

Floats = NDArray[np.float64]

ARMS = ("a", "b")
"""The champion and the challenger."""


@dataclass(frozen=True)
class Observations:
    """What is known of an experiment's users.

    Args:
        means: Per arm, the mean of the plan's metric of each user, shape (users,), in the order of the users' names.
        arms: Per arm, its counts.
        foreign_ratings: Ratings of answers that another model than the arm's own gave.
        crossed_users: Users seen in both arms; they are in neither ``means``.
        history: Per arm, the same users' metric before the experiment; not a number where there is none.
        guardrail_means: Per guardrail that is a mean, and arm, each user's mean.
        guardrail_requests: Per guardrail that is a quantile, and arm, the requests' values.
    """

    means: dict[str, Floats]
    arms: dict[str, Arm]
    foreign_ratings: int = 0
    crossed_users: int = 0
    history: dict[str, Floats] | None = None
    guardrail_means: Mapping[str, Mapping[str, Floats]] = field(default_factory=dict)
    guardrail_requests: Mapping[str, Mapping[str, Requests]] = field(default_factory=dict)


def examine(
    plan: ExperimentPlan, seen: Observations, experiment_id: int, days: float, earlier: Sequence[int] = ()
) -> Analysis:
    """All figures of one look.

    Args:
        plan: The experiment's.
        seen: Its users.
        experiment_id: In ``ab_experiments``; 0 for an experiment from a file.
        days: Since its start.
        earlier: Planned looks that were taken before.
    """
    adjustment: Adjustment | None = None
    values = seen.means
    if plan.adjust_for_history and seen.history is not None:
        a, b, adjustment = adjust(values["a"], values["b"], seen.history["a"], seen.history["b"])
        values = {"a": a, "b": b}
    enough = all(arm.size >= 2 for arm in values.values())
    comparison = compare(values["a"], values["b"], plan.alpha) if enough else None
    counts = {name: arm.users for name, arm in seen.arms.items()}
    served = {name: max(arm.served, arm.users) for name, arm in seen.arms.items()}
    return Analysis(
        experiment_id=experiment_id,
        arms=seen.arms,
        comparison=comparison,
        sample_ratio=sample_ratio({name: arm.assigned for name, arm in seen.arms.items()}, plan.split),
        sequence=sequence_of(plan, comparison) if comparison else None,
        guardrails=watch(plan, seen.guardrail_means, seen.guardrail_requests),
        response=response_rates(counts, served),
        adjustment=adjustment,
        earlier=sorted(earlier),
        days=days,
        foreign_ratings=seen.foreign_ratings,
        crossed_users=seen.crossed_users,
    )


def sequence_of(plan: ExperimentPlan, comparison: Comparison) -> tuple[float, float]:
    """Ends of the two-sided confidence sequence of the difference, at the plan's alpha."""
    error = np.hypot(
        comparison.a.deviation / np.sqrt(comparison.a.users), comparison.b.deviation / np.sqrt(comparison.b.users)
    )
    rho = tuning(plan.users_expected(), plan.alpha)
    width = float(half_width(comparison.a.users + comparison.b.users, error, plan.alpha, rho))
    return comparison.difference - width, comparison.difference + width
