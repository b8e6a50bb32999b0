"""Two models on the same cases: whether one is worse, and by how much it might be.

``better`` counts the cases that only the candidate got right, ``worse`` those that only the champion got right; the
other cases tell nothing about a difference.
"""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.stats import binom, norm


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


def _score(better: float, worse: float, cases: float, difference: float) -> float:
    """Tango's statistic for the hypothesis that the true difference is ``difference``; 0 at the estimate."""
    surplus = better - worse - cases * difference
    linear = (2 * cases - better + worse) * difference - better - worse
    constant = -worse * difference * (1 - difference)
    only_champion = (math.sqrt(max(0.0, linear**2 - 8 * cases * constant)) - linear) / (4 * cases)
    variance = cases * (2 * only_champion + difference * (1 - difference))
    if variance <= 0:
        return math.copysign(math.inf, surplus) if surplus else 0.0
    return surplus / math.sqrt(variance)


def cases_for_margin(better: int, worse: int, cases: int, margin: float, confidence: float = 0.95) -> int | None:
    """So many cases, in all, would show that the candidate is no worse than ``margin``, if the rates stay as they are.

    Returns:
        None where the observed difference itself is not above ``-margin``: then no number of cases would.
    """
    if (better - worse) / cases <= -margin:
        return None

    def shown(total: int) -> bool:
        growth = total / cases
        return difference_lower_bound(better * growth, worse * growth, total, confidence) >= -margin

    enough = cases
    while not shown(enough):
        enough *= 2
    too_few = enough // 2 if enough > cases else 0
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        too_few, enough = (too_few, middle) if shown(middle) else (middle, enough)
    return max(enough, cases)
