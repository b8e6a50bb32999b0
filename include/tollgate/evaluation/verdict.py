"""Whether a candidate may go to production: pass, inconclusive (a person decides) or fail, with the reasons in words.

A point estimate alone lets a model of true accuracy 0.88 through a gate of "0.90 on 200 cases" almost one time in four;
so a pass also needs the lower confidence bound, and a champion may not be better by more than a margin. The rules, with
their formulas and sources, stand in ``docs/evaluation.md``.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from tollgate.errors import BadInputError, Problem
from tollgate.evaluation.categories import CategoryFigures, category_figures
from tollgate.evaluation.findings import (
    accuracy_finding,
    category_findings,
    champion_finding,
    form_findings,
    judge_finding,
    perplexity_findings,
    wilson_lower_bound,
)
from tollgate.evaluation.further import FurtherFigures
from tollgate.evaluation.paired import ChampionComparison, difference_lower_bound, mcnemar_mid_p
from tollgate.evaluation.required_cases import cases_for_margin, cases_for_threshold
from tollgate.evaluation.scorers import JUDGE, ScoredCase
from tollgate.evaluation.verdict_settings import DEFAULT_SETTINGS, SEVERITY, Finding, Outcome, VerdictSettings

__all__ = ["ChampionComparison", "Outcome", "Verdict", "VerdictSettings", "compare", "judge", "wilson_lower_bound"]

_IDS_SHOWN = 3
NOTHING_FURTHER = FurtherFigures()


class Verdict(BaseModel):
    """The answer, and what it rests on.

    Attributes:
        reasons: Plain words, the gravest first. A pass names what was shown; anything else what stands against it.
        reasons_ko: The same in Korean.
        lower_bound: One-sided Wilson lower bound of the accuracy.
        cases_needed: So many cases in addition would turn an inconclusive verdict into a pass with the power of the
            settings, if the rates stay as observed; none for other verdicts, or where no number of cases would.
        categories: The tests of single categories; empty where there is one only.
    """

    outcome: Outcome
    reasons: list[str]
    reasons_ko: list[str]
    cases: int
    correct: int
    accuracy: float
    lower_bound: float
    threshold: float
    empty_answers: int
    cases_needed: int | None = None
    champion: ChampionComparison | None = None
    categories: list[CategoryFigures] = Field(default_factory=list)


def judge(
    candidate: Sequence[ScoredCase],
    champion: Sequence[ScoredCase] | None = None,
    settings: VerdictSettings = DEFAULT_SETTINGS,
    further: FurtherFigures = NOTHING_FURTHER,
) -> Verdict:
    """Judge a candidate by its scored cases; with a champion, by both models' answers to the same cases.

    Args:
        candidate: The candidate's cases.
        champion: The champion's, with the same ids.
        settings: What must be reached.
        further: What was measured beside the cases.

    Raises:
        BadInputError: No cases, a case twice, or the champion answered others than the candidate.
    """
    _check(candidate, champion)
    verdict = _judge(candidate, champion, settings, further)
    judged = sum(case.scorer == JUDGE for case in candidate)
    if verdict.outcome is not Outcome.PASS or not judged or _trusted(further, settings):
        return verdict
    if _passes_without_judge(candidate, champion, settings, further):
        return verdict
    finding = judge_finding(further, settings, judged, len(candidate))
    told = {"reasons": [finding.english], "reasons_ko": [finding.korean], "outcome": finding.outcome}
    return verdict.model_copy(update=told)


def _trusted(further: FurtherFigures, settings: VerdictSettings) -> bool:
    found = further.judge
    return found is not None and found.kappa >= settings.judge_kappa and found.cases >= settings.judge_labels


def _passes_without_judge(
    candidate: Sequence[ScoredCase],
    champion: Sequence[ScoredCase] | None,
    settings: VerdictSettings,
    further: FurtherFigures,
) -> bool:
    others = [case for case in candidate if case.scorer != JUDGE]
    ids = {case.id for case in others}
    beside = None if champion is None else [case for case in champion if case.id in ids]
    return bool(others) and _judge(others, beside, settings, further).outcome is Outcome.PASS


def _judge(
    candidate: Sequence[ScoredCase],
    champion: Sequence[ScoredCase] | None,
    settings: VerdictSettings,
    further: FurtherFigures,
) -> Verdict:
    total, correct = len(candidate), sum(case.correct for case in candidate)
    comparison = compare(candidate, champion, settings.confidence) if champion is not None else None
    power = power_each(settings, with_champion=comparison is not None)
    categories = category_figures(
        candidate, champion, settings.category_margin, settings.category_floor, settings.category_cases
    )
    findings = [accuracy_finding(correct, total, settings, power), *form_findings(candidate, settings)]
    if comparison:
        findings.append(champion_finding(comparison, total, settings, power))
    findings += [*category_findings(categories, settings), *perplexity_findings(further, settings)]
    outcome = max((finding.outcome for finding in findings), key=SEVERITY.__getitem__)
    told = [finding for finding in findings if outcome is Outcome.PASS or finding.outcome is not Outcome.PASS]
    told.sort(key=lambda finding: -SEVERITY[finding.outcome])
    needed = _cases_needed(told, correct, total, comparison, settings) if outcome is Outcome.INCONCLUSIVE else None
    return Verdict(
        outcome=outcome,
        reasons=[finding.english for finding in told],
        reasons_ko=[finding.korean for finding in told],
        cases=total,
        correct=correct,
        accuracy=correct / total,
        lower_bound=wilson_lower_bound(correct, total, settings.confidence),
        threshold=settings.threshold,
        empty_answers=sum(case.empty for case in candidate),
        cases_needed=needed,
        champion=comparison,
        categories=categories,
    )


def power_each(settings: VerdictSettings, *, with_champion: bool) -> float:
    """The power that each bound needs, so that all together have that of the settings (Bonferroni's inequality)."""
    return 1 - (1 - settings.power) / (2 if with_champion else 1)


def compare(
    candidate: Sequence[ScoredCase], champion: Sequence[ScoredCase], confidence: float = 0.95
) -> ChampionComparison:
    """Count where the two differ, pairing cases by their id; both must hold the same ids."""
    right = {case.id: case.correct for case in champion}
    better = sum(case.correct and not right[case.id] for case in candidate)
    worse = sum(not case.correct and right[case.id] for case in candidate)
    return ChampionComparison(
        accuracy=sum(right.values()) / len(right),
        better=better,
        worse=worse,
        difference=(better - worse) / len(candidate),
        difference_lower_bound=difference_lower_bound(better, worse, len(candidate), confidence),
        p_value=mcnemar_mid_p(better, worse),
    )


def _check(candidate: Sequence[ScoredCase], champion: Sequence[ScoredCase] | None) -> None:
    if not candidate:
        raise BadInputError("There is nothing to judge.", [Problem("candidate", "no cases", "at least one")])
    ids = {case.id for case in candidate}
    _check_distinct("candidate", candidate, ids)
    if champion is None:
        return
    others = {case.id for case in champion}
    _check_distinct("champion", champion, others)
    if ids != others:
        shown = ", ".join(sorted(ids ^ others)[:_IDS_SHOWN])
        found = f"{len(ids - others)} cases of the candidate missing, {len(others - ids)} others (such as {shown})"
        problem = Problem("champion", found, "answers to the very cases of the candidate")
        raise BadInputError("Candidate and champion answered different cases.", [problem])


def _check_distinct(who: str, cases: Sequence[ScoredCase], ids: set[str]) -> None:
    if len(ids) == len(cases):
        return
    seen: set[str] = set()
    twice = next(case.id for case in cases if case.id in seen or seen.add(case.id))  # type: ignore[func-returns-value]
    raise BadInputError("A case is there twice.", [Problem(f"{who}, id", repr(twice), "an id that no other case has")])


def _cases_needed(
    findings: Sequence[Finding],
    correct: int,
    total: int,
    comparison: ChampionComparison | None,
    settings: VerdictSettings,
) -> int | None:
    """Cases in addition to the present ones; none where one of the findings would not yield to any number."""
    needed = [finding.cases_in_all for finding in findings]
    power = power_each(settings, with_champion=comparison is not None)
    # A bound that holds now may not hold on other cases: every bound must have its power, not only the missing ones.
    needed.append(cases_for_threshold(correct / total, settings.threshold, settings.confidence, power))
    if comparison is not None:
        beside = (comparison.better, comparison.worse, total)
        needed.append(cases_for_margin(*beside, settings.margin, settings.confidence, power))
    if None in needed:
        return None
    return max(1, max(number for number in needed if number is not None) - total)
