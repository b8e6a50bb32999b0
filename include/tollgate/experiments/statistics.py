"""The tests behind a decision: Welch's t, Mann-Whitney's U, the difference's interval, the sample-ratio check."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, Field
from scipy import stats


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
        effect_size=_hedges_g(left, right, difference),
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


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size < 2 or not np.isfinite(sample).all():
        raise ValueError("a sample needs at least two values, all finite")
    return sample


def _sample(values: NDArray[np.float64]) -> Sample:
    return Sample(users=values.size, mean=float(values.mean()), deviation=float(values.std(ddof=1)))


def _welch(
    left: NDArray[np.float64], right: NDArray[np.float64], difference: float, alpha: float
) -> tuple[float, float, float | None, float]:
    """Interval of the difference, t and p. Where neither arm varies: t's limits, p being 1 or, with a difference, 0."""
    if np.ptp(left) == 0 and np.ptp(right) == 0:
        return difference, difference, None, 0.0 if difference else 1.0
    with warnings.catch_warnings():
        # One constant arm is no loss of precision here: the other arm's variance carries the test.
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        test = stats.ttest_ind(right, left, equal_var=False)
        interval = test.confidence_interval(1 - alpha)
    return float(interval.low), float(interval.high), float(test.statistic), float(test.pvalue)


def _hedges_g(left: NDArray[np.float64], right: NDArray[np.float64], difference: float) -> float | None:
    """Hedges' g (Hedges 1981), with the correction ``1 - 3 / (4 df - 1)``."""
    freedom = left.size + right.size - 2
    pooled = math.sqrt(((left.size - 1) * left.var(ddof=1) + (right.size - 1) * right.var(ddof=1)) / freedom)
    if pooled == 0:
        return None
    return difference / pooled * (1 - 3 / (4 * freedom - 1))
