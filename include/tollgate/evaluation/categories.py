"""Whether a candidate fails in a single category, which the overall accuracy may hide.

Looking at many categories finds a bad one by luck. Holm's step-down procedure (Holm 1979, Scandinavian Journal of
Statistics 6:65-70) keeps the probability of any wrong alarm at the level, whatever the categories have to do with each
other; it is never weaker than Bonferroni's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pydantic import BaseModel
from scipy.stats import binomtest

from tollgate.evaluation.paired import mcnemar_worse_p, worse_than_margin_p
from tollgate.evaluation.scorers import ScoredCase
from tollgate.evaluation.summary import NO_CATEGORY


class CategoryFigures(BaseModel):
    """One category of the candidate, beside the champion where there is one.

    Attributes:
        below_floor_p: p-value, by Holm, that the accuracy is the floor or above (exact binomial); none without a floor.
        better: Cases that only the candidate got right; none without a champion, as the following.
        worse: Cases that only the champion got right.
        difference: Candidate's accuracy minus the champion's.
        worse_p: p-value, by Holm, that the candidate is not worse (McNemar mid-p).
        beyond_margin_p: p-value, by Holm, that it is not worse by more than the margin (Tango's score test).
    """

    category: str
    cases: int
    correct: int
    below_floor_p: float | None = None
    better: int | None = None
    worse: int | None = None
    difference: float | None = None
    worse_p: float | None = None
    beyond_margin_p: float | None = None


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values that may be held against the level one by one: ``max over j <= i of min(1, (m - j + 1) p_(j))``."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def category_figures(
    candidate: Sequence[ScoredCase],
    champion: Sequence[ScoredCase] | None,
    margin: float,
    floor: float | None,
    minimum_cases: int,
) -> list[CategoryFigures]:
    """Test every category that has enough cases.

    Args:
        candidate: Scored cases.
        champion: The champion's, of the same ids.
        margin: So much below the champion is still no worse.
        floor: Accuracy that no category may be below; none: any.
        minimum_cases: Smaller categories are passed over.

    Returns:
        By name; empty where all cases are of one category, for then the overall figures say it all.
    """
    groups: dict[str, list[ScoredCase]] = defaultdict(list)
    for case in candidate:
        groups[case.category or NO_CATEGORY].append(case)
    if len(groups) < 2:
        return []
    judged = {name: group for name, group in sorted(groups.items()) if len(group) >= minimum_cases}
    figures = [
        CategoryFigures(category=name, cases=len(group), correct=sum(case.correct for case in group))
        for name, group in judged.items()
    ]
    if floor is not None:
        _test_floor(figures, floor)
    if champion is not None:
        _test_champion(figures, judged, {case.id: case.correct for case in champion}, margin)
    return figures


def _test_floor(figures: Sequence[CategoryFigures], floor: float) -> None:
    found = [float(binomtest(one.correct, one.cases, floor, alternative="less").pvalue) for one in figures]
    for one, p_value in zip(figures, holm(found), strict=True):
        one.below_floor_p = p_value


def _test_champion(
    figures: Sequence[CategoryFigures],
    groups: Mapping[str, Sequence[ScoredCase]],
    right: Mapping[str, bool],
    margin: float,
) -> None:
    worse_p, beyond_p = [], []
    for one in figures:
        group = groups[one.category]
        better = sum(case.correct and not right[case.id] for case in group)
        worse = sum(not case.correct and right[case.id] for case in group)
        one.better, one.worse, one.difference = better, worse, (better - worse) / len(group)
        worse_p.append(mcnemar_worse_p(better, worse))
        beyond_p.append(worse_than_margin_p(better, worse, len(group), margin))
    for one, adjusted, beyond in zip(figures, holm(worse_p), holm(beyond_p), strict=True):
        one.worse_p, one.beyond_margin_p = adjusted, beyond
