from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tollgate.evaluation.paired import (
    difference_lower_bound,
    mcnemar_mid_p,
    mcnemar_worse_p,
    worse_than_margin_p,
)


@pytest.mark.parametrize(
    ("better", "worse", "p_value"),
    [
        (1, 7, 0.0390625),  # Fagerland, Lydersen and Laake 2013, airway hyper-responsiveness: 0.039
        (6, 16, 0.0346889),  # the same, complete response: 0.035
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 0.03125),
    ],
)
def test_mid_p_of_published_tables(better: int, worse: int, p_value: float) -> None:
    assert mcnemar_mid_p(better, worse) == pytest.approx(p_value, abs=1e-6)
    assert mcnemar_mid_p(worse, better) == mcnemar_mid_p(better, worse)


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 200))
def test_mid_p_is_the_exact_test_less_half_the_observed_point(better: int, worse: int) -> None:
    mid = mcnemar_mid_p(better, worse)
    assert 0 <= mid <= 1
    if better + worse:
        assert mid <= binomtest(better, better + worse).pvalue + 1e-12


@pytest.mark.parametrize(
    ("better", "worse", "cases", "confidence", "bound"),
    [
        (28, 25, 618, 0.95, -0.0148),  # R, PropCIs::scoreci.mp(25, 28, 618), 90 %: -0.0148 to 0.0247
        (25, 28, 618, 0.95, -0.0247),
        (48, 41, 549, 0.95, -0.0157),  # R, PropCIs::scoreci.mp(41, 48, 549), 90 %: -0.0157 to 0.0414
        (41, 48, 549, 0.95, -0.0414),
        (1, 7, 21, 0.975, -0.5172),  # Fagerland, Lydersen and Laake 2014: Tango -0.517 to -0.026
        (7, 1, 21, 0.975, 0.0260),
        (0, 50, 50, 0.95, -1.0),
    ],
)
def test_tangos_bound_equals_published_values(
    better: int, worse: int, cases: int, confidence: float, bound: float
) -> None:
    assert difference_lower_bound(better, worse, cases, confidence) == pytest.approx(bound, abs=6e-5)


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 400))
def test_the_bound_lies_below_the_estimate_and_grows_with_every_better_case(better: int, worse: int, rest: int) -> None:
    cases = better + worse + rest
    bound = difference_lower_bound(better, worse, cases)
    assert -1 <= bound < (better - worse) / cases
    assert difference_lower_bound(better + 1, worse, cases) > bound


def test_the_bound_covers_the_true_difference_as_often_as_it_says() -> None:
    random = np.random.default_rng(7)
    # True rates: 4 % only candidate right, 6 % only champion: difference -0.02, the margin itself.
    tables = random.multinomial(400, [0.04, 0.06, 0.90], size=2000)
    covered = np.mean([difference_lower_bound(b, c, 400) <= -0.02 for b, c, _ in tables])
    assert 0.935 <= covered <= 0.965


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 7), (7, 1), (5, 5), (0, 12)])
def test_the_one_sided_mid_p_is_half_of_the_two_sided_one_on_the_worse_side(better: int, worse: int) -> None:
    one_sided = mcnemar_worse_p(better, worse)
    assert one_sided + mcnemar_worse_p(worse, better) == pytest.approx(1)
    if worse > better:
        assert 2 * one_sided == pytest.approx(mcnemar_mid_p(better, worse))


@pytest.mark.parametrize(("better", "worse", "cases"), [(5, 8, 400), (0, 0, 100), (2, 12, 60), (3, 30, 100)])
def test_the_score_test_and_the_score_bound_say_the_same(better: int, worse: int, cases: int) -> None:
    bound = difference_lower_bound(better, worse, cases)
    assert 1 - worse_than_margin_p(better, worse, cases, -bound) == pytest.approx(0.05, abs=1e-6)


def test_being_worse_by_more_than_the_margin_is_rarely_found_where_it_is_not_so() -> None:
    random = np.random.default_rng(8)
    tables = random.multinomial(100, [0.03, 0.13, 0.84], size=4000)  # exactly the margin below
    found = np.mean([worse_than_margin_p(b, c, 100, 0.10) <= 0.05 for b, c, _ in tables.tolist()])
    assert found <= 0.075  # the score test is a little liberal here: 0.065 over 20,000 draws
