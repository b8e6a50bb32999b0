"""The split keeps clusters together, categories balanced and the answer the same."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tollgate.dataset.schema import Split
from tollgate.dataset.split import Shares, assign, without_leaks

KEYS = np.random.default_rng(0).integers(0, 2**64, 1000, dtype=np.uint64)
ALONE = np.arange(1000)
CATEGORIES = [f"c{number % 4}" for number in range(1000)]


def test_shares_hold_in_every_category() -> None:
    parts = assign(KEYS, ALONE, CATEGORIES, Shares())
    counts = Counter(zip(CATEGORIES, parts, strict=True))
    for category in set(CATEGORIES):
        assert [counts[category, part] for part in ("train", "validation", "test")] == [200, 25, 25]


def test_the_order_of_the_rows_changes_nothing() -> None:
    order = random.Random(1).sample(range(1000), 1000)
    parts = assign(KEYS, ALONE, CATEGORIES, Shares())
    shuffled = assign(KEYS[order], np.array(order), [CATEGORIES[row] for row in order], Shares())
    assert shuffled.to_list() == [parts[row] for row in order]


def test_another_seed_gives_another_split() -> None:
    one, other = (assign(KEYS, ALONE, CATEGORIES, Shares(), seed) for seed in (0, 1))
    assert (one != other).sum() > 100


def test_categories_of_one_row_each_still_fill_every_part() -> None:
    parts = assign(KEYS[:100], ALONE[:100], [str(key) for key in KEYS[:100]], Shares())
    assert Counter(parts) == {"train": 80, "validation": 10, "test": 10}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from([None, "a", "b"])), min_size=1, max_size=60))
def test_no_cluster_is_ever_cut(rows: list[tuple[int, str | None]]) -> None:
    clusters = np.array([cluster for cluster, _ in rows])
    parts = assign(KEYS[: len(rows)], clusters, [category for _, category in rows], Shares(0.2, 0.2))
    found = defaultdict(set)
    for cluster, part in zip(clusters, parts, strict=True):
        found[cluster].add(part)
    assert all(len(one) == 1 for one in found.values())


def test_declared_parts_lose_the_rows_that_leak_and_no_held_out_row() -> None:
    declared: list[Split] = ["train", "test", "train", "validation", "train", "validation", "test"]
    clusters = np.array([1, 1, 2, 2, 3, 4, 4])
    found = without_leaks(declared, clusters)
    assert found.to_list() == [None, "test", None, "validation", "train", None, "test"]


def test_no_rows_have_no_parts() -> None:
    none = np.array([], np.int64)
    assert assign(none.astype(np.uint64), none, [], Shares()).to_list() == []
    assert without_leaks([], none).to_list() == []
