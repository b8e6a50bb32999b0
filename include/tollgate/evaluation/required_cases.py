"""How many cases a decision needs, if the true rates are those observed.

Both answers hold with a stated power: the probability that an evaluation of that many cases shows what is to be shown.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom, norm

from tollgate.evaluation.paired import constrained_spread

_EXACT_UP_TO = 200_000


def cases_for_threshold(accuracy: float, threshold: float, confidence: float = 0.95, power: float = 0.8) -> int | None:
    """So many cases lift the Wilson lower bound to ``threshold`` with probability ``power``.

    Wilson's bound inverts the score test, so it reaches the threshold ``t`` with ``k`` of ``n`` cases where
    ``k >= n t + z sqrt(n t (1 - t))``; the probability of such a ``k`` is binomial. The search begins at the normal
    approximation ``((z_confidence sqrt(t (1 - t)) + z_power sqrt(p (1 - p))) / (p - t))^2`` (Fleiss, Levin and Paik
    2003, section 2.5).

    Args:
        accuracy: The true accuracy ``p``, in [0, 1].
        threshold: In (0, 1).
        confidence: One-sided, in (0.5, 1).
        power: In (0, 1).

    Returns:
        The smallest number from which the power stays reached; none where the accuracy is not above the threshold.
    """
    if accuracy <= threshold:
        return None
    quantile = float(norm.ppf(confidence))
    spread = quantile * math.sqrt(threshold * (1 - threshold))
    spread += float(norm.ppf(power)) * math.sqrt(accuracy * (1 - accuracy))
    rough = (spread / (accuracy - threshold)) ** 2
    if rough > _EXACT_UP_TO:
        return math.ceil(rough)
    totals = np.arange(1, 2 * math.ceil(rough) + 200)
    wanted = np.ceil(totals * threshold + quantile * np.sqrt(totals * threshold * (1 - threshold)) - 1e-9)
    short = np.flatnonzero(binom.sf(wanted - 1, totals, accuracy) < power)
    return int(totals[short[-1] + 1]) if len(short) else 1


def cases_for_margin(
    better: int, worse: int, cases: int, margin: float, confidence: float = 0.95, power: float = 0.8
) -> int | None:
    """So many cases show, with probability ``power``, on which side of ``-margin`` the true difference lies.

    With ``d`` the observed difference, ``s1`` its standard deviation a case and ``s0`` that under the hypothesis that
    the difference is ``-margin`` (Tango 1998), ``n = ((z_confidence s0 + z_power s1) / (d + margin))^2``.

    Args:
        better: Cases that only the candidate got right.
        worse: Cases that only the champion got right.
        cases: All cases.
        margin: More than 0.
        confidence: One-sided, in (0.5, 1).
        power: In (0, 1).

    Returns:
        None where the observed difference is the margin itself.
    """
    difference = (better - worse) / cases
    distance = difference + margin
    if abs(distance) < 1e-12:
        return None
    observed = math.sqrt(max(0.0, (better + worse) / cases - difference**2))
    expected = constrained_spread(better, worse, cases, -margin)
    spread = float(norm.ppf(confidence)) * expected + float(norm.ppf(power)) * observed
    return math.ceil((spread / distance) ** 2)
