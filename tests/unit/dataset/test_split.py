"""The split keeps clusters together, categories balanced and the answer the same."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st

from tollgate.dataset.schema import Split
from tollgate.dataset.split import Shares, assign, without_leaks

KEYS = [f"row-{number}" for number in range(1000)]
CATEGORIES = [f"c{number % 4}" for number in range(1000)]


def test_shares_hold_in_every_category() -> None:
    parts = assign(KEYS, range(1000), CATEGORIES, Shares())
    counts = Counter(zip(CATEGORIES, parts, strict=True))
    for category in set(CATEGORIES):
        assert [counts[category, part] for part in ("train", "validation", "test")] == [200, 25, 25]


def test_the_order_of_the_rows_changes_nothing() -> None:
    order = random.Random(1).sample(range(1000), 1000)
    parts = assign(KEYS, range(1000), CATEGORIES, Shares())
    shuffled = assign([KEYS[row] for row in order], order, [CATEGORIES[row] for row in order], Shares())
    assert shuffled == [parts[row] for row in order]


def test_another_seed_gives_another_split() -> None:
    assert assign(KEYS, range(1000), CATEGORIES, Shares()) != assign(KEYS, range(1000), CATEGORIES, Shares(), seed=1)


def test_categories_of_one_row_each_still_fill_every_part() -> None:
    parts = assign(KEYS[:100], range(100), KEYS[:100], Shares())
    assert Counter(parts) == {"train": 80, "validation": 10, "test": 10}


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from([None, "a", "b"])), min_size=1, max_size=60))
def test_no_cluster_is_ever_cut(rows: list[tuple[int, str | None]]) -> None:
    clusters = [cluster for cluster, _ in rows]
    parts = assign(KEYS[: len(rows)], clusters, [category for _, category in rows], Shares(0.2, 0.2))
    found = defaultdict(set)
    for cluster, part in zip(clusters, parts, strict=True):
        found[cluster].add(part)
    assert all(len(one) == 1 for one in found.values())


def test_declared_parts_lose_the_rows_that_leak_and_no_held_out_row() -> None:
    declared: list[Split] = ["train", "test", "train", "validation", "train", "validation", "test"]
    clusters = [1, 1, 2, 2, 3, 4, 4]
    assert without_leaks(declared, clusters) == [None, "test", None, "validation", "train", None, "test"]
