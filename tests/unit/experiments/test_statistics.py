from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tollgate.experiments.statistics import adjust, compare, response_rates, sample_ratio

# Screws of two suppliers (Wikipedia, "Student's t-test", worked examples): p = 0.09077 with unequal variances.
SCREWS_1 = [30.02, 29.99, 30.11, 29.97, 30.01, 29.99]
SCREWS_2 = [29.89, 29.93, 29.72, 29.98, 30.02, 29.98]
# Student's sleep data (R's `sleep`): t.test(extra ~ group) gives t = -1.8608, p = 0.07939, interval -3.3655 to 0.2055.
SLEEP_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def test_welch_of_published_examples() -> None:
    sleep = compare(SLEEP_1, SLEEP_2)
    assert sleep.welch_t == pytest.approx(1.8608, abs=5e-5)
    assert sleep.welch_p == pytest.approx(0.07939, abs=5e-6)
    assert (sleep.low, sleep.high) == (pytest.approx(-0.2054832, abs=1e-6), pytest.approx(3.3654832, abs=1e-6))
    assert sleep.difference == pytest.approx(1.58)
    assert compare(SCREWS_2, SCREWS_1).welch_p == pytest.approx(0.09077, abs=5e-6)


def test_mann_whitney_of_a_published_example() -> None:
    # R, wilcox.test(extra ~ group, exact = FALSE): W = 25.5 for group 1, p = 0.06933.
    sleep = compare(SLEEP_1, SLEEP_2)
    assert sleep.mann_whitney_u == 10 * 10 - 25.5
    assert sleep.mann_whitney_p == pytest.approx(0.06933, abs=5e-6)


def test_effect_size_is_cohens_d_corrected_for_small_samples() -> None:
    d = 1.58 / math.sqrt((np.var(SLEEP_1, ddof=1) + np.var(SLEEP_2, ddof=1)) / 2)
    assert compare(SLEEP_1, SLEEP_2).effect_size == pytest.approx(d * (1 - 3 / (4 * 18 - 1)))


def test_exchanging_the_arms_turns_every_sign() -> None:
    there, back = compare(SLEEP_1, SLEEP_2), compare(SLEEP_2, SLEEP_1)
    assert (back.difference, back.low, back.high) == (-there.difference, -there.high, -there.low)
    assert (back.welch_p, back.mann_whitney_p) == (pytest.approx(there.welch_p), pytest.approx(there.mann_whitney_p))


@pytest.mark.parametrize(
    ("a", "b", "p_value", "t"),
    [([5, 5, 5], [5, 5, 5], 1.0, None), ([1, 1, 1], [5, 5, 5], 0.0, None)],
)
def test_arms_that_do_not_vary_have_the_limits_of_t(a: list, b: list, p_value: float, t: None) -> None:
    result = compare(a, b)
    assert (result.welch_p, result.welch_t, result.effect_size) == (p_value, t, None)
    assert result.low == result.high == result.difference
    assert "NaN" not in result.model_dump_json()


def test_one_constant_arm_is_compared_by_the_other_ones_variance() -> None:
    result = compare([5.0] * 50, list(np.linspace(1, 5, 50)))
    assert result.welch_p < 1e-6
    assert result.high < 0


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_samples_that_cannot_be_tested_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="two values"):
        compare(values, [1.0, 2.0])


def test_equal_arms_differ_as_rarely_as_alpha_says() -> None:
    """Users' means of clustered ratings from 1 to 5: false positives of Welch's test and of U lie about 5 %."""
    random = np.random.default_rng(11)
    leaning = random.normal(3.6, 0.9, size=(900, 2, 120, 1))
    ratings = np.clip(np.rint(leaning + random.normal(0, 0.7, size=(900, 2, 120, 5))), 1, 5)
    tests = [compare(*pair) for pair in ratings.mean(axis=3)]
    assert 0.03 <= np.mean([test.welch_p < 0.05 for test in tests]) <= 0.07
    assert 0.03 <= np.mean([test.mann_whitney_p < 0.05 for test in tests]) <= 0.07
    covered = [test.low <= 0 <= test.high for test in tests]
    assert covered == [test.welch_p >= 0.05 for test in tests]
    # Request by request the same data find a difference where there is none far more often.
    flat = ratings[:300].reshape(300, 2, -1)
    naive = stats.ttest_ind(flat[:, 0], flat[:, 1], axis=1, equal_var=False).pvalue
    assert np.mean(naive < 0.05) > 0.12


