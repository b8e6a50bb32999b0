from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from tollgate.experiments.plan import ExperimentPlan, detectable_effect, power_at, sample_size


@pytest.mark.parametrize(
    ("effect", "deviation", "alpha", "power", "users"),
    [
        (1.0, 1.0, 0.05, 0.90, 23),  # R, power.t.test(power = .90, delta = 1): n = 22.02110
        (0.2, 1.0, 0.05, 0.80, 394),  # Cohen 1988, table 2.4.1: d = 0.2, 0.5, 0.8 take 393 to 394, 64, 26
        (0.5, 1.0, 0.05, 0.80, 64),
        (0.8, 1.0, 0.05, 0.80, 26),
        (0.317, 1.13, 0.05, 0.80, 201),
        (4.0, 0.1, 0.05, 0.80, 2),
    ],
)
def test_sample_sizes_of_published_tables(
    effect: float, deviation: float, alpha: float, power: float, users: int
) -> None:
    assert sample_size(effect, deviation, alpha, power) == users


def test_power_of_a_published_example() -> None:
    assert power_at(20, 1, 1) == pytest.approx(0.8689528, abs=1e-6)  # R, power.t.test(n = 20, delta = 1)


def test_two_hundred_users_find_a_third_of_a_point() -> None:
    assert detectable_effect(200, 1.13) == pytest.approx(0.317, abs=5e-4)


@pytest.mark.parametrize("users", [2, 5, 100, 1_000_000])
@pytest.mark.parametrize(("alpha", "power"), [(0.001, 0.99), (0.05, 0.8), (0.4, 0.55)])
def test_the_detectable_effect_has_the_power(users: int, alpha: float, power: float) -> None:
    assert power_at(users, detectable_effect(users, 1.13, alpha, power), 1.13, alpha) == pytest.approx(power, abs=1e-6)


def test_planned_power_is_what_simulated_ratings_give() -> None:
    random = np.random.default_rng(3)
    users = sample_size(0.3, 1.13)
    a = random.normal(3.5, 1.13, size=(4000, users))
    b = random.normal(3.8, 1.13, size=(4000, users))
    found = stats.ttest_ind(b, a, axis=1, equal_var=False).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.025)


def test_a_plan_computes_its_size_unless_told() -> None:
    plan = ExperimentPlan(minimum_effect=0.5, standard_deviation=1)
    assert plan.users_per_arm == 64
    assert ExperimentPlan(users_per_arm=150).users_per_arm == 150
    assert ExperimentPlan.model_validate(plan.model_dump(mode="json")) == plan


@pytest.mark.parametrize(
    "wrong",
    [
        {"split": {"a": 0.5, "b": 0.6}},
        {"split": {"a": 1.0, "b": 0.0}},
        {"split": {"a": 0.5, "c": 0.5}},
        {"split": {}},
        {"minimum_effect": 0},
        {"power": 1.5},
        {"user_per_arm": 10},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ExperimentPlan(**wrong)


def test_several_looks_take_a_few_more_users() -> None:
    one, many = ExperimentPlan(), ExperimentPlan(looks=30)
    assert one.users_per_arm < many.users_per_arm <= 1.06 * one.users_per_arm
    assert one.level(1) == one.alpha
    assert many.level(30, range(1, 30)) < many.alpha


def test_a_look_is_due_once_its_users_are_there() -> None:
    plan = ExperimentPlan(users_per_arm=100, looks=5)
    assert [plan.due_look(users, []) for users in (0, 19, 20, 59, 100, 150)] == [None, None, 1, 2, 5, 5]
    assert plan.due_look(59, [2]) is None
    assert plan.due_look(85, [1, 2]) == 4, "looks that were missed are left out"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"metric": "success", "minimum_effect": 0.05}, "standard_deviation"),
        ({"minimum_effect": 5}, "minimum_effect"),
        ({"metric": "a b"}, "metric"),
        ({"looks": 0}, "looks"),
        ({"guardrails": [{"metric": "x", "margin": 1}]}, "better"),
    ],
)
def test_metrics_and_looks_that_make_no_sense_are_refused(wrong: dict, named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        ExperimentPlan(**wrong)
