"""An adapter merged into its base, so that it is served as full weights: when that may be, and what it needs.

The merging itself is ``containers/trainer/merge.py``, a job of its own after the training. It runs on the CPU, whatever
trained the adapter, and so asks for no memory of a GPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from tollgate.errors import Problem

ServedAs = Literal["adapter", "merged"]
ADAPTER: ServedAs = "adapter"
MERGED: ServedAs = "merged"

FOLDER = "merging"
"""Name of the merging's folder in the folder of the training job: its result, error and log."""
ORIGIN = "merged_from.json"
"""File among merged weights: which adapter and which base they are made of."""

_FRAMEWORK_BYTES = 600 * 10**6
"""Resident before the weights, and the layer that is being merged: Python, PyTorch, transformers, PEFT. Measured."""

_COPIES = 2
"""Of the weights at most: the merged ones, and the base's files, which are mapped into memory. Measured."""


def unmergeable_base(folder: Path) -> list[Problem]:
    """What keeps an adapter from being merged into this base; empty if nothing does.

    Adding to weights of few bits and rounding them again would lose more than the adapter says. An unreadable
    configuration is no finding of this function.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if not isinstance(config, dict) or "quantization_config" not in config:
        return []
    return [Problem("base_model", f"{folder}, which is stored quantized", "the base in bf16 or fp32, to merge into")]


def weights_bytes(base: Path) -> int:
    """Bytes of the base's weights as they are stored; the merged ones have as many."""
    return sum(path.stat().st_size for path in base.glob("*.safetensors"))


def memory_bytes(base: Path) -> int:
    """Memory that the merging has at most, where weights keep the arithmetic that they are stored in.

    Merging into 435 million parameters in bf16 took 2.20 GB at most; this says 2.34 GB.
    """
    return _FRAMEWORK_BYTES + _COPIES * weights_bytes(base)
