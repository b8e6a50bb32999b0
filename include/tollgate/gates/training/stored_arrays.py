"""How trained weights and tables are written: as compressed arrays, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def write(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> Path:
    """Write arrays to an ``.npz`` file, first under another name; folders above it are made.

    The same arrays give the same bytes.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return part.replace(path)
