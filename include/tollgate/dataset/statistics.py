"""Statistics of a dataset version: lengths, turns, categories and quality, in all and by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tollgate.dataset import distributions
from tollgate.dataset.schema import SPLITS, Split
from tollgate.settings import settings

if TYPE_CHECKING:
    import polars as pl

MOST, OTHERS = 200, "…"
"""How many different values are counted apart, and the name under which the others are counted together."""

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BINS = 10


def describe(parts: Mapping[Split, pl.DataFrame]) -> dict[str, Any]:
    """Describe the parts of a version.

    Args:
        parts: Rows of train, validation and test, with the columns of a version.

    Returns:
        JSON values: ``rows`` by part, ``question_characters`` and ``answer_characters`` (least, quantiles, mean, most),
        ``turns``, ``categories`` by part, ``sources``, ``quality`` as a histogram of ten bins from 0 to 1, and
        ``histograms`` of characters and tokens (see :mod:`tollgate.dataset.distributions`).
    """
    import polars as pl

    rows = pl.concat([parts[part].with_columns(pl.lit(part).alias("part")) for part in SPLITS])
    measured = rows.select(
        "part",
        "category",
        "source",
        "quality_score",
        characters_of("user").alias("question"),
        characters_of("assistant").alias("answer"),
        pl.col("messages").list.eval(pl.element().struct.field("role") == "user").list.sum().alias("turns"),
    )
    return {
        "rows": {part: parts[part].height for part in SPLITS},
        "question_characters": _distribution(measured["question"]),
        "answer_characters": _distribution(measured["answer"]),
        "turns": _counts(measured["turns"].cast(pl.String)),
        "categories": {part: _counts(measured.filter(pl.col("part") == part)["category"]) for part in SPLITS},
        "sources": _counts(measured["source"]),
        "quality": histogram(measured["quality_score"]),
        "histograms": {
            "question_characters": distributions.histogram(measured["question"].to_numpy()),
            "answer_characters": distributions.histogram(measured["answer"].to_numpy()),
            "tokens": distributions.tokens(rows, settings().served_base_model),
        },
    }


def characters_of(role: str) -> pl.Expr:
    """Number of characters that one role writes in each row's ``messages``."""
    import polars as pl

    of_role = pl.element().filter(pl.element().struct.field("role") == role)
    return pl.col("messages").list.eval(of_role.struct.field("content").str.len_chars()).list.sum()


def histogram(scores: pl.Series) -> list[int]:
    """How many scores (0 to 1) fall into each of ten bins of equal width; 1 itself counts in the last."""
    import numpy as np

    # A 0.7 of single precision is a little less; it belongs to the bin that begins there all the same.
    places = (scores.to_numpy().astype(np.float64) + 1e-6) * _BINS
    return np.bincount(np.clip(places.astype(np.int64), 0, _BINS - 1), minlength=_BINS).tolist()


def _distribution(values: pl.Series) -> dict[str, float]:
    if values.is_empty():
        return {}
    quantiles = {f"p{round(share * 100)}": float(values.quantile(share) or 0) for share in _QUANTILES}
    return {
        "min": _number(values.min()),
        **quantiles,
        "mean": round(_number(values.mean()), 1),
        "max": _number(values.max()),
    }


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _counts(values: pl.Series) -> dict[str, int]:
    """How often each value stands there, the most frequent first; those after the first :data:`MOST` together."""
    counted = values.rename("value").fill_null("").value_counts(name="rows")
    counted = counted.sort("rows", "value", descending=[True, False])
    counts = {str(value): int(count) for value, count in counted.head(MOST).rows()}
    if others := int(counted["rows"][MOST:].sum()):
        counts[OTHERS] = others
    return counts
