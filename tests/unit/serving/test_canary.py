"""When a share of the route may grow, must go back, or waits."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.stats import binom

from tollgate.errors import BadInputError
from tollgate.serving.canary import ArmFigures, CanaryPlan, Decision, judge, look_alpha, quantile_bounds, share_bounds

PLAN = CanaryPlan(dwell_seconds=60, minimum_users=20)
FAST = tuple(100.0 + number % 50 for number in range(400))


def arm(users: int, failed: int = 0, empty: int = 0, latencies: tuple[float, ...] | None = None) -> ArmFigures:
    answered = users - failed
    return ArmFigures(
        requests=users,
        bad_requests=failed + empty,
        users=users,
        failed_users=failed,
        answered_users=answered,
        empty_users=empty,
        latencies=FAST[:answered] if latencies is None else latencies,
    )


def decide(new: ArmFigures, former: ArmFigures, seconds: float = 61, look: int | None = 1, step: int = 0) -> Decision:
    return judge(PLAN, step, seconds, look, new, former)


@pytest.mark.parametrize(("new", "former"), [(0, 0), (0, 400), (19, 400), (400, 0), (1, 1)])
def test_little_or_no_traffic_holds_however_long_it_lasts(new: int, former: int) -> None:
    for look in (None, 1, 1000):
        assert decide(arm(new), arm(former), seconds=1e9, look=look).action == "hold"


def test_a_good_version_goes_on_after_its_time_and_at_last_gets_the_route() -> None:
    good = arm(40), arm(400)
    assert decide(*good, seconds=59).action == "wait"
    assert decide(*good).action == "advance"
    assert decide(*good, step=1).action == "complete"
    assert decide(*good, look=None).action == "advance", "no new data is no reason to stay"


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (arm(60, failed=20), "20 of 60 users of the new version had an error"),
        (arm(60, empty=20), "20 of 60 users of the new version had an empty answer"),
        (arm(200, latencies=tuple(1000.0 + number for number in range(200))), "95 % of the new version's answers"),
        (arm(10, empty=10), "All 10 requests"),
    ],
)
def test_harm_is_rolled_back_before_the_time_is_over(new: ArmFigures, words: str) -> None:
    decision = decide(new, arm(400), seconds=1)
    assert decision.action == "roll_back"
    assert words in " ".join(decision.reasons)
    assert len(decision.reasons_ko) == len(decision.reasons)
    assert all(_is_korean_of(ko, en) for ko, en in zip(decision.reasons_ko, decision.reasons, strict=True))


def _is_korean_of(korean: str, english: str) -> bool:
    """Korean words, and the same figures, be it in another order."""
    numbers = re.compile(r"\d+(?:\.\d+)?")
    spoken = any("가" <= letter <= "힣" for letter in korean)
    return spoken and sorted(numbers.findall(korean)) == sorted(numbers.findall(english.replace("95 %", "95")))


def test_what_hits_both_is_blamed_on_neither() -> None:
    assert decide(arm(60, failed=30), arm(400, failed=200)).action != "roll_back"
    assert decide(arm(20, failed=20), arm(400, failed=400)).action != "roll_back"
    slow = tuple(10 * value for value in FAST)
    assert decide(arm(60, latencies=slow[:60]), arm(400, latencies=slow)).action == "advance"


def test_what_may_be_chance_holds() -> None:
    decision = decide(arm(40, failed=3), arm(400))
    assert (decision.action, "may be chance" in decision.reasons[0]) == ("hold", True)


def test_one_user_s_broken_requests_are_no_verdict() -> None:
    one = ArmFigures(requests=50, bad_requests=50, users=1, failed_users=1)
    assert decide(one, arm(400)).action == "hold"


def test_answers_of_which_nothing_is_kept_cannot_be_called_good() -> None:
    blind = ArmFigures(requests=40, users=40, latencies=FAST[:40], untold=40)
    decision = decide(blind, arm(400))
    assert decision.action == "hold"
    assert "neither texts nor lengths" in decision.reasons[0]


def test_the_looks_together_spend_no_more_than_alpha() -> None:
    assert sum(look_alpha(0.01, look) for look in range(1, 100_000)) < 0.01
    assert look_alpha(0.01, 1) == pytest.approx(0.0061, abs=1e-4)


def test_bounds_are_wrong_no_more_often_than_they_say() -> None:
    for number, share in ((30, 0.1), (200, 0.02)):
        hits = np.arange(number + 1)
        wrong = [share_bounds(int(one), number, 0.05)[0] > share for one in hits]
        assert binom.pmf(hits, number, share)[wrong].sum() <= 0.05
    random = np.random.default_rng(7)
    samples = random.exponential(size=(500, 150))
    true = -np.log(0.05)
    bounds = [quantile_bounds(sample, 0.95, 0.05) for sample in samples]
    assert np.mean([low > true for low, _ in bounds]) <= 0.08
    assert np.mean([high < true for _, high in bounds]) <= 0.08
    assert quantile_bounds([1.0, 2.0], 0.95, 0.001) == (0.0, float("inf"))


def test_equal_versions_are_hardly_ever_rolled_back() -> None:
    """500 rollouts of a version as good as the former, 3 % errors, looked at after every fourth user."""
    random = np.random.default_rng(11)
    rolled_back = 0
    for _ in range(500):
        new, former = np.cumsum(random.random(80) < 0.03), np.cumsum(random.random(320) < 0.03)
        for look, users in enumerate(range(4, 80, 4), start=1):
            figures = (
                arm(users, int(new[users - 1]), latencies=()),
                arm(4 * users, int(former[4 * users - 1]), latencies=()),
            )
            if decide(*figures, look=look).action == "roll_back":
                rolled_back += 1
                break
    assert rolled_back <= 5, "alpha is 1 %"


@pytest.mark.parametrize("steps", [[], [0.5], [0.5, 0.2, 1], [0, 1], [0.5, 1, 2], [0.1, 0.1, 1]])
def test_steps_must_rise_to_the_whole_route(steps: list[float]) -> None:
    with pytest.raises(BadInputError, match=r"canary\.steps"):
        CanaryPlan.of_settings(steps=steps)
