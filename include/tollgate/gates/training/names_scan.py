"""Training of the scan in :mod:`tollgate.gates.names_scan_kernels`: logistic regression over runs by AdaGrad.

Features are dropped at random, so that a run's own letters alone don't decide. Import this module inside functions
only: it loads numba.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba as nb
import numpy as np

from tollgate.gates.names_scan_kernels import BITS, FEATURES, LONGEST, run_end, run_features

if TYPE_CHECKING:
    import numpy.typing as npt

    from tollgate.gates.character_kernels import Bytes, Codes, Integer
    from tollgate.gates.names_kernels import Real, Whole
    from tollgate.gates.names_scan_kernels import Numbers, Signed
    from tollgate.gates.names_tables import Tables
    from tollgate.gates.training.names_crf import Sentences

LEAST_ODDS = -4.0
"""Log-odds from which a run is read by the tagger; chosen by cross-validation, so that hardly a name is lost."""

_EPOCHS = 4
_RATE = np.float32(0.1)
_DROP = 0.3
_START_OF_SQUARES = np.float32(0.05)
_CLIP = 4.0
_BYTE = 127


@dataclass(frozen=True)
class Scan:
    """Weights as signed bytes, and the lowest sum of a run that may be part of a name."""

    weights: Signed
    least: np.int32


@nb.njit(cache=True)
def _runs(
    codes: Codes, offsets: Whole, outside: Real, kind: Bytes, syllables: Bytes
) -> tuple[Whole, Numbers, npt.NDArray[np.float32]]:
    """Where the features of each run begin, their numbers, and how surely the run is part of a name."""
    numbers = np.empty(len(codes) * 4 + FEATURES * len(offsets), np.uint32)
    bounds, labels = np.zeros(len(codes) + 1, np.int64), np.empty(len(codes), np.float32)
    runs = 0
    filled: Integer = 0
    for sentence in range(len(offsets) - 1):
        first, last = offsets[sentence], offsets[sentence + 1]
        passage = codes[first:last]
        start: Integer = 0
        while start < len(passage):
            end = run_end(passage, len(passage), start, kind)
            if 0 < end - start <= LONGEST:
                if filled + FEATURES > len(numbers):
                    numbers = np.concatenate((numbers, np.empty_like(numbers)))
                filled += run_features(passage, len(passage), start, end, syllables, numbers[filled:])
                labels[runs] = 1 - outside[first + start : first + end].min()
                runs += 1
                bounds[runs] = filled
            start = max(end, start + 1)
    return bounds[: runs + 1], numbers[:filled], labels[:runs]


@nb.njit(cache=True)
def _epoch(
    bounds: Whole, numbers: Numbers, labels: Real, order: Whole, weights: Real, squares: Real, seed: int
) -> None:
    np.random.seed(seed)
    scale = np.float32(1 / (1 - _DROP))
    kept = np.empty(FEATURES, np.bool_)
    for run in order:
        start, end = bounds[run], bounds[run + 1]
        total = np.float32(0)
        for one in range(start, end):
            kept[one - start] = np.random.random() >= _DROP
            if kept[one - start]:
                total += weights[numbers[one]] * scale
        error = (1 / (1 + np.exp(-total)) - labels[run]) * scale
        for one in range(start, end):
            if kept[one - start]:
                number = numbers[one]
                squares[number] += error * error
                weights[number] -= _RATE * error / np.sqrt(squares[number])


def train(sentences: Sentences, tables: Tables, seed: int) -> Scan:
    """Train a scan; the same input and seed give the same weights."""
    bounds, numbers, labels = _runs(
        sentences.codes, sentences.offsets, sentences.targets[:, 0], tables.kind, tables.syllables
    )
    weights = np.zeros(1 << BITS, np.float32)
    squares = np.full_like(weights, _START_OF_SQUARES)
    rng = np.random.default_rng(seed)
    for epoch in range(_EPOCHS):
        _epoch(bounds, numbers, labels, rng.permutation(len(labels)), weights, squares, seed * 1000 + epoch)
    scale = _CLIP / _BYTE
    rounded = np.clip(np.rint(weights / scale), -_BYTE, _BYTE).astype(np.int8)
    return Scan(rounded, np.int32(round(LEAST_ODDS / scale)))
