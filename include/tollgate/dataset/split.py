"""Split into train, validation and test: by near-duplicate cluster, stratified by category, the same every time.

A cluster is never cut, or the test set would hold what was trained on. Clusters are ordered by a hash of the seed and
their content, so the split depends neither on the order of the rows nor on chance, and a few new rows move few old
ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tollgate.dataset.schema import SPLITS, Split

if TYPE_CHECKING:
    import numpy.typing as npt
    import polars as pl

    Keys = npt.NDArray[np.uint64]

SMALLEST_STRATUM = 10
"""Categories with fewer rows than this are split together, as one stratum."""

_HELD_OUT: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}
_ENOUGH = 0.5  # a part that wants less than half a row gets none


@dataclass(frozen=True)
class Shares:
    """Parts of the rows (each 0 to 1) that validation and test get; the rest is for training."""

    validation: float = 0.1
    test: float = 0.1


def assign(
    keys: Keys,
    clusters: npt.NDArray[np.int64],
    categories: Sequence[str | None] | pl.Series,
    shares: Shares,
    seed: int = 0,
) -> pl.Series:
    """Choose the part of each row.

    Args:
        keys: A number for each row that depends on its content alone.
        clusters: The near-duplicate cluster of each row.
        categories: What to stratify by; a cluster counts for the category most of its rows have.
        shares: How much validation and test get, in every stratum, as near as whole clusters allow.
        seed: Another seed, another split.

    Returns:
        The part of each row as text, in the order of the rows.
    """
    import polars as pl

    rows = pl.DataFrame({"cluster": clusters, "key": keys, "category": _in_order(categories)})
    found = _clusters(rows)
    found = found.with_columns(pl.Series("order", _mixed(found["key"].to_numpy(), seed), dtype=pl.UInt64))
    found = found.sort("stratum", "order", "key", "cluster")
    found = found.with_columns(_parts(found["stratum"], found["rows"].to_numpy(), shares))
    return rows.select("cluster").join(
        found.select("cluster", "part"), on="cluster", how="left", maintain_order="left"
    )["part"]


def _in_order(categories: Sequence[str | None] | pl.Series) -> pl.Series:
    """Categories as a column that sorts by name, and quickly; nothing becomes the empty name."""
    import polars as pl

    named = pl.Series("category", categories, dtype=pl.String).fill_null("")
    return named.cast(pl.Enum(pl.concat([named, pl.Series([""])]).unique().sort()))


def _clusters(rows: pl.DataFrame) -> pl.DataFrame:
    """Each cluster with its number of rows, its least key, and the stratum that it counts for."""
    import polars as pl

    counted = rows.group_by("cluster", "category").agg(pl.len().alias("rows"), pl.col("key").min())
    found = (
        counted.sort("rows", "category", descending=[True, False])
        .group_by("cluster", maintain_order=True)
        .agg(pl.col("category").first(), pl.col("rows").sum(), pl.col("key").min())
    )
    sizes = counted.group_by("category").agg(pl.col("rows").sum().alias("size"))
    large = pl.col("size") >= SMALLEST_STRATUM
    stratum = pl.when(large).then("category").otherwise(pl.lit("", rows["category"].dtype)).alias("stratum")
    return found.join(sizes, on="category").select("cluster", "rows", "key", stratum)


def _mixed(keys: Keys, seed: int) -> Keys:
    """Keys in another order for every seed: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    mixed = keys + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _parts(strata: pl.Series, sizes: npt.NDArray[np.uint32], shares: Shares) -> pl.Series:
    """The part of each cluster; the clusters of a stratum stand together, in the order in which they are dealt."""
    import polars as pl

    parts = np.zeros(len(sizes), np.int8)
    owed: dict[Split, float] = {"test": 0.0, "validation": 0.0}
    ends = np.flatnonzero(np.diff(strata.rle_id().to_numpy(), append=-1)) + 1
    start = 0
    for end in ends.tolist():
        _deal(sizes[start:end], parts[start:end], shares, owed)
        start = end
    return pl.Series("part", parts).replace_strict(range(len(SPLITS)), SPLITS, return_dtype=pl.String)


def _deal(sizes: npt.NDArray[np.uint32], parts: npt.NDArray[np.int8], shares: Shares, owed: dict[Split, float]) -> None:
    """Fill test and validation from the front; what rounding leaves over or short is owed to the next stratum."""
    total = int(sizes.sum())
    wanted: dict[Split, float] = {
        "test": total * shares.test + owed["test"],
        "validation": total * shares.validation + owed["validation"],
    }
    for place, rows in enumerate(sizes.tolist()):
        if max(wanted.values()) < _ENOUGH:
            break
        part = next((name for name in wanted if wanted[name] >= rows - _ENOUGH), None)
        if part is not None:
            wanted[part] -= rows
            parts[place] = SPLITS.index(part)
    owed.update(wanted)


def without_leaks(declared: Sequence[Split] | pl.Series, clusters: npt.NDArray[np.int64]) -> pl.Series:
    """Take the parts that rows declare, without those that would leak into a more held-out part.

    Where a near-duplicate cluster stands in several parts, only its rows in the most held-out one stay (test before
    validation before train).

    Returns:
        The part of each row as text, or nothing for a row that must go.
    """
    import polars as pl

    rows = pl.DataFrame({"part": declared, "cluster": clusters}, schema_overrides={"part": pl.String})
    held_out = pl.col("part").replace_strict(_HELD_OUT, return_dtype=pl.Int8)
    furthest = held_out == held_out.max().over("cluster")
    return rows.select(pl.when(furthest).then("part"))["part"]
