"""The tests behind a decision: Welch's t, Mann-Whitney's U, the difference's interval, the sample-ratio check.

Pure functions over arrays; SciPy computes the tests.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, Field
from scipy import stats

Floats = NDArray[np.float64]


class Sample(BaseModel):
    """One arm's users.

    Attributes:
        users: How many have a value.
        mean: Mean of the users' means.
        deviation: Their standard deviation (n - 1).
    """

    users: int
    mean: float
    deviation: float


class Comparison(BaseModel):
    """Arm B against arm A; differences are B's mean minus A's, in the metric's units.

    Attributes:
        low: Lower end of Welch's two-sided interval of the difference, at ``confidence``.
        high: Its upper end.
        welch_t: None where neither arm varies, so that t has no finite value.
        mann_whitney_u: U of arm B.
        effect_size: Hedges' g: the difference in pooled standard deviations, corrected for small samples; none where
            neither arm varies.
        cohens_d: The same without the correction.
        rank_biserial: ``2 U / (n m) - 1``: how much more often a user of B has a higher value than one of A than the
            other way round, from -1 to 1.
    """

    a: Sample
    b: Sample
    difference: float
    confidence: float
    low: float
    high: float
    welch_t: float | None
    welch_p: float = Field(ge=0, le=1)
    mann_whitney_u: float
    mann_whitney_p: float = Field(ge=0, le=1)
    effect_size: float | None
    cohens_d: float | None = None
    rank_biserial: float | None = None


class SampleRatio(BaseModel):
    """Whether the arms have the sizes that the split says.

    Attributes:
        observed: Users assigned per arm.
        expected: What the split would give of as many users.
        p_value: Of the chi-squared test; 1 without users.
    """

    observed: dict[str, int]
    expected: dict[str, float]
    chi_squared: float
    p_value: float = Field(ge=0, le=1)


def compare(a: ArrayLike, b: ArrayLike, alpha: float = 0.05) -> Comparison:
    """Compare two independent samples of per-user means.

    Args:
        a: Means of the champion's users, shape (users,), at least two.
        b: Means of the challenger's users, likewise.
        alpha: The interval has the confidence ``1 - alpha``.

    Raises:
        ValueError: A sample has fewer than two values, or one that is not finite.
    """
    left, right = _checked(a), _checked(b)
    difference = float(right.mean() - left.mean())
    low, high, welch_t, welch_p = _welch(left, right, difference, alpha)
    ranks = stats.mannwhitneyu(right, left, alternative="two-sided")
    cohens_d = _cohens_d(left, right, difference)
    freedom = left.size + right.size - 2
    return Comparison(
        a=_sample(left),
        b=_sample(right),
        difference=difference,
        confidence=1 - alpha,
        low=low,
        high=high,
        welch_t=welch_t,
        welch_p=welch_p,
        mann_whitney_u=float(ranks.statistic),
        mann_whitney_p=float(min(1.0, ranks.pvalue)),
        effect_size=None if cohens_d is None else cohens_d * (1 - 3 / (4 * freedom - 1)),  # Hedges 1981
        cohens_d=cohens_d,
        rank_biserial=float(2 * ranks.statistic / (left.size * right.size) - 1),
    )


def sample_ratio(observed: Mapping[str, int], split: Mapping[str, float]) -> SampleRatio:
    """Chi-squared test of the arms' sizes against the split.

    A mismatch means that users were lost on the way to one arm (a crash, a bot filter, a slow answer), and then neither
    arm's mean says what it seems to say.

    Args:
        observed: Users per arm; an arm of the split that is missing has none.
        split: Share per arm, summing to 1.
    """
    counts = {arm: observed.get(arm, 0) for arm in sorted(split)}
    total = sum(counts.values())
    expected = {arm: split[arm] * total for arm in counts}
    if total == 0:
        return SampleRatio(observed=counts, expected=expected, chi_squared=0, p_value=1)
    test = stats.chisquare(list(counts.values()), list(expected.values()))
    return SampleRatio(
        observed=counts, expected=expected, chi_squared=float(test.statistic), p_value=float(test.pvalue)
    )


class ResponseRates(BaseModel):
    """Whether users of both arms rate equally often: who does not rate may not be the same kind of user in both.

    Attributes:
        rated: Users with the metric, per arm.
        asked: Users who got an answer, per arm.
        p_value: Of the chi-squared test of both shares; 1 where nobody or everybody rates.
    """

    rated: dict[str, int]
    asked: dict[str, int]
    p_value: float = Field(ge=0, le=1)


def response_rates(rated: Mapping[str, int], asked: Mapping[str, int]) -> ResponseRates:
    """Chi-squared test (without continuity correction) of the shares of users who have the metric.

    Args:
        rated: Users with the metric, per arm.
        asked: Users who could have one, per arm; at least as many.
    """
    arms = sorted(asked)
    table = np.array([[rated[arm], max(0, asked[arm] - rated[arm])] for arm in arms], dtype=np.float64)
    possible = (table.sum(axis=0) > 0).all() and (table.sum(axis=1) > 0).all()
    p_value = float(stats.chi2_contingency(table, correction=False).pvalue) if possible else 1.0
    return ResponseRates(rated=dict(rated), asked=dict(asked), p_value=p_value)


class Adjustment(BaseModel):
    """What a user's metric before the experiment explained (CUPED).

    Attributes:
        theta: ``cov(before, during) / var(before)``, over both arms around each arm's own means.
        correlation: Between before and during.
        known: Share of users with a history.
        variance_left: Variance after the adjustment as a share of the variance before it.
    """

    theta: float
    correlation: float
    known: float = Field(ge=0, le=1)
    variance_left: float


def adjust(
    a: ArrayLike, b: ArrayLike, before_a: ArrayLike, before_b: ArrayLike
) -> tuple[Floats, Floats, Adjustment | None]:
    """Take out of both arms what history explains (Deng, Xu, Kohavi & Walker 2013, WSDM: CUPED).

    ``y - theta (x - mean x)`` with one theta and one mean for both arms. A user without history keeps the value, as if
    the history were average. Values from before the experiment can't be its effect, so the difference stays unbiased.

    Args:
        a: The champion's users, shape (users,).
        b: The challenger's users.
        before_a: The same users before the experiment; not a number where there is none.
        before_b: Likewise.

    Returns:
        Both arms adjusted, and how; unchanged and none where fewer than three users have a history or it is constant.
    """
    values = (np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64))
    before = (np.asarray(before_a, dtype=np.float64), np.asarray(before_b, dtype=np.float64))
    known = tuple(np.isfinite(one) for one in before)
    history = np.concatenate([one[mask] for one, mask in zip(before, known, strict=True)])
    if history.size < 3 or np.ptp(history) == 0:
        return *values, None
    centred = [_centred(one[mask]) for one, mask in zip(before, known, strict=True)]
    outcome = [_centred(one[mask]) for one, mask in zip(values, known, strict=True)]
    x, y = np.concatenate(centred), np.concatenate(outcome)
    if not x.any():
        return *values, None
    theta = float(x @ y / (x @ x))
    adjusted = [
        one - theta * np.where(mask, past - history.mean(), 0.0)
        for one, past, mask in zip(values, before, known, strict=True)
    ]
    spread = sum(float(np.square(_centred(one)).sum()) for one in values)
    left = sum(float(np.square(_centred(one)).sum()) for one in adjusted)
    return (
        adjusted[0],
        adjusted[1],
        Adjustment(
            theta=theta,
            correlation=float(x @ y / math.sqrt((x @ x) * (y @ y))) if y.any() else 0.0,
            known=history.size / (values[0].size + values[1].size),
            variance_left=left / spread if spread else 1.0,
        ),
    )


def _centred(values: Floats) -> Floats:
    return values - values.mean() if values.size else values


def _checked(values: ArrayLike) -> Floats:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size < 2 or not np.isfinite(sample).all():
        raise ValueError("a sample needs at least two values, all finite")
    return sample


def _sample(values: Floats) -> Sample:
    return Sample(users=values.size, mean=float(values.mean()), deviation=float(values.std(ddof=1)))


def _welch(left: Floats, right: Floats, difference: float, alpha: float) -> tuple[float, float, float | None, float]:
    """Interval of the difference, t and p. Where neither arm varies: t's limits, p being 1 or, with a difference, 0."""
    if np.ptp(left) == 0 and np.ptp(right) == 0:
        return difference, difference, None, 0.0 if difference else 1.0
    with warnings.catch_warnings():
        # One constant arm is no loss of precision here: the other arm's variance carries the test.
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        test = stats.ttest_ind(right, left, equal_var=False)
        interval = test.confidence_interval(1 - alpha)
    return float(interval.low), float(interval.high), float(test.statistic), float(test.pvalue)


def _cohens_d(left: Floats, right: Floats, difference: float) -> float | None:
    freedom = left.size + right.size - 2
    pooled = math.sqrt(((left.size - 1) * left.var(ddof=1) + (right.size - 1) * right.var(ddof=1)) / freedom)
    return difference / pooled if pooled else None
