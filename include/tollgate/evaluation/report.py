"""What the report of an evaluation holds: all figures, and the cases that tell most."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field

from tollgate.evaluation.cases import Message
from tollgate.evaluation.further import FurtherFigures
from tollgate.evaluation.scorers import ScoredCase
from tollgate.evaluation.summary import EvaluationSummary, summarise
from tollgate.evaluation.verdict import Verdict

REPORT_JSON, REPORT_PAGE = "report.json", "report.html"
"""Names of the report in an evaluation's folder."""

WORST_KEPT = 30
COMPARED_KEPT = 20
_BINS = 24

Kind = Literal["lost", "gained", "both_wrong"]
"""Only the champion was right, only the candidate was, or neither."""


class ComparedCase(BaseModel):
    """One question with both models' answers."""

    id: str
    category: str | None
    messages: tuple[Message, ...]
    expected: str | None
    candidate: str | None
    champion: str | None
    kind: Kind


class Histogram(BaseModel):
    """Counts in bins of equal width that begin at 0; the last bin holds all beyond."""

    width: float
    counts: list[int]


class EvaluationReport(BaseModel):
    """Everything that a report shows.

    Attributes:
        subject: The model that was evaluated.
        suite: What it was asked.
        champion_name: The model that it stands beside.
        scorers: Who scored the cases.
        worst: The candidate's telling failures, the gravest first.
        compared: Cases where it differs from the champion, and some where both are wrong.
        counts: How many cases of each kind there are; not all are shown.
        latency: The candidate's milliseconds per case.
    """

    subject: str
    suite: str
    written: dt.datetime
    champion_name: str | None = None
    scorers: list[str] = Field(default_factory=list)
    summary: EvaluationSummary
    champion: EvaluationSummary | None = None
    base: EvaluationSummary | None = None
    further: FurtherFigures = Field(default_factory=FurtherFigures)
    verdict: Verdict | None = None
    worst: list[ScoredCase] = Field(default_factory=list)
    compared: list[ComparedCase] = Field(default_factory=list)
    counts: dict[Kind, int] = Field(default_factory=dict)
    latency: Histogram | None = None


def make_report(
    subject: str,
    suite: str,
    cases: Sequence[ScoredCase],
    champion: Sequence[ScoredCase] | None = None,
    further: FurtherFigures | None = None,
    verdict: Verdict | None = None,
    champion_name: str | None = None,
    base: EvaluationSummary | None = None,
) -> EvaluationReport:
    """Count up an evaluation and choose the cases that tell most.

    Args:
        subject: The model.
        suite: What it was asked.
        cases: Its scored cases.
        champion: The champion's; cases that only one of them has are not compared.
        further: What was measured beside the cases.
        verdict: If there is one.
        champion_name: For the headings.
        base: The figures of the model before any training.
    """
    compared = _compare(cases, champion or ())
    shown: list[ComparedCase] = []
    for kind in ("lost", "gained", "both_wrong"):
        shown += [case for case in compared if case.kind == kind][:COMPARED_KEPT]
    return EvaluationReport(
        subject=subject,
        suite=suite,
        written=dt.datetime.now(dt.UTC),
        champion_name=champion_name or ("champion" if champion else None),
        scorers=sorted({case.scorer for case in cases if case.scorer}),
        summary=summarise(cases),
        champion=summarise(champion) if champion else None,
        base=base,
        further=further or FurtherFigures(),
        verdict=verdict,
        worst=worst_cases(cases, {case.id for case in compared if case.kind == "lost"}),
        compared=shown,
        counts={kind: sum(case.kind == kind for case in compared) for kind in ("lost", "gained", "both_wrong")},
        latency=_histogram([case.latency_ms for case in cases if case.latency_ms is not None]),
    )


def worst_cases(cases: Sequence[ScoredCase], lost: set[str], kept: int = WORST_KEPT) -> list[ScoredCase]:
    """The wrong cases, the gravest first: refused, empty, without the form asked for, lost to the champion, far off.

    Args:
        cases: All cases.
        lost: Ids of those that the champion got right.
        kept: So many at most.
    """
    wrong = [case for case in cases if not case.correct]

    def gravity(case: ScoredCase) -> tuple[bool, bool, bool, bool, float, str]:
        right_fields = sum(case.fields.values()) / len(case.fields) if case.fields else 0.0
        near = case.value if case.value is not None else right_fields
        return (case.error is None, not case.empty, case.valid is not False, case.id not in lost, near, case.id)

    return sorted(wrong, key=gravity)[:kept]


def _compare(cases: Sequence[ScoredCase], champion: Sequence[ScoredCase]) -> list[ComparedCase]:
    others = {case.id: case for case in champion}
    pairs = [(case, others[case.id]) for case in cases if case.id in others]
    return [_compared(case, other) for case, other in pairs if not (case.correct and other.correct)]


def _compared(case: ScoredCase, other: ScoredCase) -> ComparedCase:
    return ComparedCase(
        id=case.id,
        category=case.category,
        messages=case.messages,
        expected=case.expected,
        candidate=case.answer,
        champion=other.answer,
        kind="gained" if case.correct else "lost" if other.correct else "both_wrong",
    )


def _histogram(values: Sequence[float]) -> Histogram | None:
    if not values:
        return None
    ordered = sorted(values)
    # The slowest hundredth would press all others into one bin; it goes into the last one.
    most = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    width = max(most, 0.001) / _BINS
    counts = [0] * _BINS
    for value in values:
        counts[min(_BINS - 1, int(value / width))] += 1
    return Histogram(width=width, counts=counts)
