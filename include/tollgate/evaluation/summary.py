"""The figures of an evaluation: overall and per category, with intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, Field
from scipy.stats import binomtest

from tollgate.evaluation.scorers import ScoredCase

NO_CATEGORY = "-"
"""Stands for the category of cases that have none."""


class Share(BaseModel):
    """How many of some cases were right.

    Attributes:
        accuracy: ``correct / cases``, in [0, 1]; 0 without cases.
        low: Lower end of the two-sided 95 % Wilson interval of the accuracy.
        high: Its upper end.
    """

    cases: int = Field(ge=0)
    correct: int = Field(ge=0)
    accuracy: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class EvaluationSummary(Share):
    """All figures of one evaluation.

    Attributes:
        categories: Per category, sorted by name; ``-`` holds the cases without one.
        fields: Per field of JSON answers, the share of cases where it was right.
        valid_json_share: Share of answers that parse as a JSON object; none where the scorer asks for no form.
        empty_answers: Answers without any text.
        errors: Cases that the server refused.
        mean_value: Mean of the graded scores; none where the scorers do not grade.
        latency_p50_ms: Median of the milliseconds per case; none where no latency was kept.
        latency_p95_ms: Their 95th percentile.
        latency_p99_ms: Their 99th percentile.
    """

    categories: dict[str, Share]
    fields: dict[str, float]
    valid_json_share: float | None
    empty_answers: int
    errors: int
    mean_value: float | None = None
    latency_p50_ms: float | None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None


def share(correct: int, cases: int) -> Share:
    """Accuracy with its two-sided 95 % Wilson interval (Wilson 1927); without cases the interval is [0, 1]."""
    if cases == 0:
        return Share(cases=0, correct=0, accuracy=0, low=0, high=1)
    interval = binomtest(correct, cases).proportion_ci(0.95, method="wilson")
    return Share(cases=cases, correct=correct, accuracy=correct / cases, low=interval.low, high=interval.high)


def summarise(cases: Sequence[ScoredCase]) -> EvaluationSummary:
    """Count up all cases of one evaluation."""
    by_category: dict[str, list[ScoredCase]] = defaultdict(list)
    for case in cases:
        by_category[case.category or NO_CATEGORY].append(case)
    latencies = [case.latency_ms for case in cases if case.latency_ms is not None]
    valid = [case.valid for case in cases if case.valid is not None]
    values = [case.value for case in cases if case.value is not None]
    return EvaluationSummary(
        **_share_of(cases).model_dump(),
        categories={name: _share_of(by_category[name]) for name in sorted(by_category)},
        fields=_field_shares(cases),
        valid_json_share=sum(valid) / len(valid) if valid else None,
        empty_answers=sum(case.empty for case in cases),
        errors=sum(case.error is not None for case in cases),
        mean_value=float(np.mean(values)) if values else None,
        latency_p50_ms=percentile(latencies, 50),
        latency_p95_ms=percentile(latencies, 95),
        latency_p99_ms=percentile(latencies, 99),
    )


def percentile(values: Sequence[float], place: float) -> float | None:
    """A percentile (0 to 100), between two values in proportion; none without values."""
    return float(np.percentile(values, place)) if values else None


def _share_of(cases: Sequence[ScoredCase]) -> Share:
    return share(sum(case.correct for case in cases), len(cases))


def _field_shares(cases: Sequence[ScoredCase]) -> dict[str, float]:
    values: dict[str, list[bool]] = defaultdict(list)
    for case in cases:
        for name, right in case.fields.items():
            values[name].append(right)
    return {name: sum(right) / len(right) for name, right in values.items()}
