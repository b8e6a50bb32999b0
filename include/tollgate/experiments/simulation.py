"""How often a plan decides rightly: whole experiments simulated hour by hour, by the rules of :mod:`.decision`.

The rules are the same; here they are computed for many experiments at once, and a test holds both to the same
decisions. Guardrails over quantiles are left out: they follow from single requests.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy.optimize import brentq
from scipy.special import chdtri, stdtr

from tollgate.errors import BadInputError, Problem
from tollgate.experiments.guardrails import contrast_factor
from tollgate.experiments.plan import ExperimentPlan, Guardrail, quantile_of
from tollgate.experiments.sequential import half_width, tuning

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

RATINGS = np.arange(1.0, 6.0)
BASE_SHARES = np.array([0.05, 0.12, 0.24, 0.34, 0.25])
"""Shares of the ratings from 1 to 5 under the champion: mean 3.62, standard deviation 1.13."""

REQUESTS_A_USER = 5
PEEKING_MINIMUM_USERS = 10
_CHUNK = 250
_HOURS_A_DAY = 24
CONTINUES, PROMOTED, ROLLED_BACK, ENDED = 0, 1, 2, 3


@dataclass(frozen=True)
class Scenario:
    """What is true in the simulated world.

    Args:
        effect: Mean rating of B minus that of A.
        users_per_day: New rated users in both arms together.
        error_share: Share of requests that fail, in A.
        extra_errors: How much greater it is in B.
    """

    effect: float = 0.0
    users_per_day: float = 20.0
    error_share: float = 0.01
    extra_errors: float = 0.0


class Outcome(BaseModel):
    """How the simulated experiments of one scenario ended, as shares of all.

    Attributes:
        promoted: The challenger got the route.
        rolled_back: It was rolled back, at whatever look.
        rolled_back_early: It was rolled back before the planned size was there.
        held: The end came without a winner.
        median_days: Until the decision.
        peeking_better: Experiments in which an hourly t-test found B better at least once.
        peeking_any: Experiments in which it found any difference at least once.
        fixed: Power of one t-test at the planned size; found better, of those that reached it.
    """

    simulations: int
    promoted: float
    rolled_back: float
    rolled_back_early: float
    held: float
    median_days: float
    peeking_better: float
    peeking_any: float
    fixed: float


@dataclass(frozen=True)
class Ends:
    """Decisions of single experiments: what, in which hour from 0, and with how much of the planned users."""

    decision: NDArray[np.int64]
    hour: NDArray[np.int64]
    fraction: Floats


@dataclass(frozen=True)
class _Sums:
    """Running sums over hours, each (simulations, hours): users, values, squares, of one arm."""

    users: Floats
    total: Floats
    squares: Floats

    @property
    def mean(self) -> Floats:
        return self.total / np.maximum(self.users, 1)

    @property
    def variance(self) -> Floats:
        """Of the values, n - 1; 0 for fewer than two users."""
        spread = self.squares - self.total**2 / np.maximum(self.users, 1)
        return np.maximum(0.0, spread) / np.maximum(self.users - 1, 1)


def planned_traffic(plan: ExperimentPlan) -> float:
    """Users a day at which the planned size is there after 85 % of the plan's days."""
    return plan.users_expected() / (0.85 * plan.maximum_days)


