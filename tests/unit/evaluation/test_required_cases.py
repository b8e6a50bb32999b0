from __future__ import annotations

import numpy as np
import pytest

from tollgate.evaluation.paired import difference_lower_bound
from tollgate.evaluation.required_cases import cases_for_margin, cases_for_threshold
from tollgate.evaluation.verdict import wilson_lower_bound


def pass_rate(accuracy: float, cases: int, draws: int = 5_000) -> float:
    """How often the lower bound of so many simulated cases reaches 0.90."""
    counts = np.random.default_rng(3).binomial(cases, accuracy, size=draws)
    reached = {int(count): wilson_lower_bound(int(count), cases) >= 0.90 for count in np.unique(counts)}
    return float(np.mean([reached[int(count)] for count in counts]))


@pytest.mark.parametrize("accuracy", [0.92, 0.93, 0.95, 0.97, 0.99])
@pytest.mark.parametrize("power", [0.8, 0.9])
def test_so_many_cases_show_the_accuracy_with_the_stated_power(accuracy: float, power: float) -> None:
    needed = cases_for_threshold(accuracy, 0.90, power=power)
    assert needed is not None
    assert pass_rate(accuracy, needed) >= power - 0.015
    assert pass_rate(accuracy, round(0.6 * needed)) < power


def test_an_accuracy_at_the_threshold_is_never_shown() -> None:
    assert cases_for_threshold(0.90, 0.90) is None
    assert cases_for_threshold(1.0, 0.90) == 25
    assert cases_for_threshold(0.9003, 0.90) == pytest.approx(6.18e6, rel=0.01)


@pytest.mark.parametrize(("better", "worse", "cases"), [(5, 8, 400), (20, 20, 200), (3, 3, 120), (6, 12, 500)])
def test_so_many_cases_rule_the_margin_out_with_the_stated_power(better: int, worse: int, cases: int) -> None:
    needed = cases_for_margin(better, worse, cases, 0.02, power=0.8)
    assert needed is not None
    rates = [better / cases, worse / cases, 1 - (better + worse) / cases]

    def ruled_out(total: int) -> float:
        tables = np.random.default_rng(4).multinomial(total, rates, size=600)
        return float(np.mean([difference_lower_bound(b, c, total) >= -0.02 for b, c, _ in tables.tolist()]))

    assert ruled_out(needed) >= 0.76  # 0.80 less the normal approximation and two standard errors
    assert ruled_out(round(0.65 * needed)) < 0.76


def test_the_margin_itself_is_on_neither_side() -> None:
    assert cases_for_margin(2, 10, 400, 0.02) is None
    assert (cases_for_margin(2, 30, 400, 0.02) or 0) > 0
