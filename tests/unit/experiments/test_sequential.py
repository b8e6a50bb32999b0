"""Boundaries and confidence sequences against published tables, SciPy's multivariate normal and gbstats."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tollgate.experiments.sequential import (
    boundaries,
    crossing,
    deviate,
    half_width,
    inflation,
    spent,
    tuning,
)


def evenly(looks: int) -> list[float]:
    return [(look + 1) / looks for look in range(looks)]


# Two-sided Lan-DeMets O'Brien-Fleming boundaries at alpha 0.05 for equally spaced looks: Reboussin, DeMets, Kim & Lan
# (2000, Controlled Clinical Trials 21:190), and the same numbers in the manuals of R's ldbounds and gsDesign.
LAN_DEMETS = [
    (1, [1.9600]),
    (2, [2.9626, 1.9686]),
    (3, [3.7103, 2.5114, 1.9930]),
    (4, [4.3326, 2.9631, 2.3590, 2.0141]),
    (5, [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]),
    (10, [6.9914, 4.8769, 3.9295, 3.3670, 2.9893, 2.7148, 2.5041, 2.3358, 2.1975, 2.0812]),
]


@pytest.mark.parametrize(("looks", "published"), LAN_DEMETS)
def test_boundaries_are_the_published_ones(looks: int, published: list[float]) -> None:
    assert boundaries(evenly(looks)) == pytest.approx(published, abs=3e-4)


# Jennison & Turnbull (2000), tables 2.1 (Pocock) and 2.3 (O'Brien-Fleming), alpha 0.05, two-sided.
POCOCK = {2: 2.178, 3: 2.289, 4: 2.361, 5: 2.413, 10: 2.555, 20: 2.672}
OBRIEN_FLEMING = {2: 1.977, 3: 2.004, 4: 2.024, 5: 2.040, 10: 2.087, 20: 2.126}


@pytest.mark.parametrize("looks", sorted(POCOCK))
def test_published_constants_cross_as_often_as_alpha(looks: int) -> None:
    pocock = crossing([POCOCK[looks]] * looks, evenly(looks))
    falling = [OBRIEN_FLEMING[looks] * math.sqrt(looks / (look + 1)) for look in range(looks)]
    assert sum(pocock) == pytest.approx(0.05, abs=1.5e-4)
    assert sum(crossing(falling, evenly(looks))) == pytest.approx(0.05, abs=1.5e-4)


def test_crossing_is_what_the_multivariate_normal_gives() -> None:
    """The same probability by another algorithm: Genz's integration of all looks at once."""
    fractions, limits, drift = [0.3, 0.55, 1.0], [2.9, 2.4, 2.05], 1.2
    covariance = [[math.sqrt(min(s, t) / max(s, t)) for t in fractions] for s in fractions]
    means = [drift * math.sqrt(t) for t in fractions]
    inside = stats.multivariate_normal(means, covariance).cdf(limits, lower_limit=[-one for one in limits])
    assert sum(crossing(limits, fractions, drift)) == pytest.approx(1 - inside, abs=2e-5)


def test_crossing_is_what_simulated_walks_do() -> None:
    random = np.random.default_rng(8)
    fractions = np.array(evenly(6))
    limits = np.array(boundaries(fractions.tolist()))
    walk = np.cumsum(random.normal(2.8 / 6, math.sqrt(1 / 6), size=(100_000, 6)), axis=1) / np.sqrt(fractions)
    first = np.argmax(np.abs(walk) > limits, axis=1)
    up = (np.abs(walk) > limits).any(axis=1) & (walk[np.arange(100_000), first] > 0)
    assert crossing(limits.tolist(), fractions.tolist(), 2.8)[0] == pytest.approx(up.mean(), abs=0.006)


@pytest.mark.parametrize("fractions", [[], [0.0, 1.0], [0.5, 0.5], [0.6, 0.3], [0.5, 1.2]])
def test_looks_that_do_not_increase_are_refused(fractions: list[float]) -> None:
    with pytest.raises(ValueError, match="increase"):
        boundaries(fractions)


@given(
    looks=st.lists(st.integers(1, 40), min_size=1, max_size=8, unique=True),
    alpha=st.sampled_from([0.01, 0.05, 0.1, 0.2]),
)
@settings(max_examples=30, deadline=None)
def test_whatever_looks_are_taken_alpha_is_never_exceeded(looks: list[int], alpha: float) -> None:
    fractions = [look / 40 for look in sorted(looks)]
    above, below = crossing(boundaries(fractions, alpha), fractions)
    assert above == pytest.approx(below)
    assert above <= alpha / 2 + 1e-9
    assert above == pytest.approx(spent(fractions[-1], alpha), abs=1e-9)


