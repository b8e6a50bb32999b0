"""Training of the tagger in :mod:`tollgate.gates.names_kernels`: AdaGrad on the conditional log-likelihood.

The gradient of a weight is the expected count of its feature less the labelled count (Lafferty, McCallum & Pereira
2001), expectations by forward and backward passes. Whole feature templates are dropped at random in each sentence,
so that a name is known by what is beside it and not by its letters alone; so is the dictionary, as most of the world's
names are in none. Import this module inside functions only: it loads numba.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba as nb
import numpy as np

from tollgate.gates.names_kernels import BITS, FEATURES, TAGS, prepared, room_for_marks

if TYPE_CHECKING:
    import numpy.typing as npt

    from tollgate.gates.character_kernels import Codes
    from tollgate.gates.names_kernels import Features, Known, Real, Whole
    from tollgate.gates.names_tables import Tables

    Double = npt.NDArray[np.float64]
    Flags = npt.NDArray[np.bool_]

_START_OF_SQUARES = np.float32(0.05)
_TOO_SMALL = 1e-4


def allowed() -> npt.NDArray[np.bool_]:
    """Which tag may follow which (row by column) in BIES tagging."""
    inside = np.array([False, True, True, False, False])
    goes_on = np.array([False, False, True, True, False])
    return inside[:, None] == goes_on[None, :]


@nb.njit(cache=True)
def _scores(
    numbers: Features, extra: Features, count: int, weights: Real, dropped: Flags, scale: np.float32, scores: Real
) -> None:
    for i in range(count):
        for tag in range(TAGS):
            scores[i, tag] = 0
        for k in range(FEATURES + extra.shape[1]):
            if not dropped[k]:
                number = numbers[i, k] if k < FEATURES else extra[i, k - FEATURES]
                for tag in range(1, TAGS):
                    scores[i, tag] += weights[number, tag - 1] * scale


@nb.njit(cache=True)
def _marginals(
    scores: Real, count: int, transitions: Double, allow: Flags, forward: Double, backward: Double, chances: Double,
    pairs: Double,
) -> None:  # fmt: skip
    """Chances of each tag of each character, and expected counts of each pair of tags (added to ``pairs``)."""
    factor = np.zeros((TAGS, TAGS))
    for one in range(TAGS):
        for two in range(TAGS):
            if allow[one, two]:
                factor[one, two] = np.exp(transitions[one, two])
    for i in range(count):
        top = scores[i].max()
        for tag in range(TAGS):
            chances[i, tag] = np.exp(np.float64(scores[i, tag] - top))
    for tag in range(TAGS):
        forward[0, tag] = chances[0, tag] if tag != 2 and tag != 3 else 0.0
        backward[count - 1, tag] = 1.0 if tag != 1 and tag != 2 else 0.0
    forward[0] /= forward[0].sum()
    for i in range(1, count):
        total = 0.0
        for two in range(TAGS):
            value = 0.0
            for one in range(TAGS):
                value += forward[i - 1, one] * factor[one, two]
            forward[i, two] = value * chances[i, two]
            total += forward[i, two]
        for two in range(TAGS):
            forward[i, two] /= total
    for i in range(count - 2, -1, -1):
        total = 0.0
        for one in range(TAGS):
            value = 0.0
            for two in range(TAGS):
                value += factor[one, two] * chances[i + 1, two] * backward[i + 1, two]
            backward[i, one] = value
            total += value
        for one in range(TAGS):
            backward[i, one] /= total
    for i in range(count - 1):
        total = 0.0
        for one in range(TAGS):
            for two in range(TAGS):
                total += forward[i, one] * factor[one, two] * chances[i + 1, two] * backward[i + 1, two]
        for one in range(TAGS):
            for two in range(TAGS):
                value = forward[i, one] * factor[one, two] * chances[i + 1, two] * backward[i + 1, two]
                pairs[one, two] += value / total
    for i in range(count):
        total = 0.0
        for tag in range(TAGS):
            chances[i, tag] = forward[i, tag] * backward[i, tag]
            total += chances[i, tag]
        for tag in range(TAGS):
            chances[i, tag] /= total


@nb.njit(cache=True)
def _epoch(
    codes: Codes, offsets: Whole, extra: Features, targets: Real, order: Whole,
    known: Known, allow: Flags, weights: Real, squares: Real, transitions: Double,
    transition_squares: Double, rate: np.float32, drop: float, unlisted: float, seed: int,
) -> None:  # fmt: skip
    """One pass over the sentences, in an order; changes the weights and transitions in place."""
    np.random.seed(seed)
    longest = 1
    for s in range(len(offsets) - 1):
        longest = max(longest, offsets[s + 1] - offsets[s])
    numbers = np.empty((longest, FEATURES), np.uint32)
    room = room_for_marks(longest)
    wanted = np.ones(longest, np.uint8)
    scores = np.empty((longest, TAGS), np.float32)
    chances, forward, backward = np.empty((longest, TAGS)), np.empty((longest, TAGS)), np.empty((longest, TAGS))
    pairs = np.empty((TAGS, TAGS))
    without = known[0], known[1], known[2], known[3], np.zeros(1, np.int32), np.zeros(1, np.uint8)
    templates = FEATURES + extra.shape[1]
    dropped = np.zeros(templates, np.bool_)
    scale = np.float32(1 / (1 - drop))
    for s in order:
        start, end = offsets[s], offsets[s + 1]
        count = end - start
        if count == 0:
            continue
        listed = np.random.random() >= unlisted
        prepared(codes[start:end], count, known if listed else without, room, wanted, numbers)
        more = extra[start:end]
        for k in range(templates):
            dropped[k] = np.random.random() < drop
        _scores(numbers, more, count, weights, dropped, scale, scores)
        pairs[:] = 0
        _marginals(scores, count, transitions, allow, forward, backward, chances, pairs)
        for i in range(count):
            for tag in range(1, TAGS):
                error = np.float32(chances[i, tag] - targets[start + i, tag]) * scale
                if abs(error) < _TOO_SMALL:
                    continue
                for k in range(templates):
                    if not dropped[k]:
                        number = numbers[i, k] if k < FEATURES else more[i, k - FEATURES]
                        squares[number, tag - 1] += error * error
                        weights[number, tag - 1] -= rate * error / np.sqrt(squares[number, tag - 1])
        for i in range(start, end - 1):
            for one in range(TAGS):
                for two in range(TAGS):
                    pairs[one, two] -= targets[i, one] * targets[i + 1, two]
        for one in range(TAGS):
            for two in range(TAGS):
                if allow[one, two]:
                    error = pairs[one, two]
                    transition_squares[one, two] += error * error
                    transitions[one, two] -= rate * error / np.sqrt(transition_squares[one, two])


@dataclass(frozen=True)
class Sentences:
    """Labelled sentences.

    Attributes:
        codes: Folded characters of all sentences, one after the other.
        offsets: Where each sentence begins; one more than there are sentences.
        targets: 1 for the tag of each character, else 0, shape (characters, 5).
        extra: Numbers of further features of each character, shape (characters, any).
    """

    codes: Codes
    offsets: Whole
    targets: Real
    extra: Features


@dataclass(frozen=True)
class Model:
    """Weights of B, I, E, S for each feature's number, shape (2 ** BITS, 4), and of pairs of tags, shape (5, 5)."""

    weights: Real
    transitions: Double


