from __future__ import annotations

import numpy as np
import pytest

from tollgate.experiments.decision import Action, Analysis, Arm, Decision, decide
from tollgate.experiments.guardrails import GuardrailResult
from tollgate.experiments.plan import ExperimentPlan
from tollgate.experiments.statistics import compare, response_rates, sample_ratio

PLAN = ExperimentPlan(users_per_arm=100)


def analysis(a: np.ndarray, b: np.ndarray, *, assigned: tuple[int, int] | None = None, days: float = 3.0) -> Analysis:
    sizes = dict(zip("ab", assigned or (len(a), len(b)), strict=True))
    return Analysis(
        experiment_id=1,
        arms={name: Arm(assigned=sizes[name], users=len(values)) for name, values in {"a": a, "b": b}.items()},
        comparison=compare(a, b, PLAN.alpha) if min(len(a), len(b)) >= 2 else None,
        sample_ratio=sample_ratio(sizes, PLAN.split),
        days=days,
    )


def around(mean: float, users: int) -> np.ndarray:
    """Ratings with that mean and a deviation of about 1."""
    return mean + np.resize([-1.0, 1.0], users)


@pytest.mark.parametrize(
    ("a", "b", "options", "action", "final", "reason"),
    [
        (around(3, 100), around(4, 100), {}, Action.PROMOTE, True, "significantly better"),
        (around(3, 100), around(2, 100), {}, Action.ROLL_BACK, True, "significantly worse"),
        (around(3, 100), around(3.1, 100), {}, Action.HOLD, True, "champion stays"),
        (around(3, 200), around(4, 99), {"assigned": (200, 180)}, Action.CONTINUE, False, "a: 200, b: 99"),
        (around(3, 99), around(1, 99), {}, Action.CONTINUE, False, "asks for 100"),
        (np.array([]), np.array([]), {}, Action.CONTINUE, False, "a: 0, b: 0"),
        (np.array([]), np.array([]), {"days": 30}, Action.HOLD, True, "After 30 days"),
        (around(3, 100), around(4, 100), {"days": 31}, Action.PROMOTE, True, "significantly better"),
        (around(3, 100), around(4, 100), {"assigned": (300, 200)}, Action.HOLD, False, "contradict the split"),
        (np.array([5.0]), np.array([]), {"assigned": (30, 2), "days": 40}, Action.HOLD, False, "a: 30 (16)"),
    ],
)
def test_decisions(a: np.ndarray, b: np.ndarray, options: dict, action: Action, final: bool, reason: str) -> None:
    decision = decide(PLAN, analysis(a, b, **options))
    assert (decision.action, decision.final) == (action, final)
    assert reason in decision.reasons[0]
    assert len(decision.reasons_ko) == len(decision.reasons)
    assert any("가" <= letter <= "힣" for letter in decision.reasons_ko[0])


def test_significance_long_before_the_planned_size_decides_nothing() -> None:
    early = analysis(around(1, 60), around(5, 60))
    assert early.comparison is not None
    assert early.comparison.welch_p < 1e-9
    assert decide(PLAN, early).action is Action.CONTINUE


def test_daily_looks_find_a_winner_between_equal_arms_no_more_often_than_one() -> None:
    """A/A experiments looked at after every 20 users, until the first final decision."""
    random = np.random.default_rng(17)
    ends, peeked = [], []
    for _ in range(200):
        a, b = random.normal(3.5, 1.13, size=(2, 100))
        looks = [analysis(a[:users], b[:users]) for users in range(20, 101, 20)]
        ends.append(next(decision.action for decision in map(decide, [PLAN] * 5, looks) if decision.final))
        peeked.append(any(look.comparison and look.comparison.welch_p < PLAN.alpha for look in looks))
    assert (ends.count(Action.PROMOTE) + ends.count(Action.ROLL_BACK)) / 200 <= 0.095  # 0.05 and three standard errors
    assert sum(peeked) / 200 > 0.1  # what the same looks find when each one asks


def test_a_better_challenger_is_promoted_as_often_as_planned_and_a_worse_one_never() -> None:
    random = np.random.default_rng(18)
    plan = ExperimentPlan(minimum_effect=0.45, standard_deviation=1.13)
    users = plan.users_per_arm
    better, worse = [], []
    for _ in range(300):
        a, b = random.normal(3.5, 1.13, size=(2, users))
        better.append(decide(plan, analysis(a, b + 0.45)).action)
        worse.append(decide(plan, analysis(a, b - 0.45)).action)
    assert better.count(Action.PROMOTE) / 300 == pytest.approx(0.8, abs=0.07)
    assert worse.count(Action.PROMOTE) == 0
    assert worse.count(Action.ROLL_BACK) / 300 == pytest.approx(0.8, abs=0.07)


SEQUENTIAL = ExperimentPlan(users_per_arm=100, looks=5)


