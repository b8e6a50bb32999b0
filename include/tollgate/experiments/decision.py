"""What follows from one look at an experiment: continue, promote, roll back or hold, with the reasons in words.

Significance is asked at the planned looks only, which share alpha. A t-test looked at every day for a month finds a
difference between equal arms in 28 % of all experiments. Guardrails may be looked at always: they hold at all times.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum

from pydantic import BaseModel

from tollgate.experiments.guardrails import GuardrailResult
from tollgate.experiments.plan import ExperimentPlan
from tollgate.experiments.sequential import deviate
from tollgate.experiments.statistics import Adjustment, Comparison, ResponseRates, SampleRatio


class Action(StrEnum):
    """What to do with the challenger."""

    CONTINUE = "continue"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    HOLD = "hold"


class Arm(BaseModel):
    """One arm at a look.

    Attributes:
        assigned: Users given this arm.
        served: Of these, users whom the arm's own model gave an answer.
        users: Of these, users with enough values of the metric, such as ratings.
        ratings: Their values.
        mean: Mean of the users' means; none without users.
        requests: Requests that the arm's own model answered.
        response_time_ms: Mean milliseconds of these; none without requests.
    """

    assigned: int = 0
    served: int = 0
    users: int = 0
    ratings: int = 0
    mean: float | None = None
    requests: int = 0
    response_time_ms: float | None = None


class Analysis(BaseModel):
    """All figures of one look.

    Attributes:
        arms: ``a`` (champion) and ``b`` (challenger).
        comparison: None while an arm has fewer than two users.
        sequence: Ends of the difference's confidence sequence at the plan's alpha, which holds at all looks together.
        guardrails: Each of the plan's.
        response: Whether both arms' users rate equally often.
        adjustment: What history explained, where the plan asks for it; ``comparison`` is then of the adjusted values.
        earlier: Planned looks that were taken before, from 1 to the plan's ``looks``.
        days: Since the experiment's start.
        foreign_ratings: Ratings left out because another model than the arm's own had answered.
        crossed_users: Users left out because they were seen in both arms.
    """

    experiment_id: int
    arms: dict[str, Arm]
    comparison: Comparison | None
    sample_ratio: SampleRatio
    sequence: tuple[float, float] | None = None
    guardrails: list[GuardrailResult] = []
    response: ResponseRates | None = None
    adjustment: Adjustment | None = None
    earlier: list[int] = []
    days: float
    foreign_ratings: int = 0
    crossed_users: int = 0


class Decision(BaseModel):
    """An action with its reasons.

    Attributes:
        final: Whether the experiment ends with it. A hold that is not final waits for a person; a final hold means that
            the champion stays and nobody won.
        reasons: Plain words.
        reasons_ko: The same in Korean.
        warnings: What a reader should know besides.
        warnings_ko: The same in Korean.
        look: Which of the planned looks this was, from 1; none where none was due.
        boundary: The normal deviate that the test had to exceed at it.
    """

    action: Action
    final: bool
    reasons: list[str]
    reasons_ko: list[str]
    warnings: list[str] = []
    warnings_ko: list[str] = []
    look: int | None = None
    boundary: float | None = None


def decide(plan: ExperimentPlan, analysis: Analysis) -> Decision:
    """Decide by the plan. Pure: the same figures give the same decision.

    In this order: arms' sizes that contradict the split hold everything; shown harm rolls back; a planned look that is
    due promotes, rolls back or, if it is the last, ends; without one the experiment goes on until its last day.
    """
    decision = _decide(plan, analysis)
    warned = [*_response_warning(plan, analysis), *_pace_warning(plan, analysis, decision)]
    return decision.model_copy(update={"warnings": [en for en, _ in warned], "warnings_ko": [ko for _, ko in warned]})


def _decide(plan: ExperimentPlan, analysis: Analysis) -> Decision:
    ratio = analysis.sample_ratio
    if ratio.p_value < plan.sample_ratio_threshold:
        return _mismatch(ratio, plan.sample_ratio_threshold)
    if harmed := [guardrail for guardrail in analysis.guardrails if guardrail.violated]:
        return _harmed(harmed)
    users = {name: arm.users for name, arm in analysis.arms.items()}
    look = plan.due_look(min(users.values()), analysis.earlier)
    if analysis.comparison is None or look is None:
        return _too_few(plan, users, analysis.days)
    decision = _by_difference(plan, analysis.comparison, look, analysis.earlier)
    if not decision.final and analysis.days >= plan.maximum_days:
        ended = _too_few(plan, users, analysis.days)
        return ended.model_copy(update={"look": decision.look, "boundary": decision.boundary})
    return decision


def _harmed(harmed: Sequence[GuardrailResult]) -> Decision:
    return Decision(
        action=Action.ROLL_BACK,
        final=True,
        reasons=[
            f"Guardrail {one.metric}: the challenger is worse by {one.harm:.4g} (A {one.a:.4g}, B {one.b:.4g}) and, "
            f"with {1 - one.alpha:.2%} confidence at all looks together, by at least {one.low:.4g}; tolerated is "
            f"{one.limit:.4g}."
            for one in harmed
        ],
        reasons_ko=[
            f"보호 지표 {one.metric}: 후보 모델이 {one.harm:.4g}만큼 나쁩니다(A {one.a:.4g}, B {one.b:.4g}). 모든 중간 "
            f"확인을 통틀어 {1 - one.alpha:.2%} 신뢰도로 최소 {one.low:.4g} 나쁘며, 허용 한도는 {one.limit:.4g}입니다."
            for one in harmed
        ],
    )


def _response_warning(plan: ExperimentPlan, analysis: Analysis) -> list[tuple[str, str]]:
    response = analysis.response
    if response is None or response.p_value >= plan.missing_threshold:
        return []
    shares = ", ".join(f"{arm}: {response.rated[arm]}/{asked}" for arm, asked in sorted(response.asked.items()))
    figures = f"{shares}, p = {response.p_value:.1e}"
    return [
        (
            f"The arms' users give ratings at different rates ({figures}): those who don't may be the unhappy ones of "
            "one arm, so that the means don't compare like with like.",
            f"두 실험군의 사용자가 평점을 남기는 비율이 다릅니다({figures}). 한쪽 실험군에서 불만족한 사용자가 평점을 "
            "남기지 않았을 수 있으니 평균을 그대로 비교하기 어렵습니다.",
        )
    ]


def _pace_warning(plan: ExperimentPlan, analysis: Analysis, decision: Decision) -> list[tuple[str, str]]:
    """Few users a day: say early that the plan will not be reached."""
    users = min(arm.users for arm in analysis.arms.values())
    if decision.final or analysis.days < 1 or users >= plan.users_per_arm:
        return []
    expected = users / analysis.days * plan.maximum_days
    if expected >= plan.users_per_arm:
        return []
    return [
        (
            f"At the present pace there will be about {expected:.0f} users in the smaller arm on day "
            f"{plan.maximum_days}; the plan asks for {plan.users_per_arm}. Then the champion stays.",
            f"현재 속도라면 {plan.maximum_days}일째에 작은 실험군의 사용자는 약 {expected:.0f}명이며, 계획은 "
            f"{plan.users_per_arm}명입니다. 그때까지 부족하면 운영 모델을 유지합니다.",
        )
    ]


def _mismatch(ratio: SampleRatio, threshold: float) -> Decision:
    counts = ", ".join(f"{arm}: {count} ({ratio.expected[arm]:.0f})" for arm, count in ratio.observed.items())
    figures = f"p = {ratio.p_value:.1e} < {threshold:g}"
    return Decision(
        action=Action.HOLD,
        final=False,
        reasons=[
            f"The arms' sizes contradict the split, observed (expected): {counts}; {figures}. Users were lost on the "
            "way to one arm, so its ratings say nothing. Find the cause before deciding."
        ],
        reasons_ko=[
            f"실험군의 크기가 배분 비율과 맞지 않습니다. 관측(기대): {counts}, {figures}. "
            "한쪽 실험군에서 사용자가 누락되어 평점을 믿을 수 없으니, 원인을 먼저 찾아야 합니다."
        ],
    )


def _too_few(plan: ExperimentPlan, users: Mapping[str, int], days: float) -> Decision:
    counts = ", ".join(f"{arm}: {count}" for arm, count in sorted(users.items()))
    if days < plan.maximum_days:
        return Decision(
            action=Action.CONTINUE,
            final=False,
            reasons=[f"Rated users so far: {counts}. The plan asks for {plan.users_per_arm} in each arm."],
            reasons_ko=[f"현재 평가한 사용자 수: {counts}. 계획은 실험군마다 {plan.users_per_arm}명입니다."],
        )
    return Decision(
        action=Action.HOLD,
        final=True,
        reasons=[
            f"After {plan.maximum_days} days there are too few rated users ({counts}; planned: {plan.users_per_arm} in "
            "each arm). Nothing was shown, so the champion stays."
        ],
        reasons_ko=[
            f"{plan.maximum_days}일이 지났지만 평가한 사용자가 부족합니다({counts}, 계획: 실험군마다 "
            f"{plan.users_per_arm}명). 확인된 것이 없으므로 운영 모델을 유지합니다."
        ],
    )


def _by_difference(plan: ExperimentPlan, comparison: Comparison, look: int, earlier: Collection[int]) -> Decision:
    boundary = plan.boundary(look, earlier)
    taken = {"look": look, "boundary": boundary if math.isfinite(boundary) else None}
    figures, figures_ko = _figures(plan, comparison, look, boundary)
    if comparison.welch_p >= plan.level(look, earlier):
        return _undecided(plan, look, figures, figures_ko).model_copy(update=taken)
    if comparison.difference * plan.sign > 0:
        return Decision(
            action=Action.PROMOTE,
            final=True,
            reasons=[f"The challenger is {_judged(plan)} significantly better: {figures}."],
            reasons_ko=[
                f"후보 모델의 {_named(plan)} 유의하게 더 {'좋습니다' if _own(plan) else '높습니다'}: {figures_ko}."
            ],
            **taken,
        )
    return Decision(
        action=Action.ROLL_BACK,
        final=True,
        reasons=[f"The challenger is {_judged(plan)} significantly worse: {figures}."],
        reasons_ko=[
            f"후보 모델의 {_named(plan)} 유의하게 더 {'나쁩니다' if _own(plan) else '낮습니다'}: {figures_ko}."
        ],
        **taken,
    )


def _own(plan: ExperimentPlan) -> bool:
    """Whether the metric is another than the rating, of which lower may be better."""
    return plan.metric != "user_rating"


def _judged(plan: ExperimentPlan) -> str:
    return f"by {plan.metric}" if _own(plan) else "rated"


def _named(plan: ExperimentPlan) -> str:
    return f"{plan.metric} 지표가" if _own(plan) else "평점이"


def _undecided(plan: ExperimentPlan, look: int, figures: str, figures_ko: str) -> Decision:
    if look < plan.looks:
        return Decision(
            action=Action.CONTINUE,
            final=False,
            reasons=[f"The difference is within the boundary of this look: {figures}."],
            reasons_ko=[f"차이가 이번 중간 확인의 경계 안에 있습니다: {figures_ko}."],
        )
    return Decision(
        action=Action.HOLD,
        final=True,
        reasons=[f"At the planned size the ratings do not differ significantly: {figures}. The champion stays."],
        reasons_ko=[f"계획한 표본에서 평점 차이가 유의하지 않습니다: {figures_ko}. 운영 모델을 유지합니다."],
    )


def _figures(plan: ExperimentPlan, comparison: Comparison, look: int, boundary: float) -> tuple[str, str]:
    level = f"{comparison.confidence:.0%}"
    shown = (
        f"{comparison.difference:+.3f} ({level}: {comparison.low:+.3f} … {comparison.high:+.3f}; "
        f"Welch p = {comparison.welch_p:.4f}, Mann-Whitney p = {comparison.mann_whitney_p:.4f}; "
        f"n = {comparison.a.users} + {comparison.b.users}"
    )
    if plan.looks == 1:
        return f"{shown})", f"{shown})"
    statistic = float(deviate(comparison.welch_p))
    test = f"|z| = {statistic:.2f}"
    return (
        f"{shown}; look {look} of {plan.looks}, {test}, boundary {boundary:.2f})",
        f"{shown}; 중간 확인 {look}/{plan.looks}, {test}, 경계 {boundary:.2f})",
    )
