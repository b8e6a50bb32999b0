"""Near-duplicates among short texts, exactly: the demo's own rows must hold none but the planted ones."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable

SHINGLE = 5
"""Characters of a shingle."""


def shingles(text: str) -> frozenset[str]:
    """Overlapping runs of five characters, spaces folded; a shorter text is its own single shingle."""
    folded = re.sub(r"\s+", " ", text.strip())
    return frozenset(folded[i : i + SHINGLE] for i in range(max(1, len(folded) - SHINGLE + 1)))


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Size of the intersection over size of the union, 0 to 1."""
    return len(first & second) / len(first | second)


class NearDuplicateIndex:
    """A growing set of texts that tells whether a new one is too like any of them.

    Exact, by prefix filtering (Bayardo, Ma, Srikant: Scaling up all pairs similarity search, 2007): in one common order
    of the shingles, two sets with a Jaccard similarity of at least ``t`` share a shingle among the first
    ``n - ceil(t n) + 1`` of each.

    Args:
        threshold: Similarity from which two texts count as near-duplicates, above 0 and up to 1.
        sample: Texts of the same kind. Rare shingles come first in the common order, which keeps comparisons few.
    """

    def __init__(self, threshold: float, sample: Iterable[str] = ()) -> None:
        self._threshold = threshold
        self._frequency = Counter(shingle for text in sample for shingle in shingles(text))
        self._sets: list[frozenset[str]] = []
        self._by_shingle: dict[str, list[int]] = defaultdict(list)

    def add(self, text: str) -> bool:
        """Add a text unless it is a near-duplicate of one already there; tells whether it was added."""
        new = shingles(text)
        prefix = self._prefix(new)
        seen = {number for shingle in prefix for number in self._by_shingle.get(shingle, ())}
        if any(jaccard(new, self._sets[number]) >= self._threshold for number in seen):
            return False
        for shingle in prefix:
            self._by_shingle[shingle].append(len(self._sets))
        self._sets.append(new)
        return True

    def _prefix(self, new: frozenset[str]) -> list[str]:
        ordered = sorted(new, key=lambda shingle: (self._frequency[shingle], shingle))
        return ordered[: len(ordered) - math.ceil(self._threshold * len(ordered)) + 1]
