"""Histograms count every value, in bins of round width."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tollgate.dataset import distributions


@pytest.mark.parametrize(
    ("values", "width", "counts", "beyond"),
    [
        ([0, 0, 3], 1, [2, 0, 0, 1], 0),
        ([5], 1, [0, 0, 0, 0, 0, 1], 0),
        (list(range(100)), 5, [5] * 20, 0),
        ([1] * 999 + [100_000], 1, [0, 1000], 1),
    ],
)
def test_bins_are_round_and_lose_nothing(values: list[int], width: int, counts: list[int], beyond: int) -> None:
    found = distributions.histogram(np.array(values))
    assert (found["width"], found["counts"], found["beyond"]) == (width, counts, beyond)
    assert sum(found["counts"]) == len(values)
    assert found["most"] == max(values)
    assert len(found["counts"]) <= distributions.BINS


@pytest.mark.parametrize("most", [23, 24, 47, 48, 119, 120, 999, 12_345, 10**9])
def test_there_are_never_more_bins_than_allowed(most: int) -> None:
    found = distributions.histogram(np.array([0, most] * 60))
    assert len(found["counts"]) <= distributions.BINS
    assert found["counts"][-1] + found["counts"][0] == 120


def test_no_rows_and_no_tokenizer(tmp_path: Path) -> None:
    assert distributions.histogram(np.empty(0, np.int64))["counts"] == []
    rows = pl.DataFrame({"messages": [[{"role": "user", "content": "가"}]]})
    assert distributions.tokens(rows, tmp_path) is None