@pytest.mark.parametrize(
    ("observed", "split", "chi_squared", "p_value"),
    [
        ({"a": 821, "b": 779}, {"a": 0.5, "b": 0.5}, 1.1025, 0.29371),
        ({"a": 500, "b": 500}, {"a": 0.5, "b": 0.5}, 0.0, 1.0),
        ({"a": 940, "b": 60}, {"a": 0.9, "b": 0.1}, 17.7778, 2.4827e-5),
        ({}, {"a": 0.5, "b": 0.5}, 0.0, 1.0),
        ({"a": 20}, {"a": 0.5, "b": 0.5}, 20.0, 7.744e-6),
    ],
)
def test_sample_ratio(observed: dict, split: dict, chi_squared: float, p_value: float) -> None:
    result = sample_ratio(observed, split)
    assert result.chi_squared == pytest.approx(chi_squared, abs=1e-3)
    assert result.p_value == pytest.approx(p_value, rel=1e-3)
    # One degree of freedom: the square of a normal deviate.
    assert result.p_value == pytest.approx(2 * stats.norm.sf(math.sqrt(result.chi_squared)))


def test_a_right_split_is_called_wrong_once_in_a_thousand() -> None:
    counts = np.random.default_rng(5).binomial(2000, 0.5, size=2000)
    wrong = [sample_ratio({"a": int(a), "b": 2000 - int(a)}, {"a": 0.5, "b": 0.5}).p_value < 0.001 for a in counts]
    assert np.mean(wrong) <= 0.003


# Two arms with the same users' values before the experiment, and what gbstats 0.8.0 (RegressionAdjustedStatistic with
# compute_theta, TwoSidedTTest of absolute differences) says of them.
BEFORE_A, DURING_A = [3.0, 4.0, 2.0, 5.0, 3.5, 4.5, 1.0, 2.5], [3.2, 4.4, 2.1, 4.8, 3.0, 4.6, 1.5, 2.2]
BEFORE_B, DURING_B = [2.0, 4.0, 3.0, 5.0, 1.5, 3.5, 4.5, 2.5], [2.9, 4.5, 3.9, 5.0, 2.2, 3.8, 4.9, 3.1]
GBSTATS_THETA, GBSTATS_DIFFERENCE, GBSTATS_ERROR = 0.8670292318150903, 0.5083106730115574, 0.1374245980623186
# statsmodels 0.15.0: OLS of the values on a constant, the arm and the history.
OLS_SLOPE, OLS_ARM = 0.8614965986394558, 0.5086564625850349


def test_adjusting_for_history_is_what_statsmodels_and_gbstats_do() -> None:
    a, b, adjustment = adjust(DURING_A, DURING_B, BEFORE_A, BEFORE_B)
    assert adjustment is not None
    # gbstats takes theta over both arms around one mean, here it is around each arm's own, as in an analysis of
    # covariance: what the arm does to the metric is no part of the slope.
    assert (adjustment.theta, b.mean() - a.mean()) == (pytest.approx(OLS_SLOPE), pytest.approx(OLS_ARM))
    assert adjustment.theta == pytest.approx(GBSTATS_THETA, abs=0.01)
    assert b.mean() - a.mean() == pytest.approx(GBSTATS_DIFFERENCE, abs=1e-3)
    error = math.sqrt(np.var(a, ddof=1) / a.size + np.var(b, ddof=1) / b.size)
    assert error == pytest.approx(GBSTATS_ERROR, rel=1e-3)
    assert adjustment.known == 1
    assert adjustment.variance_left < 0.2


