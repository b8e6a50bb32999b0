from __future__ import annotations

import numpy as np
import pytest

from tollgate.experiments.decision import Action, Analysis, Arm, decide
from tollgate.experiments.plan import ExperimentPlan
from tollgate.experiments.statistics import compare, sample_ratio

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
