"""Vectors of the beginnings of words, from texts without labels: words that are used alike have vectors alike.

They are the left singular vectors, times the roots of the singular values, of the positive pointwise mutual
information between a word's beginnings and the words around it, whose frequencies are raised to the power of 0.75
(Levy, Goldberg and Dagan 2015, "Improving distributional similarity with lessons learned from word embeddings"). The
decomposition is Halko, Martinsson and Tropp's (2011) randomized one. Beginnings stand for words, as what follows them
in Korean is mostly particles and endings. They are numbers of features of
:mod:`tollgate.gates.toxicity_kernels`, so that what a linear model gives a vector can be said as weights of features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tollgate.gates.character_kernels import character_classes
from tollgate.gates.text_buffers import buffers, text_column

if TYPE_CHECKING:
    import numpy.typing as npt

    Numbers = npt.NDArray[np.int32]
    Reals = npt.NDArray[np.float32]

_WINDOW = 3  # words before and after
_LEAST = 8  # times a beginning must occur to get a vector
_CONTEXTS = 8_000  # most frequent beginnings that count as what is around a word
_SMOOTHING = 0.75
_DIMENSIONS = 100
_SPARE = 20  # dimensions that are dropped again, so that the others are exact
_ITERATIONS = 2
_FREQUENT = 3e-4  # share of all words at which a beginning's vector is half as long as a rare one's


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Vectors of beginnings of words.

    Attributes:
        features: The feature that is each beginning (n,), ascending.
        vectors: Their vectors (n, dimensions), the shorter the more frequent a beginning is.
    """

    features: Numbers
    vectors: Reals


def learn(texts: Sequence[str], seed: int) -> WordVectors:
    """Learn vectors from texts; the same texts and seed give the same vectors.

    Args:
        texts: Texts without labels.
        seed: Seed of the random directions that the decomposition begins with.
    """
    from tollgate.gates import toxicity_kernels as kernels

    rows, words = kernels.beginnings(*buffers(text_column(list(texts))), character_classes())
    counts = np.bincount(words[words >= 0], minlength=1 << kernels.BITS)
    features = np.flatnonzero(counts >= _LEAST).astype(np.int32)
    place = np.full(len(counts) + 1, -1, np.int32)  # the last one is for -1, which is no beginning
    place[features] = np.arange(len(features))
    information = _information(rows, place[words])
    vectors = _decomposed(information, seed)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    weight = _FREQUENT / (_FREQUENT + counts[features] / len(words))
    return WordVectors(features, (vectors / np.maximum(lengths, 1e-9) * weight[:, None]).astype(np.float32))


def _information(rows: Numbers, words: Numbers) -> Any:
    """Positive pointwise mutual information of beginnings (rows) and frequent beginnings around them (columns)."""
    import scipy.sparse as sparse

    first = words[:, 0]
    frequency = np.bincount(first[first >= 0], minlength=words.max() + 1)
    frequent = np.argsort(-frequency, kind="stable")[:_CONTEXTS]
    column = np.full(len(frequency) + 1, -1, np.int32)
    column[frequent] = np.arange(len(frequent))
    shape = (len(frequency), len(frequent))
    counts = sparse.csr_matrix(shape, dtype=np.float32)
    for beginning, context in _pairs(rows, words, column[first]):
        ones = np.ones(len(beginning), np.float32)
        counts += sparse.coo_matrix((ones, (beginning, context)), shape).tocsr()
    of_row = np.asarray(counts.sum(axis=1)).ravel()
    of_column = np.asarray(counts.sum(axis=0)).ravel() ** _SMOOTHING
    counts = counts.tocoo()
    ratio = counts.data * of_column.sum() / (of_row[counts.row] * of_column[counts.col])
    above = ratio > 1
    values = np.log(ratio[above]).astype(np.float32)
    return sparse.csr_matrix((values, (counts.row[above], counts.col[above])), shape)


def _pairs(rows: Numbers, words: Numbers, context: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """Beginnings and the contexts at each distance from them, before and after, within the same text."""
    for distance in range(1, _WINDOW + 1):
        near = rows[distance:] == rows[:-distance]
        earlier, later = slice(None, -distance), slice(distance, None)
        for here, there in ((earlier, later), (later, earlier)):
            for which in range(words.shape[1]):
                known = near & (words[here, which] >= 0) & (context[there] >= 0)
                yield words[here, which][known], context[there][known]


def _decomposed(matrix: Any, seed: int) -> Reals:
    """Left singular vectors times the roots of the singular values, of the greatest ones."""
    rng = np.random.default_rng(seed)
    basis = matrix @ rng.standard_normal((matrix.shape[1], _DIMENSIONS + _SPARE)).astype(np.float32)
    for _ in range(_ITERATIONS):
        basis = matrix @ np.linalg.qr(matrix.T @ np.linalg.qr(basis)[0])[0]
    basis = np.linalg.qr(basis)[0]
    left, values, _ = np.linalg.svd((matrix.T @ basis).T, full_matrices=False)
    vectors: Reals = (basis @ left)[:, :_DIMENSIONS] * np.sqrt(values[:_DIMENSIONS])
    return vectors
