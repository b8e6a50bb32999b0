from __future__ import annotations

import pytest

from tollgate.evaluation.scorers import ScoredCase
from tollgate.evaluation.summary import summarise


def test_counts_intervals_categories_fields_and_latency() -> None:
    cases = [
        ScoredCase(
            id=str(i),
            category="요금" if i < 60 else None,
            correct=i < 90,
            valid=i < 95,
            answer="{}" if i < 98 else " ",
            fields={"분류": i < 92},
            latency_ms=float(i + 1),
            error="HTTP 400" if i == 99 else None,
        )
        for i in range(100)
    ]
    summary = summarise(cases)
    assert (summary.cases, summary.correct, summary.accuracy) == (100, 90, 0.9)
    # Two-sided Wilson interval of 90/100, as in Newcombe 1998 and R's prop.test(90, 100, correct = FALSE).
    assert (summary.low, summary.high) == (pytest.approx(0.8256, abs=5e-5), pytest.approx(0.9448, abs=5e-5))
    assert {name: (share.cases, share.correct) for name, share in summary.categories.items()} == {
        "-": (40, 30),
        "요금": (60, 60),
    }
    assert summary.fields == {"분류": 0.92}
    assert (summary.valid_json_share, summary.empty_answers, summary.errors) == (0.95, 2, 1)
    assert summary.latency_p50_ms == pytest.approx(50.5)
    assert summary.latency_p99_ms == pytest.approx(99.01)


def test_no_cases_claim_nothing() -> None:
    summary = summarise([])
    assert (summary.cases, summary.low, summary.high) == (0, 0, 1)
    assert summary.latency_p50_ms is None
    assert summary.valid_json_share is None
