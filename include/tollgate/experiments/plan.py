"""The plan of an experiment, made before it starts: the metric, the difference that matters, the users it takes."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from scipy.optimize import brentq
from scipy.stats import nct, norm, t

RATING_DEVIATION = 1.13
"""Standard deviation of ratings from 1 to 5 that plans assume unless told otherwise."""


def power_at(users: int, effect: float, deviation: float, alpha: float = 0.05) -> float:
    """Chance that the two-sided t-test finds a true difference of the means, from the noncentral t distribution.

    A significant difference in the wrong direction is not counted as found (as in R's ``power.t.test``).

    Args:
        users: In each arm, at least 2.
        effect: True difference, in the metric's units.
        deviation: Standard deviation of the users' means within an arm.
        alpha: Level of the test.
    """
    freedom = 2 * users - 2
    shift = effect / deviation * math.sqrt(users / 2)
    return float(nct.sf(t.ppf(1 - alpha / 2, freedom), freedom, shift))


def sample_size(effect: float, deviation: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Fewest users in each arm that find a true difference of ``effect`` with at least ``power``.

    Starts from the normal formula ``n = 2 (z(1 - alpha/2) + z(power))^2 deviation^2 / effect^2``, which is short by a
    user or two, and goes up to the first number whose power by the noncentral t distribution is enough.
    """
    quantiles = norm.ppf(1 - alpha / 2) + norm.ppf(power)
    users = max(2, math.floor(2 * (quantiles * deviation / effect) ** 2))
    while power_at(users, effect, deviation, alpha) < power:
        users += 1
    return users


def detectable_effect(users: int, deviation: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true difference that ``users`` in each arm find with ``power``."""
    error = deviation * math.sqrt(2 / users)

    def missing(shift: float) -> float:
        return power - power_at(users, shift * error, deviation, alpha)

    # Three critical values are found with 99 % power even by two users in each arm.
    return float(brentq(missing, 0, 10 + 3 * t.ppf(1 - alpha / 2, 2 * users - 2))) * error


def _planned_users(data: dict[str, Any]) -> int:
    return sample_size(data["minimum_effect"], data["standard_deviation"], data["alpha"], data["power"])


class ExperimentPlan(BaseModel):
    """An A/B test of two model versions, decided once, when both arms have ``users_per_arm`` users.

    The unit is the user: requests of one user resemble each other, and tested one by one they would find differences
    that are not there in one case of five.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Literal["user_rating"] = Field("user_rating", description="Mean per user of this column of the log.")
    minimum_effect: float = Field(0.3, gt=0, le=4, description="Difference of the means that must not be missed.")
    standard_deviation: float = Field(RATING_DEVIATION, gt=0, le=4, description="Expected, of the users' means.")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="Chance of a difference found where there is none.")
    power: float = Field(0.8, gt=0.5, le=0.99, description="Chance to find the minimum effect.")
    users_per_arm: int = Field(
        default_factory=_planned_users, ge=2, description="Rated users in each arm at the look that decides."
    )
    split: dict[str, float] = Field(
        default={"a": 0.5, "b": 0.5}, description="Share of users per arm: a is the champion, b the challenger."
    )
    sample_ratio_threshold: float = Field(
        0.001, gt=0, lt=0.1, description="Below this p value the arms' sizes contradict the split: nothing is decided."
    )
    minimum_ratings_per_user: int = Field(1, ge=1, description="Users with fewer ratings do not count.")
    maximum_days: int = Field(30, ge=1, le=365, description="After so many days the experiment ends without a winner.")

    @field_validator("split")
    @classmethod
    def _whole(cls, split: dict[str, float]) -> dict[str, float]:
        if set(split) != {"a", "b"} or min(split.values()) <= 0 or not math.isclose(sum(split.values()), 1):
            raise ValueError("expected positive shares of a and b that sum to 1")
        return split
