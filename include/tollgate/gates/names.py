"""Names of persons in Korean text, found by a small model trained on KLUE-NER; see ``models/names/NOTICE``.

A cheap scan leaves over the words that may be part of a name; a linear-chain conditional random field over characters
with hashed features reads those. Both are compiled (:mod:`tollgate.gates.names_scan_kernels` and
:mod:`tollgate.gates.names_kernels`) and read whole columns without a Python string per row. Words of a list of ordinary
words that look like names (이용자, 임대인, 고속도) are never names.

The accurate mode adds what the morphological analyser kiwipiepy says of each character and is some two hundred
times slower. kiwipiepy is no requirement of the project; who asks for the accurate mode without it is told so.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tollgate.errors import BadInputError, Problem
from tollgate.gates.names_tables import Tables, tables
from tollgate.gates.text_buffers import buffers, text_column
from tollgate.gates.threads import cores

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.float32]]
    Morphemes = tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]

ANALYSER = ("kiwipiepy", "kiwipiepy_model")
"""The packages that the accurate mode needs."""

_MODELS = Path(__file__).with_name("models") / "names"
_BLOCK = 1 << 20  # bytes of text that a thread takes at a time
_ODDS = 30.0
_LONGEST = 30  # characters of a name


def find(text: str, accurate: bool = False) -> Iterator[tuple[int, int, float]]:
    """Find names of persons.

    Args:
        text: Any text.
        accurate: Whether to use the slower and better model.

    Yields:
        Start, end and confidence (0 to 1) of each name, with its surname and without title and particle.

    Raises:
        BadInputError: The accurate model was asked for and kiwipiepy isn't installed.
    """
    _, starts, ends, confidences = find_column([text], accurate)
    yield from zip(starts.tolist(), ends.tolist(), (round(one, 3) for one in confidences.tolist()), strict=True)


def find_column(texts: pa.Array | pa.ChunkedArray | list[str], accurate: bool = False) -> Found:
    """Find names of persons in a column of texts.

    Args:
        texts: A column of strings.
        accurate: Whether to use the slower and better model.

    Returns:
        Of each name, in the order of rows and places: row, start and end in characters, without title and particle,
        and confidence (0 to 1).

    Raises:
        BadInputError: The accurate model was asked for and kiwipiepy isn't installed.
    """
    column = text_column(texts)
    if not accurate:
        return tagger("fast").find_column(column)
    check_accurate()
    from tollgate.gates import names_morphemes

    return tagger("accurate").find_column(column, names_morphemes.features(column.to_pylist()))


def check_accurate() -> None:
    """Check that the accurate mode can run here.

    Raises:
        BadInputError: kiwipiepy or its model isn't installed.
    """
    missing = [package for package in ANALYSER if not find_spec(package)]
    if missing:
        problem = Problem("names", "accurate", f"fast, or {' and '.join(missing)} in this environment (pip install)")
        raise BadInputError("The accurate search for names needs an analyser that is not installed", [problem])


@cache
def tagger(mode: str) -> Tagger:
    """The model of a mode (fast, accurate) that the project ships."""
    with np.load(_MODELS / f"{mode}.npz") as file:
        return Tagger.of({name: file[name] for name in file.files}, tables(shipped=True))


@dataclass(frozen=True)
class Tagger:
    """A trained model, ready to run.

    Attributes:
        scan: Weights of the scan for runs of letters that may be part of a name; none where all are read.
        least: The lowest sum of weights of a run that is read.
        weights: Four bytes for each feature's number, each a weight and 128.
        transitions: Scores of one tag after another, shape (5, 5).
        scale: What a weight of 1 stands for.
        bias: Added to the scores of tags inside names.
        tables: What the model knew before it was trained.
        fold: What each character is read as.
    """

    scan: npt.NDArray[np.int8]
    least: np.int32
    weights: npt.NDArray[np.uint32]
    transitions: npt.NDArray[np.float32]
    scale: np.float32
    bias: np.float32
    tables: Tables
    fold: npt.NDArray[np.uint16]

    @classmethod
    def of(cls, stored: dict[str, npt.NDArray[np.generic]], known: Tables) -> Tagger:
        """Lay out stored weights for the kernel.

        Args:
            stored: ``gaps`` between the numbers of features that have weights, their ``weights`` of B, I, E, S (shape
                (4, features), bytes), ``transitions``, ``scale`` and ``bias``; of the fast mode ``scan`` and ``least``.
            known: Character tables and word lists.
        """
        from tollgate.gates.names_kernels import BITS, folding

        rows = np.full((1 << BITS, 4), 128, np.uint8)
        rows[np.cumsum(stored["gaps"], dtype=np.int64)] = (stored["weights"].astype(np.int16) + 128).T
        return cls(
            stored.get("scan", np.empty(0, np.int8)).astype(np.int8),
            np.int32(stored.get("least", 0)),
            rows.view("<u4").ravel(),
            stored["transitions"].astype(np.float32),
            np.float32(stored["scale"]),
            np.float32(stored["bias"]),
            known,
            folding(),
        )

    def find_column(self, column: pa.LargeStringArray, morphemes: Morphemes | None = None) -> Found:
        """Find names; see :func:`find_column`.

        Args:
            column: Texts.
            morphemes: Where each text's characters begin, and further features of each, for a model that has them.
        """
        offsets, data = buffers(column)
        if morphemes is None:
            morphemes = np.zeros(len(offsets), np.int64), np.empty((0, 0), np.uint32)
        blocks = list(pairwise(_edges(offsets)))

        def search(block: tuple[int, int]) -> Found:
            return self._find(offsets, data, *block, morphemes)

        if len(blocks) > 1:
            with ThreadPoolExecutor(cores()) as pool:
                parts = list(pool.map(search, blocks))
        else:
            parts = [search(block) for block in blocks]
        rows, starts, ends, odds = (np.concatenate(one) for one in zip(*parts, strict=True))
        short = ends - starts <= _LONGEST  # a word that is typed again and again looks like one long name
        rows, starts, ends, odds = rows[short], starts[short], ends[short], odds[short]
        confidence = 1 / (1 + np.exp(-np.clip(odds, -_ODDS, _ODDS)))
        return rows, starts, ends, confidence.astype(np.float32)

    def _find(
        self,
        offsets: npt.NDArray[np.int64],
        data: npt.NDArray[np.uint8],
        first: int,
        last: int,
        morphemes: Morphemes,
    ) -> Found:
        from tollgate.gates import names_kernels

        return names_kernels.find(
            offsets, data, first, last, *morphemes, self.fold, self.tables.arrays(), self.scan, self.least,
            self.weights, self.scale, self.bias, self.transitions,
        )  # fmt: skip


def _edges(offsets: npt.NDArray[np.int64]) -> list[int]:
    """Rows at which blocks of about the same size begin, and the end."""
    cuts = np.searchsorted(offsets, np.arange(offsets[0] + _BLOCK, offsets[-1], _BLOCK))
    return [0, *np.unique(cuts[(cuts > 0) & (cuts < len(offsets) - 1)]).tolist(), len(offsets) - 1]
