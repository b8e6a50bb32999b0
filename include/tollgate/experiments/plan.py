"""The plan of an experiment, made before it starts: the metric, the difference that matters, the users it takes."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from scipy.optimize import brentq
from scipy.stats import nct, norm, t

from tollgate.experiments.sequential import boundaries, inflation

RATING_DEVIATION = 1.13
"""Standard deviation of ratings from 1 to 5 that plans assume unless told otherwise."""

NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"
"""Names of metrics: Tollgate's own, or columns."""

_BETTER = {
    "user_rating": "higher",
    "success": "higher",
    "error_share": "lower",
    "empty_share": "lower",
    "response_time_ms": "lower",
}
_QUANTILE = re.compile(r"(?P<column>[a-z_]+)_p(?P<percent>50|75|90|95|99)_ms")


def quantile_of(metric: str) -> tuple[str, float] | None:
    """The column and the share of a metric such as ``response_time_p95_ms``; none for a mean."""
    found = _QUANTILE.fullmatch(metric)
    return (f"{found['column']}_ms", int(found["percent"]) / 100) if found else None


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
    single = sample_size(data["minimum_effect"], data["standard_deviation"], data["alpha"], data["power"])
    return math.ceil(single * inflation(data["looks"], data["alpha"], data["power"])) if data["looks"] > 1 else single


