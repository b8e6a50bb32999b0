"""Whether a version that has a share of its route may have more of it, must give it back, or waits: a pure function.

Compared are the users of the new and of the former version in the same stretch of time, so that what hits both, such as
a server that is down, is blamed on neither. A user counts once, for the requests of one user resemble each other. A
version is rolled back only where the difference is beyond its margin with certainty: every bound is exact
(Clopper & Pearson 1934 for shares, order statistics for the 95th percentile), and the k-th look spends
``alpha * 6 / (pi^2 k^2)``, so that all looks together are wrong with at most ``alpha`` (union bound). Without users
nothing is decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from scipy.special import betaincinv
from scipy.stats import binom

from tollgate.errors import BadInputError, Problem
from tollgate.reasons import Reason
from tollgate.settings import Settings, settings

PERCENTILE = 0.95
_GUARDRAILS = 3
_BROKEN_AFTER = 10

Action = Literal["wait", "hold", "advance", "complete", "roll_back"]


class CanaryPlan(BaseModel):
    """How a version takes over its route, fixed when the rollout begins."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[float, ...] = Field((0.05, 0.25, 1.0), min_length=1, description="Shares of the route; the last is 1.")
    dwell_seconds: float = Field(600, ge=0, description="Least seconds at each share below 1.")
    minimum_users: int = Field(20, ge=1, description="Least users of each version at each share below 1.")
    error_margin: float = Field(0.02, ge=0, le=1, description="Share of users with an error that is tolerated on top.")
    empty_margin: float = Field(0.02, ge=0, le=1, description="The same of users with an empty answer.")
    latency_ratio: float = Field(1.5, ge=1, description="Tolerated 95th percentile, as a multiple of the former's.")
    alpha: float = Field(0.01, gt=0, lt=0.5, description="Chance of a rollback without a reason, all looks together.")

    @field_validator("steps")
    @classmethod
    def _rising_to_one(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if list(steps) != sorted(set(steps)) or not 0 < steps[0] <= 1 or steps[-1] != 1:
            raise ValueError("shares must be above 0, rise, and end with 1")
        return steps

    @classmethod
    def of_settings(cls, configuration: Settings | None = None, **changes: Any) -> Self:
        """The plan of the settings, with some fields changed.

        Raises:
            BadInputError: A field has a value that it cannot have.
        """
        configuration = configuration or settings()
        fields = {
            "steps": configuration.canary_steps,
            "dwell_seconds": configuration.canary_dwell_seconds,
            "minimum_users": configuration.canary_minimum_users,
            **changes,
        }
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            problems = [
                Problem("canary." + ".".join(map(str, fault["loc"])), repr(fault["input"])[:200], fault["msg"])
                for fault in error.errors()
            ]
            raise BadInputError("The plan of the rollout is not valid.", problems) from error


@dataclass(frozen=True)
class ArmFigures:
    """What the gateway's log says about one version since the present share began.

    Args:
        requests: Requests that ended.
        bad_requests: Those with an error of the server (5xx) or an empty answer.
        users: Users with at least one request; requests without a user count as one each.
        failed_users: Those with at least one error of the server.
        answered_users: Those with at least one answer whose text or length is known.
        empty_users: Those of them with at least one empty answer.
        latencies: Milliseconds of each user's newest answer.
        untold: Answers of which the log keeps neither text nor length.
    """

    requests: int = 0
    bad_requests: int = 0
    users: int = 0
    failed_users: int = 0
    answered_users: int = 0
    empty_users: int = 0
    latencies: Sequence[float] = ()
    untold: int = 0

    @property
    def latency(self) -> float | None:
        """The 95th percentile in milliseconds."""
        return float(np.quantile(self.latencies, PERCENTILE)) if len(self.latencies) else None

    def summary(self) -> dict[str, Any]:
        """The figures as the history keeps them."""
        counts = ("requests", "bad_requests", "users", "failed_users", "answered_users", "empty_users", "untold")
        return {name: getattr(self, name) for name in counts} | {"latency_p95_ms": self.latency}


@dataclass(frozen=True)
class Decision:
    """What a look says.

    Args:
        action: ``wait``: the dwell time runs; ``hold``: too little is known to go on; ``advance``: the next share;
            ``complete``: the whole route; ``roll_back``: the former version gets the whole route.
        told: Why, in words.
    """

    action: Action
    told: tuple[Reason, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why, in English."""
        return tuple(reason.en for reason in self.told)

    @property
    def reasons_ko(self) -> tuple[str, ...]:
        """The same in Korean."""
        return tuple(reason.ko for reason in self.told)


_ERROR = Reason("an error", "오류를")
_EMPTY = Reason("an empty answer", "빈 답변을")


def look_alpha(alpha: float, look: int) -> float:
    """What look number ``look`` (from 1) may spend, so that infinitely many spend ``alpha``."""
    return alpha * 6 / (math.pi * look) ** 2


def judge(
    plan: CanaryPlan, step: int, seconds: float, look: int | None, new: ArmFigures, former: ArmFigures
) -> Decision:
    """Decide about a rollout.

    Args:
        plan: Its plan.
        step: The present share's place in the plan, from 0.
        seconds: Since the present share began.
        look: Which look of the rollout this is, from 1, where it may roll back; null where nothing came since the last.
        new: Figures of the new version.
        former: Figures of the former version.
    """
    if harm := _harm(plan, look, new, former):
        return Decision("roll_back", tuple(harm))
    if missing := _missing(plan, new, former):
        return Decision("hold", tuple(missing))
    share = plan.steps[step]
    if seconds < plan.dwell_seconds:
        passed = Reason(
            f"{seconds:.0f} of {plan.dwell_seconds:g} s at {share:.0%} have passed.",
            f"{share:.0%} 단계에서 {plan.dwell_seconds:g}초 중 {seconds:.0f}초가 지났습니다.",
        )
        return Decision("wait", (passed,))
    if doubts := [point for point, worse in _points(plan, new, former) if worse]:
        return Decision("hold", tuple(_may_be_chance(point) for point in doubts))
    goal = plan.steps[step + 1]
    users = Reason(f"{new.users} users at {share:.0%}.", f"{share:.0%} 단계의 사용자 {new.users}명.")
    told = (users, *(point for point, _ in _points(plan, new, former)))
    return Decision("complete" if goal == 1 else "advance", told)


def _may_be_chance(point: Reason) -> Reason:
    return Reason(
        f"{point.en} That may be chance; more users will tell.",
        f"{point.ko} 우연일 수 있어 사용자가 더 모이면 판단합니다.",
    )


def _harm(plan: CanaryPlan, look: int | None, new: ArmFigures, former: ArmFigures) -> list[Reason]:
    all_bad = new.users > 1 and new.requests == new.bad_requests >= _BROKEN_AFTER
    if all_bad and former.requests >= _BROKEN_AFTER and 2 * former.bad_requests <= former.requests:
        return [
            Reason(
                f"All {new.requests} requests to the new version failed or were answered with nothing.",
                f"새 버전에 대한 요청 {new.requests}건이 모두 실패했거나 빈 답변을 받았습니다.",
            )
        ]
    if look is None:
        return []
    alpha = look_alpha(plan.alpha, look) / _GUARDRAILS / 2
    checks: tuple[Callable[[], Reason | None], ...] = (
        lambda: _share_harm(_ERROR, _failed(new), _failed(former), plan.error_margin, alpha),
        lambda: _share_harm(_EMPTY, _empty(new), _empty(former), plan.empty_margin, alpha),
        lambda: _latency_harm(plan, new, former, alpha),
    )
    return [found for check in checks if (found := check())]


def _failed(arm: ArmFigures) -> tuple[int, int]:
    return arm.failed_users, arm.users


def _empty(arm: ArmFigures) -> tuple[int, int]:
    return arm.empty_users, arm.answered_users


def _share_harm(
    what: Reason, new: tuple[int, int], former: tuple[int, int], margin: float, alpha: float
) -> Reason | None:
    least, most = share_bounds(*new, alpha)[0], share_bounds(*former, alpha)[1]
    if least <= most + margin:
        return None
    return Reason(
        f"{new[0]} of {new[1]} users of the new version had {what.en}, of the former {former[0]} of {former[1]}: at "
        f"least {least:.1%} against at most {most:.1%} and {margin:.1%} tolerated on top.",
        f"{what.ko} 겪은 사용자: 새 버전 {new[1]}명 중 {new[0]}명, 이전 버전 {former[1]}명 중 {former[0]}명. 새 버전은 "
        f"최소 {least:.1%}, 이전 버전은 최대 {most:.1%}이며, 추가 허용 한도는 {margin:.1%}p입니다.",
    )


def share_bounds(hits: int, number: int, alpha: float) -> tuple[float, float]:
    """Clopper and Pearson's bounds of a share, each wrong with at most ``alpha``; 0 and 1 without observations."""
    low = 0.0 if hits == 0 else float(betaincinv(hits, number - hits + 1, alpha))
    high = 1.0 if hits == number else float(betaincinv(hits + 1, number - hits, 1 - alpha))
    return low, high


def _latency_harm(plan: CanaryPlan, new: ArmFigures, former: ArmFigures, alpha: float) -> Reason | None:
    least = quantile_bounds(new.latencies, PERCENTILE, alpha)[0]
    most = quantile_bounds(former.latencies, PERCENTILE, alpha)[1]
    if least <= plan.latency_ratio * most:
        return None
    return Reason(
        f"95 % of the new version's answers take up to {least:.0f} ms or more, of the former's {most:.0f} ms or less; "
        f"{plan.latency_ratio:g} times as long is tolerated.",
        f"답변 시간의 95백분위가 새 버전은 {least:.0f} ms 이상, 이전 버전은 {most:.0f} ms 이하입니다. 허용 한도는 "
        f"{plan.latency_ratio:g}배입니다.",
    )


def quantile_bounds(values: Sequence[float], share: float, alpha: float) -> tuple[float, float]:
    """Bounds of a quantile by order statistics, each wrong with at most ``alpha``; 0 and infinity where too few."""
    ordered, number = np.sort(np.asarray(values, dtype=float)), len(values)
    if not number:
        return 0.0, math.inf
    lower, upper = int(binom.ppf(alpha, number, share)), int(binom.ppf(1 - alpha, number, share)) + 1
    return (
        float(ordered[lower - 1]) if lower >= 1 else 0.0,
        float(ordered[upper - 1]) if upper <= number else math.inf,
    )


def _missing(plan: CanaryPlan, new: ArmFigures, former: ArmFigures) -> list[Reason]:
    few = [
        Reason(
            f"{arm.users} of {plan.minimum_users} users of the {name} version so far.",
            f"지금까지 {korean} 버전의 사용자는 {plan.minimum_users}명 중 {arm.users}명입니다.",
        )
        for name, korean, arm in (("new", "새", new), ("former", "이전", former))
        if arm.users < plan.minimum_users
    ]
    if not few and new.untold and not new.answered_users:
        return [
            Reason(
                "The gateway keeps neither texts nor lengths of answers, so empty ones cannot be seen.",
                "게이트웨이가 답변의 본문도 길이도 남기지 않아 빈 답변을 확인할 수 없습니다.",
            )
        ]
    return few


def _points(plan: CanaryPlan, new: ArmFigures, former: ArmFigures) -> list[tuple[Reason, bool]]:
    """The figures in words, and whether each is worse than tolerated as it stands, be it by chance."""
    told = []
    for what, margin, (hits, number), (before, all_before) in (
        (_ERROR, plan.error_margin, _failed(new), _failed(former)),
        (_EMPTY, plan.empty_margin, _empty(new), _empty(former)),
    ):
        share, former_share = hits / max(1, number), before / max(1, all_before)
        point = Reason(
            f"{share:.1%} of users had {what.en}, of the former's {former_share:.1%}.",
            f"{what.ko} 겪은 사용자: {share:.1%}, 이전 버전은 {former_share:.1%}.",
        )
        told.append((point, share > former_share + margin))
    if new.latency is not None and former.latency is not None:
        point = Reason(
            f"95 % of answers take up to {new.latency:.0f} ms, of the former's {former.latency:.0f} ms.",
            f"답변 시간의 95백분위: {new.latency:.0f} ms, 이전 버전은 {former.latency:.0f} ms.",
        )
        told.append((point, new.latency > plan.latency_ratio * former.latency))
    return told
