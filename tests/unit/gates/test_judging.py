"""The judge in a process of its own judges as the one in ours, and doesn't outlive us."""

from __future__ import annotations

from pathlib import Path

import pytest

from tollgate.errors import TollgateError
from tollgate.gates import contract
from tollgate.gates.judging import judge_process

TERMS = contract.Terms(
    min_rows=3,
    max_duplicate_share=0.0,
    max_broken_share=0.1,
    min_quality=0.7,
    max_toxicity=0.5,
    max_residual_personal_data=None,
)
METRICS = {"rows": 2.0, "train_rows": 1.0, "validation_rows": 1.0, "test_rows": 0.0, "duplicate_share": 0.0}


def test_it_judges_the_same(tmp_path: Path) -> None:
    with judge_process() as judge:
        found = judge(METRICS, TERMS, tmp_path / "docs")
    assert found == contract.judge(METRICS, TERMS)
    assert [check.column for check in found.checks if not check.passed] == ["rows", "test_rows"]
    assert (tmp_path / "docs" / "index.html").is_file()


def test_its_failure_is_told() -> None:
    with judge_process() as judge, pytest.raises(TollgateError, match="judge failed"):
        judge({"rows": 1.0}, TERMS)


def test_it_need_not_be_asked() -> None:
    with judge_process():
        pass