def test_users_without_history_keep_their_values() -> None:
    a, b, adjustment = adjust(DURING_A, DURING_B, [math.nan, *BEFORE_A[1:]], BEFORE_B)
    assert a[0] == DURING_A[0]
    assert adjustment is not None
    assert adjustment.known == pytest.approx(15 / 16)
    nothing = adjust(DURING_A, DURING_B, [math.nan] * 8, [math.nan] * 8)
    assert (nothing[0].tolist(), nothing[1].tolist(), nothing[2]) == (DURING_A, DURING_B, None)
    assert adjust(DURING_A, DURING_B, [3.0] * 8, [3.0] * 8)[2] is None, "a history that says nothing"
    assert b.size == 8


def test_adjusting_neither_finds_nor_hides_differences_between_equal_arms() -> None:
    random = np.random.default_rng(21)
    leaning = random.normal(3.5, 1, size=(800, 2, 60))
    before, during = leaning + random.normal(0, 0.5, leaning.shape), leaning + random.normal(0, 0.5, leaning.shape)
    tests = [compare(*adjust(y[0], y[1], x[0], x[1])[:2]) for x, y in zip(before, during, strict=True)]
    assert 0.03 <= np.mean([test.welch_p < 0.05 for test in tests]) <= 0.07
    assert np.mean([test.high - test.low for test in tests]) < 0.65 * np.mean(
        [compare(*pair).high - compare(*pair).low for pair in during[:100]]
    )


def test_effect_sizes_of_published_figures() -> None:
    """statsmodels 0.15.0: rank_compare_2indep gives prob1 = 0.66964 for these, CompareMeans the interval."""
    result = compare(DURING_A, [2.9, 4.5, 3.9, 5.0, 2.2, 3.8, 4.9])
    assert result.rank_biserial == pytest.approx(0.3392857142857144)
    assert (result.low, result.high) == (pytest.approx(-0.6215823156568336), pytest.approx(1.9430108870854057))
    assert (result.welch_t, result.welch_p) == (pytest.approx(1.1134145108765379), pytest.approx(0.28574077650999435))
    assert compare([1, 2, 3], [4, 5, 6]).rank_biserial == 1
    # Cohen (1988), section 2.2: means a standard deviation apart are d = 1.
    assert compare([-1.0, 0.0, 1.0], [0.0, 1.0, 2.0]).cohens_d == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("rated", "asked", "p_value"),
    [
        # statsmodels 0.15.0, proportions_ztest: the square of z is this chi-squared.
        ((180, 140), (200, 190), 2.708292894707407e-05),
        ((40, 20), (400, 410), 0.005387965025351131),
        ((0, 0), (10, 10), 1.0),
        ((10, 12), (10, 12), 1.0),
        ((0, 0), (0, 0), 1.0),
    ],
)
def test_response_rates(rated: tuple, asked: tuple, p_value: float) -> None:
    found = response_rates(dict(zip("ab", rated, strict=True)), dict(zip("ab", asked, strict=True)))
    assert found.p_value == pytest.approx(p_value, rel=1e-6)


def test_sample_ratio_is_that_of_gbstats() -> None:
    # gbstats 0.8.0, check_srm
    assert sample_ratio({"a": 940, "b": 60}, {"a": 0.9, "b": 0.1}).p_value == pytest.approx(2.482660633880463e-05)
    assert sample_ratio({"a": 5300, "b": 4950}, {"a": 0.5, "b": 0.5}).p_value == pytest.approx(0.000546116237592603)


VALUES = st.lists(st.floats(1, 5), min_size=2, max_size=40)


@given(VALUES, VALUES, st.floats(-3, 3))
@settings(max_examples=60)
def test_moving_both_arms_changes_no_comparison(a: list, b: list, by: float) -> None:
    there, moved = compare(a, b), compare([one + by for one in a], [one + by for one in b])
    assert moved.difference == pytest.approx(there.difference, abs=1e-9)
    assert moved.high - moved.low == pytest.approx(there.high - there.low, rel=1e-4, abs=1e-6)


@given(VALUES, VALUES)
@settings(max_examples=60)
def test_effect_sizes_keep_their_limits_and_signs(a: list, b: list) -> None:
    result = compare(a, b)
    assert result.rank_biserial is not None
    assert -1 <= result.rank_biserial <= 1
    if result.cohens_d is not None:
        assert result.effect_size is not None
        assert abs(result.effect_size) <= abs(result.cohens_d)
        assert result.cohens_d * result.difference >= 0
