"""Two models on the same cases: whether one is worse, and by how much it might be.

``better`` counts the cases that only the candidate got right, ``worse`` those that only the champion got right; the
other cases tell nothing about a difference.
"""

from __future__ import annotations

import math

from pydantic import BaseModel
from scipy.optimize import brentq
from scipy.stats import binom, norm


class ChampionComparison(BaseModel):
    """The candidate beside the champion, on the same cases.

    Attributes:
        accuracy: The champion's.
        better: Cases that only the candidate got right.
        worse: Cases that only the champion got right.
        difference: Candidate's accuracy minus the champion's.
        difference_lower_bound: Its one-sided lower bound (Tango's score method).
        p_value: McNemar mid-p, two-sided.
    """

    accuracy: float
    better: int
    worse: int
    difference: float
    difference_lower_bound: float
    p_value: float


def mcnemar_mid_p(better: int, worse: int) -> float:
    """Two-sided McNemar mid-p value: ``2 BinomCDF(m; better + worse, 1/2) - BinomPMF(m)``, ``m = min(better, worse)``.

    The mid-p variant (Fagerland, Lydersen and Laake 2013) keeps the level almost as well as the exact test, and finds
    more.
    """
    fewer, discordant = min(better, worse), better + worse
    return float(min(1.0, 2 * binom.cdf(fewer, discordant, 0.5) - binom.pmf(fewer, discordant, 0.5)))


def difference_lower_bound(better: float, worse: float, cases: float, confidence: float = 0.95) -> float:
    """One-sided lower bound of the candidate's accuracy minus the champion's, in [-1, 1].

    Tango's score bound for paired proportions (Tango 1998, Statistics in Medicine 17:891-908): the smallest difference
    that the score test at level ``1 - confidence`` does not refuse. Unlike Wald's it is right when ``worse`` is 0.

    Args:
        better: Cases that only the candidate got right; may be a fraction, for planning.
        worse: Cases that only the champion got right.
        cases: All cases, more than 0 and at least ``better + worse``.
        confidence: In (0.5, 1).
    """
    estimate = (better - worse) / cases
    quantile = float(norm.ppf(confidence))

    def excess(difference: float) -> float:
        return _score(better, worse, cases, difference) - quantile

    lowest = math.nextafter(-1.0, 0.0)
    if excess(lowest) <= 0:
        return -1.0
    return float(brentq(excess, lowest, estimate, xtol=1e-10))


def worse_than_margin_p(better: int, worse: int, cases: int, margin: float) -> float:
    """One-sided p-value of Tango's score test that the true difference is ``-margin`` or above.

    A small one shows that the candidate is worse by more than the margin.
    """
    return float(norm.cdf(_score(better, worse, cases, -margin)))


def mcnemar_worse_p(better: int, worse: int) -> float:
    """One-sided McNemar mid-p value that the candidate is not worse: ``BinomCDF(better) - BinomPMF(better) / 2``."""
    discordant = better + worse
    return float(binom.cdf(better, discordant, 0.5) - binom.pmf(better, discordant, 0.5) / 2)


def constrained_spread(better: float, worse: float, cases: float, difference: float) -> float:
    """Standard deviation a case of the difference under the likeliest rates whose difference is that (Tango 1998)."""
    linear = (2 * cases - better + worse) * difference - better - worse
    constant = -worse * difference * (1 - difference)
    only_champion = (math.sqrt(max(0.0, linear**2 - 8 * cases * constant)) - linear) / (4 * cases)
    return math.sqrt(max(0.0, 2 * only_champion + difference * (1 - difference)))


def _score(better: float, worse: float, cases: float, difference: float) -> float:
    """Tango's statistic for the hypothesis that the true difference is ``difference``; 0 at the estimate."""
    surplus = better - worse - cases * difference
    spread = constrained_spread(better, worse, cases, difference)
    if spread == 0:
        return math.copysign(math.inf, surplus) if surplus else 0.0
    return surplus / (spread * math.sqrt(cases))
