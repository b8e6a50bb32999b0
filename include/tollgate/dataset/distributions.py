"""How long the rows of a version are, as histograms, and how many tokens of the base model they make."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import polars as pl

BINS = 24
TOKEN_SAMPLE = 2_000
"""Rows whose tokens are counted; a tokenizer reads some megabytes a second only."""


def histogram(values: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Count whole numbers into at most :data:`BINS` bins of equal, round width from 0 on.

    The bins reach to the 99th percentile; the last one also holds everything beyond.

    Args:
        values: Numbers from 0 on, in any order.

    Returns:
        JSON values: ``width`` of a bin, ``counts`` (one a bin), ``beyond`` (how many of the last bin's are beyond its
        end), ``median`` and ``most``; ``counts`` is empty where there are no values.
    """
    import numpy as np

    if values.size == 0:
        return {"width": 1, "counts": [], "beyond": 0, "median": 0, "most": 0}
    reach = float(np.percentile(values, 99))
    width = _round_width(max(1.0, (reach + 1) / BINS))
    bins = max(1, math.ceil((reach + 1) / width))
    counts = np.bincount(np.minimum(values // width, bins - 1), minlength=bins)
    return {
        "width": width,
        "counts": counts.tolist(),
        "beyond": int((values >= bins * width).sum()),
        "median": int(np.median(values)),
        "most": int(values.max()),
    }


def _round_width(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50 … that is not below."""
    scale = 10 ** math.floor(math.log10(least))
    return next(int(factor * scale) for factor in (1, 2, 5, 10) if factor * scale >= least)


def tokens(rows: pl.DataFrame, base_model: Path) -> dict[str, Any] | None:
    """Count the tokens of whole rows, all turns together, with the base model's tokenizer.

    Args:
        rows: Rows with ``messages``; at most :data:`TOKEN_SAMPLE` of them, spread evenly, are counted.
        base_model: Folder of the base model, with its ``tokenizer.json``.

    Returns:
        The histogram, with ``sampled`` (rows counted) and ``tokenizer`` (the folder's name); None without a tokenizer.
    """
    path = base_model / "tokenizer.json"
    if not path.is_file() or importlib.util.find_spec("tokenizers") is None:
        return None
    import numpy as np
    from tokenizers import Tokenizer

    step = max(1, math.ceil(rows.height / TOKEN_SAMPLE))
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    texts = list(_texts(rows.gather_every(step)))
    counts = [len(one) for one in tokenizer.encode_batch(texts, add_special_tokens=False)]
    measured = histogram(np.asarray(counts, dtype=np.int64))
    return {**measured, "sampled": len(counts), "tokenizer": base_model.name}


def _texts(rows: pl.DataFrame) -> Iterable[str]:
    for messages in rows["messages"].to_list():
        yield "\n".join(turn["content"] for turn in messages)
