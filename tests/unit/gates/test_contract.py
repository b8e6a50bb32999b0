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
    max_bias=0.5,
    max_residual_personal_data=0,
    max_contaminated=0,
    max_question_characters=1000,
    max_answer_characters=1000,
)
NOTHING = contract.Found(residual_personal_data=0, contaminated=0, broken_share=0.0)


def _rows(**changed: list[Any]) -> pl.DataFrame:
    columns: dict[str, list[Any]] = {
        "content": [1, 2, 3],
        "cluster": [0, 1, 2],
        "category": ["요금", "요금", None],
        "part": ["train", "validation", "test"],
        "takes_turns": [True, True, True],
        "question_characters": [1, 10, 100],
        "answer_characters": [1, 10, 100],
        "quality_score": [0.8, 1.0, 0.7],
        "toxicity": [0.0, 0.1, 0.2],
        "bias": [0.0, 0.1, 0.2],
    }
    return pl.DataFrame({**columns, **changed})


def _failed(rows: pl.DataFrame, terms: contract.Terms = TERMS, **found: Any) -> set[str]:
    measured = contract.metrics(rows, NOTHING.model_copy(update=found), terms)
    judgement = contract.judge(measured, terms)
    assert judgement.passed == (not contract.failures(judgement))
    return {check.column for check in judgement.checks if not check.passed}


def test_good_rows_pass() -> None:
    assert _failed(_rows()) == set()


@pytest.mark.parametrize(
    ("changed", "found", "failed"),
    [
        ({"cluster": [0, 0, 2]}, {}, {"clusters_across_parts"}),
        ({"part": ["train", "train", "train"]}, {}, {"validation_rows", "test_rows"}),
        ({"part": ["train", "validation", None]}, {}, {"test_rows", "rows_without_part"}),
        ({"quality_score": [0.8, 0.69, 0.7]}, {}, {"rows_of_low_quality"}),
        ({"toxicity": [0.0, 0.9, 0.0]}, {}, {"rows_too_toxic"}),
        ({"toxicity": [0.0, float("nan"), 0.0]}, {}, {"rows_too_toxic"}),
        ({"bias": [0.0, 0.9, 0.0]}, {}, {"rows_too_biased"}),
        ({"content": [1, 1, 3]}, {}, {"duplicate_share"}),
        ({"takes_turns": [True, False, True]}, {}, {"rows_out_of_turn"}),
        ({"answer_characters": [1, 0, 5]}, {}, {"rows_with_an_empty_side"}),
        ({"question_characters": [1, 1001, 5]}, {}, {"rows_with_long_question"}),
        ({"answer_characters": [1, 1001, 5]}, {}, {"rows_with_long_answer"}),
        ({}, {"residual_personal_data": 1}, {"residual_personal_data"}),
        ({}, {"contaminated": 1}, {"contaminated_rows"}),
        ({}, {"broken_share": 0.2}, {"broken_share"}),
    ],
)
def test_each_term_fails_for_what_breaks_it(
    changed: dict[str, list[Any]], found: dict[str, Any], failed: set[str]
) -> None:
    assert _failed(_rows(**changed), **found) == failed


def test_categories_must_have_their_shares_and_not_drift() -> None:
    terms = TERMS.model_copy(update={"min_category_shares": {"요금": 0.6, "사고": 0.1}, "max_category_drift": 0.3})
    same, other = {"요금": 20, "": 10}, {"요금": 10, "사고": 20}
    assert _failed(_rows(), terms, reference_categories=same) == {f"{contract.SHARE_OF}사고"}
    drifted = {f"{contract.SHARE_OF}사고", "category_drift"}
    assert _failed(_rows(), terms, reference_categories=other) == drifted
    assert contract.drift({"a": 0.5, "b": 0.5}, {"a": 3, "c": 1}) == pytest.approx(0.5)


def test_what_is_not_asked_for_is_not_judged() -> None:
    lenient = TERMS.model_copy(update={"max_residual_personal_data": None, "max_contaminated": None})
    assert _failed(_rows(), lenient, residual_personal_data=5, contaminated=5) == set()


def test_no_rows_fail_without_a_fault() -> None:
    assert _failed(_rows().clear()) == {"rows", "train_rows", "validation_rows", "test_rows"}