def guarded(low: float, limit: float) -> GuardrailResult:
    figures = {"a": 0.01, "b": 0.2, "harm": 0.19, "alpha": 0.0125, "users": {"a": 50, "b": 50}}
    return GuardrailResult(metric="error_share", low=low, limit=limit, violated=low > limit, **figures)


def test_a_planned_look_decides_at_its_boundary_and_only_once() -> None:
    # At 40 % of the users the boundary is 3.357 (published table): p below 0.00079.
    close = analysis(around(3, 45), around(3.6, 45))
    far = analysis(around(3, 45), around(4.2, 45))
    within, beyond = decide(SEQUENTIAL, close), decide(SEQUENTIAL, far)
    assert (within.action, within.final, within.look) == (Action.CONTINUE, False, 2)
    assert "look 2 of 5" in within.reasons[0]
    assert (beyond.action, beyond.final, beyond.look) == (Action.PROMOTE, True, 2)
    again = decide(SEQUENTIAL, far.model_copy(update={"earlier": [2]}))
    assert (again.action, again.look) == (Action.CONTINUE, None)
    assert decide(SEQUENTIAL, far.model_copy(update={"earlier": [1]})).boundary == pytest.approx(3.357, abs=1e-3)


def test_the_last_look_without_a_winner_ends_the_experiment() -> None:
    last = analysis(around(3, 100), around(3.2, 100)).model_copy(update={"earlier": [1, 2, 3, 4]})
    decision = decide(SEQUENTIAL, last)
    assert (decision.action, decision.final, decision.look) == (Action.HOLD, True, 5)
    assert decision.boundary == pytest.approx(2.031, abs=1e-3)


def test_the_last_day_ends_an_experiment_between_two_looks() -> None:
    late = analysis(around(3, 45), around(3.1, 45), days=31)
    decision = decide(SEQUENTIAL, late)
    assert (decision.action, decision.final, decision.look) == (Action.HOLD, True, 2)
    assert "After 30 days" in decision.reasons[0]


def test_shown_harm_rolls_back_at_any_look_but_not_where_the_arms_sizes_are_wrong() -> None:
    harmed = {"guardrails": [guarded(0.05, 0.01)]}
    few = analysis(around(3, 10), around(4, 10)).model_copy(update=harmed)
    decision = decide(SEQUENTIAL, few)
    assert (decision.action, decision.final) == (Action.ROLL_BACK, True)
    assert "error_share" in decision.reasons[0]
    assert "error_share" in decision.reasons_ko[0]
    winning = analysis(around(3, 100), around(4, 100)).model_copy(update=harmed)
    assert decide(SEQUENTIAL, winning).action is Action.ROLL_BACK
    lost = analysis(around(3, 100), around(4, 100), assigned=(300, 200)).model_copy(update=harmed)
    assert decide(SEQUENTIAL, lost).action is Action.HOLD
    harmless = few.model_copy(update={"guardrails": [guarded(0.005, 0.01)]})
    assert decide(SEQUENTIAL, harmless).action is Action.CONTINUE


def test_different_response_rates_warn_and_decide_nothing() -> None:
    rates = response_rates({"a": 100, "b": 100}, {"a": 110, "b": 180})
    seen = analysis(around(3, 100), around(4, 100))
    decision = decide(PLAN, seen.model_copy(update={"response": rates}))
    assert decision.action is Action.PROMOTE
    assert "different rates" in decision.warnings[0]
    assert len(decision.warnings) == len(decision.warnings_ko)
    assert decide(PLAN, seen).warnings == []


def test_a_pace_that_will_not_do_is_said_early() -> None:
    slow = decide(PLAN, analysis(around(3, 5), around(4, 5), days=5))
    assert "about 30 users" in slow.warnings[0]
    assert decide(PLAN, analysis(around(3, 50), around(4, 50), days=5)).warnings == []


def test_where_less_is_better_less_is_promoted() -> None:
    fields = {"metric": "response_time_ms", "better": "lower", "minimum_effect": 20, "standard_deviation": 50}
    plan = ExperimentPlan(users_per_arm=100, **fields)
    decision = decide(plan, analysis(around(300, 100), around(200, 100)))
    assert decision.action is Action.PROMOTE
    assert "response_time_ms" in decision.reasons[0]
    assert decide(plan, analysis(around(200, 100), around(300, 100))).action is Action.ROLL_BACK


def test_records_of_earlier_releases_can_still_be_read() -> None:
    old = {"action": "continue", "final": False, "reasons": ["few"], "reasons_ko": ["적음"]}
    assert Decision.model_validate(old).look is None
    stored = analysis(around(3, 5), around(4, 5)).model_dump(mode="json")
    for name in ("guardrails", "sequence", "response", "adjustment", "earlier"):
        stored.pop(name)
    assert Analysis.model_validate(stored).guardrails == []
