from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tollgate.evaluation.paired import cases_for_margin, difference_lower_bound, mcnemar_mid_p


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


@pytest.mark.parametrize(("better", "worse", "cases"), [(5, 8, 400), (0, 0, 100), (20, 20, 200), (3, 3, 120)])
def test_the_number_of_cases_for_a_margin_is_the_smallest_that_shows_it(better: int, worse: int, cases: int) -> None:
    needed = cases_for_margin(better, worse, cases, 0.02)
    assert needed is not None
    assert needed > cases
    enough, short = needed / cases, (needed - 1) / cases
    assert difference_lower_bound(better * enough, worse * enough, needed) >= -0.02
    assert difference_lower_bound(better * short, worse * short, needed - 1) < -0.02


def test_no_number_of_cases_shows_a_margin_that_the_estimate_misses() -> None:
    assert cases_for_margin(2, 12, 400, 0.02) is None
    assert cases_for_margin(20, 2, 400, 0.02) == 400
