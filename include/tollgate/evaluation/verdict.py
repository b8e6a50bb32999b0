"""Whether a candidate may go to production: pass, inconclusive (a person decides) or fail, with the reasons in words.

A point estimate alone lets a model of true accuracy 0.88 through a gate of "0.90 on 200 cases" almost one time in four;
so a pass also needs the lower confidence bound, and a champion may not be better by more than a margin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import binomtest, norm

from tollgate.errors import BadInputError, Problem
from tollgate.evaluation.paired import cases_for_margin, difference_lower_bound, mcnemar_mid_p
from tollgate.evaluation.scorers import ScoredCase

_IDS_SHOWN = 3


class Outcome(StrEnum):
    """The three values of a verdict."""

    PASS = "pass"  # noqa: S105
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"


_SEVERITY = {Outcome.PASS: 0, Outcome.INCONCLUSIVE: 1, Outcome.FAIL: 2}


class VerdictSettings(BaseModel):
    """What a candidate must reach."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float = Field(0.90, gt=0, lt=1, description="Accuracy that must be exceeded.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="One-sided confidence of the lower bounds.")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="Level at which the candidate counts as worse (two-sided).")
    margin: float = Field(0.02, gt=0, lt=1, description="So much below the champion's accuracy is still no worse.")
    minimum_cases: int = Field(100, ge=1, description="Fewer cases than this never pass.")
    empty_limit: float = Field(0.01, ge=0, le=1, description="Largest share of empty answers.")


DEFAULT_SETTINGS = VerdictSettings()


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


