"""Split into train, validation and test: by near-duplicate cluster, stratified by category, the same every time.

A cluster is never cut, or the test set would hold what was trained on. Clusters are ordered by a hash of the seed and
their content, so the split depends neither on the order of the rows nor on chance, and a few new rows move few old
ones.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tollgate.dataset.schema import Split

SMALLEST_STRATUM = 10
"""Categories with fewer rows than this are split together, as one stratum."""

_HELD_OUT: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True)
class Shares:
    """Parts of the rows (each 0 to 1) that validation and test get; the rest is for training."""

    validation: float = 0.1
    test: float = 0.1


def assign(
    keys: Sequence[str], clusters: Sequence[int], categories: Sequence[str | None], shares: Shares, seed: int = 0
) -> list[Split]:
    """Choose the part of each row.

    Args:
        keys: A text for each row that depends on its content alone, such as its id.
        clusters: The near-duplicate cluster of each row.
        categories: What to stratify by; a cluster counts for the category most of its rows have.
        shares: How much validation and test get, in every stratum, as near as whole clusters allow.
        seed: Another seed, another split.

    Returns:
        The part of each row, in the order of the rows.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for row, cluster in enumerate(clusters):
        members[cluster].append(row)
    strata: dict[str, list[list[int]]] = defaultdict(list)
    sizes = Counter(category or "" for category in categories)
    for rows in members.values():
        counts = Counter(categories[row] or "" for row in rows)
        category = min(counts, key=lambda name: (-counts[name], name))
        strata[category if sizes[category] >= SMALLEST_STRATUM else ""].append(rows)
    parts: list[Split] = ["train"] * len(keys)
    owed: dict[Split, float] = {"test": 0.0, "validation": 0.0}
    for category in sorted(strata):
        _assign_stratum(sorted(strata[category], key=lambda rows: _order(seed, keys, rows)), shares, parts, owed)
    return parts


def _order(seed: int, keys: Sequence[str], rows: Sequence[int]) -> bytes:
    return hashlib.sha256(f"{seed}/{min(keys[row] for row in rows)}".encode()).digest()


def _assign_stratum(
    clusters: Sequence[Sequence[int]], shares: Shares, parts: list[Split], owed: dict[Split, float]
) -> None:
    """Fill test and validation from the front; what rounding leaves over or short is owed to the next stratum."""
    total = sum(map(len, clusters))
    wanted: dict[Split, float] = {
        "test": total * shares.test + owed["test"],
        "validation": total * shares.validation + owed["validation"],
    }
    for rows in clusters:
        part = next((name for name in wanted if wanted[name] >= len(rows) - 0.5), None)
        if part is None:
            continue
        wanted[part] -= len(rows)
        for row in rows:
            parts[row] = part
    owed.update(wanted)


def without_leaks(declared: Sequence[Split], clusters: Sequence[int]) -> list[Split | None]:
    """Take the parts that rows declare, without those that would leak into a more held-out part.

    Where a near-duplicate cluster stands in several parts, only its rows in the most held-out one stay (test before
    validation before train).

    Returns:
        The part of each row, or None for a row that must go.
    """
    furthest: dict[int, int] = {}
    for part, cluster in zip(declared, clusters, strict=True):
        furthest[cluster] = max(furthest.get(cluster, 0), _HELD_OUT[part])
    return [
        part if _HELD_OUT[part] == furthest[cluster] else None for part, cluster in zip(declared, clusters, strict=True)
    ]
