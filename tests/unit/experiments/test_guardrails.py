from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tollgate.experiments.guardrails import GuardrailResult, Requests, watch
from tollgate.experiments.plan import ExperimentPlan, Guardrail

SHARES = st.lists(st.floats(0, 1), min_size=2, max_size=60)


def plan(*guardrails: Guardrail, users: int = 200) -> ExperimentPlan:
    return ExperimentPlan(users_per_arm=users, guardrails=guardrails)


def mean_of(guardrail: Guardrail, a: list | np.ndarray, b: list | np.ndarray, **more: int) -> GuardrailResult:
    arms = {"a": np.asarray(a, dtype=float), "b": np.asarray(b, dtype=float)}
    [found] = watch(plan(guardrail, **more), {guardrail.metric: arms}, {})
    return found


def latencies(seed: int, users: int, scale: float) -> Requests:
    """Eight requests of each user, slower ones of slower users."""
    random = np.random.default_rng(seed)
    own = random.lognormal(0, 0.3, size=(users, 1))
    values = scale * own * random.lognormal(0, 0.4, size=(users, 8))
    return Requests(values.ravel(), np.repeat(np.arange(users), 8))


ERRORS = Guardrail(metric="error_share", margin=0.02)
SLOW = Guardrail(metric="response_time_p95_ms", margin=0.2, relative=True)


def test_harm_beyond_the_margin_is_shown_and_harm_within_is_not() -> None:
    a, worse = np.resize([0, 0, 0, 0.1], 300), np.resize([0, 0.4, 0.2, 0.3], 300)
    shown = mean_of(ERRORS, a, worse)
    assert shown.violated
    assert shown.harm == pytest.approx(0.2)
    assert shown.low is not None
    assert 0.02 < shown.low < 0.2
    assert not mean_of(ERRORS, worse, a).violated, "less is better"
    assert not mean_of(Guardrail(metric="error_share", margin=0.25), a, worse).violated


def test_higher_is_better_where_the_metric_says_so() -> None:
    good, bad = np.resize([4.0, 5.0], 200), np.resize([3.0, 4.0], 200)
    rating = Guardrail(metric="user_rating", margin=0.1)
    own = Guardrail(metric="clicks", margin=0.1, better="higher")
    for guardrail in (rating, own):
        assert mean_of(guardrail, good, bad).violated
        assert not mean_of(guardrail, bad, good).violated


def test_a_relative_margin_is_a_share_of_the_champions_value() -> None:
    a, b = np.resize([90.0, 110.0], 400), np.resize([115.0, 135.0], 400)
    within = mean_of(Guardrail(metric="response_time_ms", margin=0.3, relative=True), a, b)
    beyond = mean_of(Guardrail(metric="response_time_ms", margin=0.2, relative=True), a, b)
    assert (within.limit, beyond.limit) == (pytest.approx(30), pytest.approx(20))
    assert (within.violated, beyond.violated) == (False, True)


def test_few_users_never_end_an_experiment() -> None:
    assert not mean_of(ERRORS, [0.0] * 29, [1.0] * 29).violated
    assert mean_of(ERRORS, [0.0] * 30, [1.0] * 30).violated, "all fail: no variance, and no doubt"
    nobody = mean_of(ERRORS, [], [1.0])
    assert (nobody.harm, nobody.a, nobody.violated) == (None, None, False)


def test_alpha_is_spread_over_the_guardrails() -> None:
    rating = Guardrail(metric="user_rating", margin=0.1)
    a, b = np.resize([0, 0.1], 100), np.resize([0, 0.2], 100)
    chosen = plan(ERRORS, rating)
    both = watch(chosen, {"error_share": {"a": a, "b": b}, "user_rating": {"a": a, "b": b}}, {})
    alone = mean_of(ERRORS, a, b)
    assert [one.alpha for one in both] == [0.025, 0.025]
    assert alone.low is not None
    assert both[0].low is not None
    assert alone.low > both[0].low


def test_a_slower_tail_is_shown() -> None:
    arms = {"a": latencies(1, 800, 100), "b": latencies(2, 800, 200)}
    [found] = watch(plan(SLOW, users=800), {}, {SLOW.metric: arms})
    assert found.a == pytest.approx(np.quantile(arms["a"].values, 0.95))
    assert found.violated
    assert found.low is not None
    assert found.harm is not None
    assert found.limit is not None
    assert found.limit < found.low < found.harm
    [other] = watch(plan(SLOW, users=800), {}, {SLOW.metric: {"a": arms["b"], "b": arms["a"]}})
    assert not other.violated


def test_equal_tails_at_the_margin_are_called_slower_in_few_of_many_looks() -> None:
    """B's 95th percentile is exactly the margin greater; looked at after every 100 users."""
    violated = []
    for seed in range(120):
        a, b = latencies(2 * seed, 600, 100), latencies(2 * seed + 1, 600, 120)
        looks = [
            watch(
                plan(SLOW, users=600),
                {},
                {SLOW.metric: {arm: Requests(one.values[: 8 * n], one.users[: 8 * n]) for arm, one in arms.items()}},
            )[0].violated
            for arms in [{"a": a, "b": b}]
            for n in range(100, 601, 100)
        ]
        violated.append(any(looks))
    assert np.mean(violated) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 120)


@given(SHARES, SHARES, st.floats(0, 0.5))
@settings(max_examples=60)
def test_the_bound_lies_below_the_harm_and_more_margin_never_makes_harm(a: list, b: list, margin: float) -> None:
    tight = mean_of(Guardrail(metric="error_share", margin=margin), a, b)
    wide = mean_of(Guardrail(metric="error_share", margin=margin + 0.1), a, b)
    assert tight.low is not None
    assert tight.harm is not None
    assert tight.low <= tight.harm + 1e-9
    assert tight.violated or not wide.violated


def test_a_guardrail_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="better"):
        Guardrail(metric="my_own", margin=0.1)
    with pytest.raises(ValidationError, match="margin"):
        Guardrail(metric="error_share", margin=-1)
    with pytest.raises(ValidationError, match="once"):
        ExperimentPlan(guardrails=[{"metric": "error_share", "margin": 0.1}, {"metric": "error_share", "margin": 0.2}])