class Verdict(BaseModel):
    """The answer, and what it rests on.

    Attributes:
        reasons: Plain words, the gravest first. A pass names what was shown; anything else what stands against it.
        reasons_ko: The same in Korean.
        lower_bound: One-sided Wilson lower bound of the accuracy.
        cases_needed: So many cases in addition would turn an inconclusive verdict into a pass, if the rates stay as
            observed; none for other verdicts, or where no number of cases would.
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


@dataclass(frozen=True)
class _Finding:
    outcome: Outcome
    english: str
    korean: str
    cases_in_all: int | None = None


def wilson_lower_bound(correct: int, cases: int, confidence: float = 0.95) -> float:
    """One-sided lower bound of a share (Wilson 1927), in [0, 1]; 0 without cases."""
    if cases == 0:
        return 0.0
    interval = binomtest(correct, cases, alternative="greater").proportion_ci(confidence, method="wilson")
    return float(interval.low)


def cases_for_threshold(accuracy: float, threshold: float, confidence: float = 0.95) -> int | None:
    """So many cases lift the Wilson lower bound to ``threshold``, if the accuracy stays.

    Wilson's bound inverts the score test, hence ``n >= z^2 t (1 - t) / (accuracy - t)^2``.

    Returns:
        None where the accuracy is not above the threshold: then no number of cases does.
    """
    if accuracy <= threshold:
        return None
    return math.ceil(norm.ppf(confidence) ** 2 * threshold * (1 - threshold) / (accuracy - threshold) ** 2)


def judge(
    candidate: Sequence[ScoredCase],
    champion: Sequence[ScoredCase] | None = None,
    settings: VerdictSettings = DEFAULT_SETTINGS,
) -> Verdict:
    """Judge a candidate by its scored cases; with a champion, by both models' answers to the same cases.

    Raises:
        BadInputError: No cases, a case twice, or the champion answered others than the candidate.
    """
    _check(candidate, champion)
    total, correct = len(candidate), sum(case.correct for case in candidate)
    empty = sum(case.empty for case in candidate)
    comparison = compare(candidate, champion, settings.confidence) if champion is not None else None
    findings = [*_accuracy_findings(correct, total, settings), *_form_findings(total, empty, settings)]
    if comparison:
        findings += _champion_findings(comparison, total, settings)
    outcome = max((finding.outcome for finding in findings), key=_SEVERITY.__getitem__)
    told = [finding for finding in findings if outcome is Outcome.PASS or finding.outcome is not Outcome.PASS]
    told.sort(key=lambda finding: -_SEVERITY[finding.outcome])
    return Verdict(
        outcome=outcome,
        reasons=[finding.english for finding in told],
        reasons_ko=[finding.korean for finding in told],
        cases=total,
        correct=correct,
        accuracy=correct / total,
        lower_bound=wilson_lower_bound(correct, total, settings.confidence),
        threshold=settings.threshold,
        empty_answers=empty,
        cases_needed=_cases_needed(told, total) if outcome is Outcome.INCONCLUSIVE else None,
        champion=comparison,
    )


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


def _accuracy_findings(correct: int, total: int, settings: VerdictSettings) -> list[_Finding]:
    accuracy, threshold = correct / total, settings.threshold
    counted = f"{accuracy:.4f} ({correct}/{total})"
    if accuracy <= threshold:
        return [
            _Finding(
                Outcome.FAIL,
                f"Accuracy {counted} is not above the required {threshold:.2f}.",
                f"정확도 {counted}가 기준 {threshold:.2f}을 넘지 못했습니다.",
            )
        ]
    bound = wilson_lower_bound(correct, total, settings.confidence)
    level = f"{settings.confidence:.0%}"
    if bound >= threshold:
        return [
            _Finding(
                Outcome.PASS,
                f"Accuracy {counted} is above {threshold:.2f}, and so is its lower {level} bound, {bound:.4f}.",
                f"정확도 {counted}와 그 {level} 하한 {bound:.4f}가 모두 기준 {threshold:.2f}을 충족합니다.",
            )
        ]
    needed = cases_for_threshold(accuracy, threshold, settings.confidence)
    return [
        _Finding(
            Outcome.INCONCLUSIVE,
            f"Accuracy {counted} is above {threshold:.2f}, but its lower {level} bound, {bound:.4f}, is not: "
            f"it may be luck. At this accuracy {needed} cases in all would show it.",
            f"정확도 {counted}는 기준 {threshold:.2f}을 넘지만 {level} 하한 {bound:.4f}는 기준에 못 미쳐 "
            f"우연일 수 있습니다. 이 정확도라면 모두 {needed}개의 사례가 있어야 확인됩니다.",
            needed,
        )
    ]


def _form_findings(total: int, empty: int, settings: VerdictSettings) -> list[_Finding]:
    findings = []
    if total < settings.minimum_cases:
        findings.append(
            _Finding(
                Outcome.INCONCLUSIVE,
                f"{total} cases are too few to decide by; at least {settings.minimum_cases} are required.",
                f"사례가 {total}개뿐이라 판정할 수 없습니다. 최소 {settings.minimum_cases}개가 필요합니다.",
                settings.minimum_cases,
            )
        )
    if empty > settings.empty_limit * total:
        findings.append(
            _Finding(
                Outcome.FAIL,
                f"{empty} of {total} answers are empty; the limit is {settings.empty_limit:.1%}.",
                f"답변 {total}개 중 {empty}개가 비어 있습니다. 허용 한도는 {settings.empty_limit:.1%}입니다.",
            )
        )
    return findings


def _champion_findings(comparison: ChampionComparison, total: int, settings: VerdictSettings) -> list[_Finding]:
    counted = (
        f"{comparison.difference:+.4f} (only the candidate right: {comparison.better}, "
        f"only the champion: {comparison.worse}, McNemar mid-p {comparison.p_value:.4f})"
    )
    counted_ko = (
        f"{comparison.difference:+.4f}(후보만 정답 {comparison.better}건, 운영 모델만 정답 {comparison.worse}건, "
        f"McNemar mid-p {comparison.p_value:.4f})"
    )
    if comparison.worse > comparison.better and comparison.p_value < settings.alpha:
        return [
            _Finding(
                Outcome.FAIL,
                f"The candidate is significantly worse than the champion: {counted}.",
                f"후보 모델이 운영 모델보다 유의하게 나쁩니다: {counted_ko}.",
            )
        ]
    bound = f"{comparison.difference_lower_bound:+.4f}"
    if comparison.difference_lower_bound >= -settings.margin:
        return [
            _Finding(
                Outcome.PASS,
                f"The candidate is not worse than the champion by more than {settings.margin:.2f}: {counted}; "
                f"lower bound {bound}.",
                f"후보 모델이 운영 모델보다 {settings.margin:.2f} 넘게 나쁘지 않습니다: {counted_ko}, 하한 {bound}.",
            )
        ]
    needed = cases_for_margin(comparison.better, comparison.worse, total, settings.margin, settings.confidence)
    more = f" At these rates {needed} cases in all would." if needed else ""
    more_ko = f" 이 비율이라면 모두 {needed}개의 사례가 필요합니다." if needed else ""
    return [
        _Finding(
            Outcome.INCONCLUSIVE,
            f"The cases do not rule out that the candidate is worse than the champion by more than "
            f"{settings.margin:.2f}: {counted}; lower bound {bound}.{more}",
            f"후보 모델이 운영 모델보다 {settings.margin:.2f} 넘게 나쁠 가능성을 배제할 수 없습니다: {counted_ko}, "
            f"하한 {bound}.{more_ko}",
            needed,
        )
    ]


def _cases_needed(findings: Sequence[_Finding], total: int) -> int | None:
    """Cases in addition to the present ones; none where one of the findings would not yield to any number."""
    needed = [finding.cases_in_all for finding in findings]
    if None in needed:
        return None
    return max(1, max(number for number in needed if number is not None) - total)
