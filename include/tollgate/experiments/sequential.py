"""Looking more than once: boundaries that share alpha among looks, and intervals that hold at all times.

Boundaries follow Lan & DeMets (1983, Biometrika 70:659) with the spending function that resembles O'Brien-Fleming's:
each side of a two-sided test of level ``alpha`` has spent ``2 (1 - Phi(z(1 - alpha/4) / sqrt(t)))`` at the share ``t``
of the planned information. They are found by the recursive integration of Armitage, McPherson & Rowe (1969, JRSS A
132:235); see Jennison & Turnbull (2000), *Group Sequential Methods*, chapters 7 and 19.

Confidence sequences are the asymptotic ones of Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (2024, Annals of
Statistics 52:2613): they cover the true value at all sample sizes at once, so that any number of looks is free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

Floats = NDArray[np.float64]

_FARTHEST = 8.5
"""Standard deviations beyond which a normal density counts as nothing (less than 1e-16)."""

_LEAST_SPENT = 1e-12
"""A look that may spend less than this has no boundary: its share is added to the next look's."""

_NODES_PER_DEVIATION = 3.5
"""Quadrature nodes for each standard deviation of the narrowest increment."""


def spent(fraction: float, alpha: float) -> float:
    """What one side of a two-sided test may have spent, O'Brien-Fleming-like (Lan & DeMets 1983).

    Args:
        fraction: Share of the planned information, from 0 to 1; more counts as 1.
        alpha: Level of the two-sided test; each side spends half of it in all.
    """
    if fraction <= 0:
        return 0.0
    return float(2 * ndtr(-ndtri(1 - alpha / 4) / math.sqrt(min(1.0, fraction))))


def boundaries(fractions: Sequence[float], alpha: float = 0.05) -> tuple[float, ...]:
    """Boundaries of the looks of a two-sided test, as normal deviates.

    The test stops at the first look at which ``|z|`` is above its boundary. Under equal arms each side does so with a
    probability of ``alpha / 2`` over all looks, if the last is at 1; looks that were left out leave more to later ones.

    Args:
        fractions: Shares of the planned information at the looks, increasing, above 0 and up to 1.
        alpha: Level of the two-sided test.

    Returns:
        One boundary a look; infinite where next to nothing may be spent yet.

    Raises:
        ValueError: The fractions do not increase from above 0 to at most 1.
    """
    return _boundaries(_checked(fractions), alpha)


@lru_cache(maxsize=4096)
def _boundaries(fractions: tuple[float, ...], alpha: float) -> tuple[float, ...]:
    found: list[float] = []
    walk: _Walk | None = None
    done = 0.0
    for fraction in fractions:
        budget = spent(fraction, alpha)
        if budget - done < _LEAST_SPENT:
            found.append(math.inf)
            continue
        # Looks without a boundary stop nothing, so the walk may begin at the first that has one.
        walk = _Walk(fractions) if walk is None else walk
        limit = walk.limit(fraction, budget - done)
        walk.advance(fraction, limit)
        done = budget
        found.append(limit)
    return tuple(found)


def crossing(limits: Sequence[float], fractions: Sequence[float], drift: float = 0.0) -> tuple[float, float]:
    """Probabilities that a sequential test ends above its upper and below its lower boundary.

    Args:
        limits: Boundaries of the looks as normal deviates, the same on both sides; may be infinite.
        fractions: Shares of the planned information at the looks, increasing.
        drift: Mean of the test statistic at the full information: ``effect / standard error``.

    Returns:
        Probability above, probability below.
    """
    checked = _checked(fractions)
    walk: _Walk | None = None
    above = below = 0.0
    for limit, fraction in zip(limits, checked, strict=True):
        if math.isinf(limit):
            continue
        walk = _Walk(checked, drift) if walk is None else walk
        up, down = walk.tails(fraction, limit)
        above, below = above + up, below + down
        walk.advance(fraction, limit)
    return above, below