def train(
    sentences: Sentences,
    tables: Tables,
    seed: int,
    epochs: int = 7,
    rate: float = 0.1,
    drop: float = 0.4,
    unlisted: float = 0.2,
) -> Model:
    """Train a model, the mean of its second half of epochs; the same input and seed give the same weights.

    Args:
        sentences: What to learn from.
        tables: Character tables and word lists.
        seed: Seed of the order of the sentences and of what is dropped.
        epochs: Passes over the sentences.
        rate: AdaGrad's learning rate.
        drop: Chance that a feature template is left out of a sentence.
        unlisted: Chance that a sentence is read as if the dictionary were empty.
    """
    weights = np.zeros((1 << BITS, TAGS - 1), np.float32)
    squares = np.full_like(weights, _START_OF_SQUARES)
    transitions, transition_squares = np.zeros((TAGS, TAGS)), np.full((TAGS, TAGS), float(_START_OF_SQUARES))
    rng = np.random.default_rng(seed)
    kept = []
    for epoch in range(epochs):
        _epoch(
            sentences.codes, sentences.offsets, sentences.extra, sentences.targets,
            rng.permutation(len(sentences.offsets) - 1), tables.arrays(), allowed(),
            weights, squares, transitions, transition_squares, np.float32(rate), drop, unlisted, seed * 1000 + epoch,
        )  # fmt: skip
        if epoch >= epochs // 2:
            kept.append(Model(weights.copy(), transitions.copy()))
    return mean(kept)


def mean(models: Sequence[Model]) -> Model:
    """The mean of models, which scores like the mean of their scores."""
    weights: Real = np.stack([model.weights for model in models]).mean(axis=0, dtype=np.float32)
    transitions: Double = np.stack([model.transitions for model in models]).mean(axis=0)
    return Model(weights, transitions)