@given(looks=st.lists(st.integers(1, 39), min_size=1, max_size=6, unique=True))
@settings(max_examples=30, deadline=None)
def test_boundaries_do_not_depend_on_looks_still_to_come(looks: list[int]) -> None:
    fractions = [look / 40 for look in sorted(looks)]
    assert boundaries([*fractions, 1.0])[:-1] == pytest.approx(boundaries(fractions), abs=1e-6)


def test_many_looks_need_few_more_users() -> None:
    assert inflation(1) == pytest.approx(1.0, abs=1e-6)
    assert 1.02 < inflation(5) < 1.03
    assert inflation(5) < inflation(30) < 1.06
    limits = boundaries(evenly(30))
    drift = float(stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * math.sqrt(inflation(30))
    assert crossing(limits, evenly(30), drift)[0] == pytest.approx(0.8, abs=1e-5)


# gbstats 0.8.0, SequentialTwoSidedTTest with absolute differences: users, mean and deviation of both arms, tuning
# parameter, alpha; interval and rho.
GBSTATS = [
    ((50, 3.4, 1.1), (55, 3.9, 1.0), 500, 0.05, (-0.18760714646533583, 1.1876071464653357), 0.12598535313073156),
    ((50, 3.4, 1.1), (55, 3.9, 1.0), 5000, 0.01, (-0.9314770241997932, 1.9314770241997932), 0.04802861926125968),
    ((500, 3.6, 1.13), (480, 3.4, 1.2), 500, 0.05, (-0.42804489903488474, 0.028044899034884413), 0.12598535313073156),
    (
        (2000, 0.05, 0.21),
        (2100, 0.06, 0.23),
        500,
        0.05,
        (-0.01209993595846335, 0.03209993595846334),
        0.1259853531307316,
    ),
    (
        (2000, 0.05, 0.21),
        (2100, 0.06, 0.23),
        5000,
        0.01,
        (-0.0145707142575963, 0.03457071425759628),
        0.04802861926125968,
    ),
]


@pytest.mark.parametrize(("a", "b", "users", "alpha", "interval", "rho"), GBSTATS)
def test_confidence_sequences_are_those_of_gbstats(
    a: tuple, b: tuple, users: int, alpha: float, interval: tuple, rho: float
) -> None:
    assert tuning(users, alpha) == pytest.approx(rho)
    error = math.hypot(a[2] / math.sqrt(a[0]), b[2] / math.sqrt(b[0]))
    width = float(half_width(a[0] + b[0], error, alpha, tuning(users, alpha)))
    difference = b[1] - a[1]
    assert (difference - width, difference + width) == pytest.approx(interval, abs=1e-9)


@pytest.mark.parametrize("one_sided", [False, True])
def test_a_sequence_hardly_ever_misses_over_all_looks(one_sided: bool) -> None:
    """Means of skewed values, looked at after every user from the 50th to the 2,000th."""
    random = np.random.default_rng(4)
    values = random.exponential(size=(600, 2000))
    users = np.arange(1, 2001)
    mean = np.cumsum(values, axis=1) / users
    deviation = np.sqrt(np.maximum(np.cumsum(values**2, axis=1) / users - mean**2, 0))
    error = deviation / np.sqrt(users)
    width = half_width(users, error, 0.05, tuning(500, 0.05, one_sided=one_sided), one_sided=one_sided)
    missed = (mean - width > 1) if one_sided else (np.abs(mean - 1) > width)
    fixed = np.abs(mean - 1) > 1.96 * error
    assert missed[:, 50:].any(axis=1).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)
    assert fixed[:, 50:].any(axis=1).mean() > 0.2, "what intervals for one look do"


@given(users=st.integers(4, 10**6), alpha=st.floats(0.001, 0.3), at=st.integers(10, 10**5), error=st.floats(0.001, 10))
def test_sequences_are_wider_than_intervals_and_one_sided_ones_narrower(
    users: int, alpha: float, at: int, error: float
) -> None:
    both = float(half_width(users, error, alpha, tuning(at, alpha)))
    one = float(half_width(users, error, alpha, tuning(at, alpha), one_sided=True))
    assert both > float(-stats.norm.ppf(alpha / 2)) * error
    assert one < both


@given(st.floats(1e-12, 1.0))
def test_a_deviate_has_its_p_value(p_value: float) -> None:
    assert 2 * stats.norm.sf(float(deviate(p_value))) == pytest.approx(p_value, rel=1e-9)