@lru_cache(maxsize=256)
def inflation(looks: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """By how much several looks enlarge the sample that a power takes, against one look at the end.

    Args:
        looks: Equally spaced looks.
        alpha: Level of the two-sided test.
        power: Chance to cross the boundary on the right side.

    Returns:
        A factor of at least 1 (Jennison & Turnbull call it R).
    """
    fractions = [(look + 1) / looks for look in range(looks)]
    limits = boundaries(fractions, alpha)
    single = float(ndtri(1 - alpha / 2) + ndtri(power))

    def missing(drift: float) -> float:
        return power - crossing(limits, fractions, drift)[0]

    drift = float(brentq(missing, single * 0.9, single * 1.5, xtol=1e-7))
    return max(1.0, (drift / single) ** 2)


class _Walk:
    """Density of the score ``s = z sqrt(t)`` of a walk that has not stopped yet, on the nodes of a quadrature.

    Between looks the score grows by a normal increment with variance ``dt`` and mean ``drift dt``.
    """

    def __init__(self, fractions: Sequence[float], drift: float = 0.0) -> None:
        self._drift = drift
        self._time = 0.0
        self._narrowest = math.sqrt(min(np.diff([0.0, *fractions])))
        self._nodes: Floats = np.zeros(1)
        self._mass: Floats = np.ones(1)  # density times weight: at the start all of it lies at 0

    def tails(self, fraction: float, limit: float) -> tuple[float, float]:
        """Probabilities to stop at this look above and below ``limit``."""
        step = math.sqrt(fraction - self._time)
        centre = self._nodes + self._drift * (fraction - self._time)
        edge = limit * math.sqrt(fraction)
        return float(self._mass @ ndtr((centre - edge) / step)), float(self._mass @ ndtr((-edge - centre) / step))

    def limit(self, fraction: float, budget: float) -> float:
        """The boundary at which this look's upper tail is ``budget``."""

        def excess(limit: float) -> float:
            return math.log(max(self.tails(fraction, limit)[0], 1e-300)) - math.log(budget)

        return float(brentq(excess, -_FARTHEST, 40.0, xtol=1e-10))

    def advance(self, fraction: float, limit: float) -> None:
        """Go on to this look, without those that stop at it."""
        grown = fraction - self._time
        step = math.sqrt(grown)
        spread = min(limit * math.sqrt(fraction), _FARTHEST * math.sqrt(fraction) + abs(self._drift) * fraction)
        size = min(2000, max(48, math.ceil(2 * spread / min(step, self._narrowest) * _NODES_PER_DEVIATION)))
        places, weights = _legendre(size)
        nodes = places * spread
        apart = (nodes[:, None] - self._nodes[None, :] - self._drift * grown) / step
        density = np.exp(-0.5 * apart**2) @ self._mass / (step * math.sqrt(2 * math.pi))
        self._nodes, self._mass, self._time = nodes, density * weights * spread, fraction


@lru_cache(maxsize=64)
def _legendre(size: int) -> tuple[Floats, Floats]:
    places, weights = np.polynomial.legendre.leggauss(size)
    return places, weights


def _checked(fractions: Sequence[float]) -> tuple[float, ...]:
    values = tuple(float(fraction) for fraction in fractions)
    if not values or values[0] <= 0 or values[-1] > 1 + 1e-9 or (np.diff(values) <= 0).any():
        raise ValueError("the looks' fractions must increase, from above 0 to at most 1")
    return values


def tuning(users: float, alpha: float, *, one_sided: bool = False) -> float:
    """The parameter rho with which a confidence sequence is narrowest after ``users`` observations.

    ``sqrt((-2 log a + log(1 - 2 log a)) / users)`` with ``a = alpha`` (Waudby-Smith et al. 2024; equation 161 of
    arXiv:2103.06476v7); a one-sided sequence takes ``a = 2 alpha``.

    Args:
        users: Observations in both arms together.
        alpha: Chance that the sequence ever misses the true value.
        one_sided: For :func:`half_width` of the same kind.
    """
    level = min(0.999, 2 * alpha) if one_sided else alpha
    return math.sqrt((-2 * math.log(level) + math.log(1 - 2 * math.log(level))) / users)


def half_width(
    users: ArrayLike, standard_error: ArrayLike, alpha: float, rho: float, *, one_sided: bool = False
) -> Floats:
    """Half the width of an asymptotic confidence sequence of a difference of means.

    With ``n`` observations in both arms and ``s^2 = n standard_error^2``, two-sided (Waudby-Smith et al. 2024; equation
    9 of arXiv:2103.06476v7): ``s sqrt(2 (n rho^2 + 1) / (n rho)^2 log(sqrt(n rho^2 + 1) / alpha))``; one-sided with
    ``log(1 + sqrt(n rho^2 + 1) / (2 alpha))``. Arrays are taken element by element.

    Args:
        users: Observations in both arms together, at least 1.
        standard_error: Of the difference at that size.
        alpha: Chance that the sequence ever misses the true value.
        rho: See :func:`tuning`; fixed before the first look.
        one_sided: The sequence bounds the value from one side only.
    """
    count = np.asarray(users, dtype=np.float64)
    scaled = count * rho**2 + 1
    logarithm = np.log1p(np.sqrt(scaled) / (2 * alpha)) if one_sided else np.log(np.sqrt(scaled) / alpha)
    deviation = np.asarray(standard_error, dtype=np.float64) * np.sqrt(count)
    return np.asarray(deviation * np.sqrt(2 * scaled / (count * rho) ** 2 * logarithm))


def deviate(p_value: ArrayLike) -> Floats:
    """The normal deviate whose two-sided p value this is; infinite for 0.

    Boundaries for normal statistics hold for t statistics at this deviate (Jennison & Turnbull 2000, section 4.4).
    """
    return np.asarray(-ndtri(np.asarray(p_value, dtype=np.float64) / 2))
