"""Each term of the contract fails for the rows that break it, and for no others."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from tollgate.gates import contract

TERMS = contract.Terms(
    min_rows=3,
    max_duplicate_share=0.0,
    max_broken_share=0.1,
    min_quality=0.7,
    max_toxicity=0.5,
    max_residual_personal_data=0,
)


def _rows(**changed: list[Any]) -> pl.DataFrame:
    def chat(question: str, *roles: str) -> list[dict[str, str]]:
        return [{"role": role, "content": f"{role} {question}"} for role in roles]

    columns: dict[str, list[Any]] = {
        "messages": [
            chat("가", "system", "user", "assistant"),
            chat("나", "user", "assistant"),
            chat("다", "user", "assistant"),
        ],
        "cluster": [0, 1, 2],
        "part": ["train", "validation", "test"],
        "quality_score": [0.8, 1.0, 0.7],
        "toxicity": [0.0, 0.1, 0.2],
    }
    return pl.DataFrame({**columns, **changed})


def _failed(rows: pl.DataFrame, residual: int = 0, broken: float = 0.0) -> set[str]:
    judgement = contract.judge(rows, contract.metrics(rows, residual, broken), TERMS)
    assert judgement.passed == (not contract.failures(judgement))
    return {check.column for check in judgement.checks if not check.passed}


def test_good_rows_pass() -> None:
    assert _failed(_rows()) == set()


@pytest.mark.parametrize(
    ("changed", "residual", "broken", "failed"),
    [
        ({"cluster": [0, 0, 2]}, 0, 0.0, {"clusters_across_parts"}),
        ({"part": ["train", "train", "train"]}, 0, 0.0, {"validation_rows", "test_rows"}),
        ({"quality_score": [0.8, 0.69, 0.7]}, 0, 0.0, {"quality_score"}),
        ({"toxicity": [0.0, 0.9, 0.0]}, 0, 0.0, {"toxicity"}),
        ({}, 1, 0.0, {"residual_personal_data"}),
        ({}, 0, 0.2, {"broken_share"}),
        (
            {"messages": [[{"role": "user", "content": "가"}]] * 3},
            0,
            0.0,
            {"roles", "duplicate_share", "answer_characters"},
        ),
    ],
)
def test_each_term_fails_for_what_breaks_it(
    changed: dict[str, list[Any]], residual: int, broken: float, failed: set[str]
) -> None:
    assert _failed(_rows(**changed), residual, broken) == failed