def simulate(
    plan: ExperimentPlan,
    scenario: Scenario,
    simulations: int,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Run many experiments, each looked at every hour until its decision or the plan's last day.

    Args:
        plan: Of the metric ``user_rating``.
        scenario: What is true.
        simulations: How many.
        seed: Of the random numbers; the same seed gives the same outcome.
        progress: Called with the number of experiments done.

    Raises:
        BadInputError: The plan has a metric or a guardrail that can't be simulated.
    """
    _check(plan)
    random = np.random.default_rng(seed)
    ends: list[Ends] = []
    peeked: list[Floats] = []
    for start in range(0, simulations, _CHUNK):
        size = min(_CHUNK, simulations - start)
        world = draw(plan, scenario, size, random)
        ends.append(decide_all(plan, world))
        peeked.append(_peek(plan, world))
        if progress is not None:
            progress(start + size)
    return _outcome(simulations, ends, np.concatenate(peeked, axis=1))


@dataclass(frozen=True)
class World:
    """Simulated experiments: by metric and arm the running sums, shape (simulations, hours)."""

    sums: dict[str, dict[str, _Sums]]


def draw(plan: ExperimentPlan, scenario: Scenario, size: int, random: np.random.Generator) -> World:
    """Draw experiments: users arrive by Poisson's law, each rates once and makes a few requests."""
    hours = plan.maximum_days * _HOURS_A_DAY
    shares = {"a": BASE_SHARES, "b": tilted(BASE_SHARES, scenario.effect)}
    errors = {"a": scenario.error_share, "b": scenario.error_share + scenario.extra_errors}
    failed = np.arange(REQUESTS_A_USER + 1) / REQUESTS_A_USER
    sums: dict[str, dict[str, _Sums]] = {"user_rating": {}, "error_share": {}}
    for arm in ("a", "b"):
        rate = scenario.users_per_day * plan.split[arm] / _HOURS_A_DAY
        arrived = random.poisson(rate, size=(size, hours))
        sums["user_rating"][arm] = _running(random, arrived, RATINGS, shares[arm])
        if any(guardrail.metric == "error_share" for guardrail in plan.guardrails):
            law = np.array(
                [
                    math.comb(REQUESTS_A_USER, n) * errors[arm] ** n * (1 - errors[arm]) ** (REQUESTS_A_USER - n)
                    for n in range(REQUESTS_A_USER + 1)
                ]
            )
            sums["error_share"][arm] = _running(random, arrived, failed, law)
    return World(sums)


def tilted(shares: Floats, shift: float) -> Floats:
    """Shares of the ratings with another mean, by exponential tilting ``p_i exp(c i)``.

    Raises:
        BadInputError: No distribution of ratings from 1 to 5 has that mean.
    """
    if shift == 0:
        return shares
    wanted = float(RATINGS @ shares) + shift
    if not RATINGS[0] + 0.01 < wanted < RATINGS[-1] - 0.01:
        expected = f"a mean between 1 and 5; the champion's is {RATINGS @ shares:.2f}"
        raise BadInputError("The effect cannot be simulated.", [Problem("effect", f"{shift:+g}", expected)])

    def tilt(slope: float) -> Floats:
        weights = shares * np.exp(slope * (RATINGS - RATINGS.mean()))
        return np.asarray(weights / weights.sum())

    slope = brentq(lambda slope: float(RATINGS @ tilt(slope)) - wanted, -20, 20)
    return tilt(float(slope))


def _running(random: np.random.Generator, arrived: NDArray[np.int64], values: Floats, law: Floats) -> _Sums:
    counts = random.multinomial(arrived, law)
    return _Sums(
        users=np.cumsum(arrived, axis=1, dtype=np.float64),
        total=np.cumsum(counts @ values, axis=1),
        squares=np.cumsum(counts @ values**2, axis=1),
    )


def decide_all(plan: ExperimentPlan, world: World) -> Ends:
    """The first final decision of every experiment, by the order of :func:`.decision.decide`."""
    a, b = world.sums["user_rating"]["a"], world.sums["user_rating"]["b"]
    fewer = np.minimum(a.users, b.users)
    held = _mismatched(plan, a.users, b.users)
    harmed = _harmed(plan, world) & ~held
    may_test = ~held & ~harmed & (fewer >= 2)
    reached = np.where(fewer >= plan.users_per_arm, plan.looks, fewer * plan.looks // plan.users_per_arm).astype(int)
    allowed = np.where(may_test, reached, 0)
    before = np.concatenate([np.zeros((len(allowed), 1), int), np.maximum.accumulate(allowed, axis=1)[:, :-1]], axis=1)
    tested = allowed > before
    levels = _levels(plan, np.where(tested, reached, 0))
    better, worse = _significant(plan, a, b, tested, levels)
    last = tested & (reached == plan.looks)
    events = np.select([harmed | worse, better, last], [ROLLED_BACK, PROMOTED, ENDED], CONTINUES)
    decided = events != CONTINUES
    hour = np.where(decided.any(axis=1), decided.argmax(axis=1), decided.shape[1] - 1)
    rows = np.arange(len(hour))
    decision = np.where(decided.any(axis=1), events[rows, hour], ENDED)
    return Ends(decision, hour, np.minimum(1.0, fewer[rows, hour] / plan.users_per_arm))


def _mismatched(plan: ExperimentPlan, a: Floats, b: Floats) -> Flags:
    total = np.maximum(a + b, 1)
    expected = total * plan.split["a"]
    squared = (a - expected) ** 2 / expected + (b - (total - expected)) ** 2 / (total - expected)
    # The same as a p value below the threshold, but without one for every hour.
    return np.asarray(squared > chdtri(1, plan.sample_ratio_threshold))


def _harmed(plan: ExperimentPlan, world: World) -> Flags:
    first = world.sums["user_rating"]["a"]
    found = np.zeros(first.users.shape, dtype=bool)
    for guardrail in plan.guardrails:
        if guardrail.metric in world.sums:
            found |= _violated(plan, guardrail, world.sums[guardrail.metric])
    return found


def _violated(plan: ExperimentPlan, guardrail: Guardrail, arms: dict[str, _Sums]) -> Flags:
    a, b = arms["a"], arms["b"]
    alpha = plan.guardrail_alpha / len(plan.guardrails)
    factor = contrast_factor(guardrail)
    enough = np.minimum(a.users, b.users) >= plan.guardrail_minimum_users
    error = np.sqrt(b.variance / np.maximum(b.users, 1) + factor**2 * a.variance / np.maximum(a.users, 1))
    rho = tuning(plan.users_expected(), alpha, one_sided=True)
    width = half_width(np.maximum(a.users + b.users, 1), error, alpha, rho, one_sided=True)
    margin = 0.0 if guardrail.relative else guardrail.margin
    return np.asarray(enough & (-guardrail.sign * (b.mean - factor * a.mean) - width > margin))


def _levels(plan: ExperimentPlan, looks: NDArray[np.int64]) -> Floats:
    """The p value below which each hour's look decides, after the looks that this experiment took before.

    Args:
        plan: The plan.
        looks: The look taken in each hour, 0 for none, shape (simulations, hours).
    """
    taken = np.zeros((len(looks), plan.looks + 1), dtype=bool)
    rows, _ = np.nonzero(looks)
    taken[rows, looks[looks > 0]] = True
    patterns, places = np.unique(taken[:, 1:], axis=0, return_inverse=True)
    table = np.zeros((len(patterns), plan.looks + 1))
    for number, pattern in enumerate(patterns):
        done = (np.flatnonzero(pattern) + 1).tolist()
        if done:
            table[number, done] = [plan.level_of(limit) for limit in plan.boundaries(done)]
    return np.asarray(np.take_along_axis(table[places.ravel()], looks, axis=1))


def _significant(plan: ExperimentPlan, a: _Sums, b: _Sums, tested: Flags, levels: Floats) -> tuple[Flags, Flags]:
    p_value, difference = _welch(a, b, tested)
    found = tested & (p_value < levels)
    return found & (difference * plan.sign > 0), found & (difference * plan.sign <= 0)


def _welch(a: _Sums, b: _Sums, where: Flags) -> tuple[Floats, Floats]:
    """Two-sided p values of Welch's test (1 elsewhere) and differences of the means."""
    difference = b.mean - a.mean
    parts = a.variance / np.maximum(a.users, 1), b.variance / np.maximum(b.users, 1)
    p_value = np.ones_like(difference)
    variance = (parts[0] + parts[1])[where]
    freedom = variance**2 / np.maximum(
        parts[0][where] ** 2 / np.maximum(a.users[where] - 1, 1)
        + parts[1][where] ** 2 / np.maximum(b.users[where] - 1, 1),
        1e-300,
    )
    statistic = np.abs(difference[where]) / np.sqrt(np.maximum(variance, 1e-300))
    p_value[where] = np.where(
        variance > 0, 2 * stdtr(np.maximum(freedom, 1), -statistic), (difference[where] == 0) * 1.0
    )
    return p_value, difference


def _peek(plan: ExperimentPlan, world: World) -> Floats:
    """By t-tests at alpha: better at any hour, different at any hour, and better at the planned size."""
    a, b = world.sums["user_rating"]["a"], world.sums["user_rating"]["b"]
    fewer = np.minimum(a.users, b.users)
    p_value, difference = _welch(a, b, fewer >= PEEKING_MINIMUM_USERS)
    found = p_value < plan.alpha
    better = found & (difference > 0)
    full = fewer >= plan.users_per_arm
    at_size = better[np.arange(len(full)), full.argmax(axis=1)]
    fixed = np.where(full.any(axis=1), at_size, np.nan)
    return np.stack([better.any(axis=1), found.any(axis=1), fixed]).astype(np.float64)


def _outcome(simulations: int, ends: list[Ends], peeked: Floats) -> Outcome:
    decision = np.concatenate([one.decision for one in ends])
    hour = np.concatenate([one.hour for one in ends])
    fraction = np.concatenate([one.fraction for one in ends])
    reached = peeked[2][np.isfinite(peeked[2])]
    return Outcome(
        simulations=simulations,
        promoted=float(np.mean(decision == PROMOTED)),
        rolled_back=float(np.mean(decision == ROLLED_BACK)),
        rolled_back_early=float(np.mean((decision == ROLLED_BACK) & (fraction < 1))),
        held=float(np.mean(decision == ENDED)),
        median_days=float(np.median(hour + 1)) / _HOURS_A_DAY,
        peeking_better=float(peeked[0].mean()),
        peeking_any=float(peeked[1].mean()),
        fixed=float(reached.mean()) if reached.size else 0.0,
    )


def _check(plan: ExperimentPlan) -> None:
    problems = []
    if plan.metric != "user_rating" or plan.better != "higher":
        problems.append(Problem("metric", f"{plan.metric}, {plan.better} is better", "user_rating, higher is better"))
    problems += [
        Problem("guardrails", guardrail.metric, "user_rating or error_share; the others are left out")
        for guardrail in plan.guardrails
        if guardrail.metric not in {"user_rating", "error_share", "empty_share"} and not quantile_of(guardrail.metric)
    ]
    if problems:
        raise BadInputError("The plan cannot be simulated.", problems)
