"""The figures of the command ``simulate`` on fewer experiments, and its rules against those of ``decide``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tollgate.errors import BadInputError
from tollgate.experiments.decision import Action, Arm, decide
from tollgate.experiments.looks import Observations, examine
from tollgate.experiments.plan import GUARDRAILS, ExperimentPlan, Guardrail
from tollgate.experiments.simulation import (
    BASE_SHARES,
    CONTINUES,
    ENDED,
    PROMOTED,
    RATINGS,
    ROLLED_BACK,
    Scenario,
    decide_all,
    draw,
    planned_traffic,
    simulate,
    tilted,
)

PLAN = ExperimentPlan(looks=30, guardrails=GUARDRAILS)
CODES = {Action.PROMOTE: PROMOTED, Action.ROLL_BACK: ROLLED_BACK, Action.HOLD: ENDED, Action.CONTINUE: CONTINUES}


def run(effect: float, simulations: int) -> dict:
    return simulate(PLAN, Scenario(effect, planned_traffic(PLAN)), simulations, seed=5).model_dump()


def test_equal_arms_are_rarely_told_apart_by_hourly_looks() -> None:
    equal = run(0.0, 1000)
    assert equal["promoted"] <= 0.05
    assert equal["promoted"] + equal["rolled_back"] <= 0.072  # 0.05 and three standard errors
    assert equal["peeking_any"] > 0.25, "what a t-test at every look does"


def test_harm_is_rolled_back_before_the_end_and_never_promoted() -> None:
    harmful = run(-0.5, 500)
    assert harmful["rolled_back_early"] >= 0.9
    assert harmful["promoted"] == 0


def test_the_planned_effect_is_found_as_often_as_planned() -> None:
    assert run(PLAN.minimum_effect, 1000)["promoted"] >= 0.8 - 0.026  # two standard errors


def as_users(sums: Any, hour: int, row: int, values: np.ndarray) -> np.ndarray:
    """Values with the same number, sum and sum of squares as the simulated ones: all that the rules look at."""
    users = round(float(sums.users[row, hour]))
    if users == 0:
        return np.zeros(0)
    mean = sums.total[row, hour] / users
    spread = np.sqrt(max(0.0, sums.squares[row, hour] / users - mean**2))
    shape = np.linspace(-1, 1, users) if users > 1 else np.zeros(1)
    return mean + spread * (shape / shape.std() if users > 1 else shape)


@pytest.mark.parametrize(("effect", "extra_errors"), [(0.0, 0.0), (0.8, 0.0), (-0.7, 0.0), (0.0, 0.3)])
def test_the_simulated_rules_are_those_of_decide(effect: float, extra_errors: float) -> None:
    guardrails = (Guardrail(metric="user_rating", margin=0.1), Guardrail(metric="error_share", margin=0.02))
    plan = ExperimentPlan(users_per_arm=60, looks=6, guardrails=guardrails, maximum_days=10)
    world = draw(plan, Scenario(effect, 16, extra_errors=extra_errors), 4, np.random.default_rng(11))
    ends = decide_all(plan, world)
    expected = PROMOTED if effect > 0 else ROLLED_BACK if effect < 0 or extra_errors else ENDED
    assert expected in ends.decision
    for row in range(4):
        earlier: list[int] = []
        found = (ENDED, plan.maximum_days * 24 - 1)
        for hour in range(plan.maximum_days * 24):
            arms = {arm: as_users(world.sums["user_rating"][arm], hour, row, RATINGS) for arm in ("a", "b")}
            errors = {arm: as_users(world.sums["error_share"][arm], hour, row, RATINGS) for arm in ("a", "b")}
            counts = {arm: Arm(assigned=one.size, users=one.size) for arm, one in arms.items()}
            seen = Observations(means=arms, arms=counts, guardrail_means={"user_rating": arms, "error_share": errors})
            decision = decide(plan, examine(plan, seen, 1, (hour + 1) / 24 - 1e-6, earlier))
            if decision.final:
                found = (CODES[decision.action], hour)
                break
            if decision.look is not None:
                earlier.append(decision.look)
        assert (ends.decision[row], ends.hour[row]) == found


def test_the_same_seed_gives_the_same_figures() -> None:
    assert run(0.0, 20) == run(0.0, 20)


def test_simulated_ratings_have_the_asked_effect() -> None:
    assert float(RATINGS @ BASE_SHARES) == pytest.approx(3.62)
    for shift in (-0.5, 0.3, 1.2):
        shares = tilted(BASE_SHARES, shift)
        assert shares.sum() == pytest.approx(1)
        assert float(RATINGS @ shares) == pytest.approx(3.62 + shift)
    with pytest.raises(BadInputError, match="effect"):
        tilted(BASE_SHARES, 2.0)


def test_what_cannot_be_simulated_is_refused() -> None:
    plan = ExperimentPlan(metric="success", minimum_effect=0.05, standard_deviation=0.3)
    with pytest.raises(BadInputError, match="user_rating"):
        simulate(plan, Scenario(), 10)