class Guardrail(BaseModel):
    """A metric that must not become worse by more than a margin; shown harm ends the experiment at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str = Field(
        pattern=NAME,
        description="user_rating, success, error_share, empty_share, response_time_p95_ms, or a column of its own.",
    )
    margin: float = Field(
        ge=0, description="Harm that is tolerated, in the metric's units, or as a share of A's value."
    )
    relative: bool = Field(False, description="The margin is a share of A's value: 0.2 is 20 %.")
    better: Literal["higher", "lower"] | None = Field(None, description="Known for Tollgate's own metrics.")

    @model_validator(mode="after")
    def _known_direction(self) -> Self:
        if self.better is None and self.metric not in _BETTER and quantile_of(self.metric) is None:
            raise ValueError(f"better: expected higher or lower for the metric {self.metric}")
        return self

    @property
    def sign(self) -> int:
        """1 where a higher value is better, else -1."""
        if self.better is not None:
            return 1 if self.better == "higher" else -1
        return 1 if _BETTER.get(self.metric) == "higher" else -1


GUARDRAILS = (
    Guardrail(metric="user_rating", margin=0.1),
    Guardrail(metric="error_share", margin=0.01),
    Guardrail(metric="empty_share", margin=0.01),
    Guardrail(metric="response_time_p95_ms", margin=0.5, relative=True),
)
"""What a plan made by ``tollgate experiment plan --looks``, and a release, watch unless told otherwise."""


class ExperimentPlan(BaseModel):
    """An A/B test of two model versions, as decided on before it starts.

    With one look it is decided once, when both arms have ``users_per_arm`` users. With more, a look is taken whenever
    another ``1 / looks`` of the planned users is there, and the looks share alpha (:mod:`.sequential`). Guardrails are
    watched at every run of the analysis.

    The unit is the user: requests of one user resemble each other, and tested one by one they would find differences
    that are not there in one case of five.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Literal["user"] = Field("user", description="What is assigned to an arm and counted once.")
    metric: str = Field(
        "user_rating", pattern=NAME, description="Mean per user: user_rating, success, or a column of its own."
    )
    better: Literal["higher", "lower"] = Field("higher", description="Which values of the metric are better.")
    minimum_effect: float = Field(0.3, gt=0, description="Difference of the means that must not be missed.")
    standard_deviation: float = Field(RATING_DEVIATION, gt=0, description="Expected, of the users' means.")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="Chance of a difference found where there is none.")
    power: float = Field(0.8, gt=0.5, le=0.99, description="Chance to find the minimum effect.")
    looks: int = Field(1, ge=1, le=200, description="Looks that may decide, evenly spaced by users; they share alpha.")
    look_interval_hours: float | None = Field(
        None, gt=0, le=24 * 31, description="At most one look in so many hours; empty: at every run of the analysis."
    )
    users_per_arm: int = Field(
        default_factory=_planned_users, ge=2, description="Users with the metric in each arm at the last look."
    )
    split: dict[str, float] = Field(
        default={"a": 0.5, "b": 0.5}, description="Share of users per arm: a is the champion, b the challenger."
    )
    guardrails: tuple[Guardrail, ...] = Field((), description="Metrics that must not become worse by their margins.")
    guardrail_alpha: float = Field(
        0.05, gt=0, lt=0.5, description="Chance that any guardrail ever ends a harmless experiment; spread over them."
    )
    guardrail_minimum_users: int = Field(
        30, ge=2, description="Fewest users in each arm at which a guardrail may end the experiment."
    )
    sample_ratio_threshold: float = Field(
        0.001, gt=0, lt=0.1, description="Below this p value the arms' sizes contradict the split: nothing is decided."
    )
    missing_threshold: float = Field(
        0.001, gt=0, lt=0.1, description="Below this p value the arms' users rate at different rates: a warning."
    )
    adjust_for_history: bool = Field(
        False, description="Take out what a user's metric before the experiment explains (CUPED)."
    )
    minimum_ratings_per_user: int = Field(1, ge=1, description="Users with fewer values of the metric do not count.")
    maximum_days: int = Field(30, ge=1, le=365, description="After so many days the experiment ends without a winner.")

    @field_validator("split")
    @classmethod
    def _whole(cls, split: dict[str, float]) -> dict[str, float]:
        if set(split) != {"a", "b"} or min(split.values()) <= 0 or not math.isclose(sum(split.values()), 1):
            raise ValueError("expected positive shares of a and b that sum to 1")
        return split

    @model_validator(mode="after")
    def _possible(self) -> Self:
        widest = {"user_rating": 4.0, "success": 1.0}.get(self.metric, math.inf)
        for name in ("minimum_effect", "standard_deviation"):
            if getattr(self, name) > widest:
                raise ValueError(f"{name}: expected at most {widest:g} for {self.metric}, found {getattr(self, name)}")
        names = [guardrail.metric for guardrail in self.guardrails]
        if len(set(names)) != len(names):
            raise ValueError(f"guardrails: expected each metric once, found {', '.join(names)}")
        return self

    @property
    def sign(self) -> int:
        """1 where a higher value of the metric is better, else -1."""
        return 1 if self.better == "higher" else -1

    def due_look(self, users: int, earlier: Collection[int]) -> int | None:
        """Which of the planned looks is due, from 1 to ``looks``; none where it was taken or is not reached yet.

        Args:
            users: Users with the metric in the smaller arm.
            earlier: Looks that were taken.
        """
        reached = self.looks if users >= self.users_per_arm else users * self.looks // self.users_per_arm
        return reached if reached > max(earlier, default=0) else None

    def boundaries(self, taken: Collection[int]) -> tuple[float, ...]:
        """The normal deviates that the test statistic must exceed at these looks, if no others are taken."""
        return boundaries([look / self.looks for look in sorted(taken)], self.alpha)

    def boundary(self, look: int, earlier: Collection[int] = ()) -> float:
        """The normal deviate that the test statistic must exceed at a look, after those taken before."""
        return self.boundaries({*earlier, look})[-1]

    def level_of(self, boundary: float) -> float:
        """The two-sided p value below which a look with that boundary decides."""
        return self.alpha if self.looks == 1 else float(2 * norm.sf(boundary))

    def level(self, look: int, earlier: Collection[int] = ()) -> float:
        """The two-sided p value below which a look decides, after those taken before."""
        return self.level_of(self.boundary(look, earlier))

    def users_expected(self) -> int:
        """Users of both arms together when the last look is reached: what confidence sequences are tuned for."""
        return math.ceil(self.users_per_arm / min(self.split.values()))
