"""Duplicates: exact ones by hash, near ones by MinHash LSH with exact verification, the best of each group kept.

What is compared. Two rows are duplicates when what the user asks is (nearly) the same *and* the answer is
(nearly) the same. The two sides are compared apart, because short messages with a long or structured answer
share most of their characters with every row of the same label. The same question with another answer is no
duplicate but a conflict: kept, counted, shown. Answers that differ in a number ("5일 이내", "7일 이내") are different
answers, however alike.

How. Texts are folded (NFC, whitespace to one space, lower case). Rows alike in both sides after folding are exact
duplicates. Of the rest, MinHash signatures of the user side's character 5-grams are banded so that a pair at Jaccard
0.8 is met with probability 0.9977 (1 - (1 - s^6)^20); every pair met is verified with its exact Jaccard similarity
before it counts. Verified pairs, joined by union-find, form clusters, whatever their answers: the split keeps a
cluster together. Within a cluster a row is dropped only for a kept row that it is verified to duplicate, never
through a chain of others.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson

NGRAM = 5
BANDS, ROWS = 20, 6
_SEED = 1
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Duplicate:
    """A row that repeats another: its position, that of the row kept instead, and how alike the questions are."""

    row: int
    kept: int
    jaccard: float
    exact: bool


@dataclass(frozen=True)
class Duplicates:
    """What the search found, by position in the input.

    Args:
        cluster: For each row the position of the first row of its near-duplicate cluster (its own where it is alone).
        duplicates: Rows that repeat a kept row, by position.
        conflicts: Groups of kept rows with the same folded question but different answers, by position.
    """

    cluster: list[int]
    duplicates: list[Duplicate]
    conflicts: list[list[int]]


def fold(text: str) -> str:
    """A text as it is compared: NFC, lower case, each run of whitespace one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def find_duplicates(
    questions: Sequence[str], answers: Sequence[str], ranks: Sequence[tuple[float, ...]], threshold: float = 0.8
) -> Duplicates:
    """Find exact and near duplicates among rows, and choose which to keep.

    Args:
        questions: The user's side of each row.
        answers: The assistant's side of each row.
        ranks: How good each row is; of duplicates the one with the greatest rank is kept, and of equals the first.
        threshold: Least Jaccard similarity (0 to 1) of character 5-grams at which texts count as nearly the same.

    Returns:
        Clusters, duplicates and conflicts by position.
    """
    asked = [fold(text) for text in questions]
    answered = [_answer_key(text) for text in answers]
    order = sorted(range(len(asked)), key=lambda row: (*(-value for value in ranks[row]), row))
    exact, representatives = _exact(asked, answered, order)
    pairs = _similar_pairs([asked[row] for row in representatives], threshold)
    edges = [(representatives[one], representatives[other], jaccard) for one, other, jaccard in pairs]
    near = _drop(edges, answered, order, threshold)
    duplicates = _kept_for_exact(exact, near) + list(near.values())
    cluster = _clusters(len(asked), [(one, other) for one, other, _ in edges] + list(exact.items()))
    dropped = {duplicate.row for duplicate in duplicates}
    conflicts = _conflicts(asked, answered, [row for row in range(len(asked)) if row not in dropped])
    return Duplicates(cluster, sorted(duplicates, key=lambda one: one.row), conflicts)


def jaccard(one: str, other: str) -> float:
    """Jaccard similarity (0 to 1) of two folded texts' character 5-grams."""
    return _jaccard(_shingles(one), _shingles(other))


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _shingles(text: str) -> frozenset[str]:
    return frozenset(text[start : start + NGRAM] for start in range(max(1, len(text) - NGRAM + 1)))


def _answer_key(text: str) -> str:
    """An answer as it is compared; JSON by its value, so that the order of keys and the spacing don't matter."""
    stripped = text.strip()
    if stripped[:1] in {"{", "["}:
        try:
            return "\x00" + orjson.dumps(orjson.loads(stripped), option=orjson.OPT_SORT_KEYS).decode()
        except orjson.JSONDecodeError:
            pass
    return fold(text)


def _same_answer(one: str, other: str, threshold: float) -> bool:
    if one == other:
        return True
    structured = one.startswith("\x00") or other.startswith("\x00")
    return not structured and _NUMBER.findall(one) == _NUMBER.findall(other) and jaccard(one, other) >= threshold


def _exact(asked: Sequence[str], answered: Sequence[str], order: Sequence[int]) -> tuple[dict[int, int], list[int]]:
    """Map each exact duplicate to the best row of its kind, and list those best rows in the input's order."""
    first: dict[tuple[str, str], int] = {}
    exact = {}
    for row in order:
        kept = first.setdefault((asked[row], answered[row]), row)
        if kept != row:
            exact[row] = kept
    return exact, sorted(first.values())


def _similar_pairs(texts: Sequence[str], threshold: float) -> list[tuple[int, int, float]]:
    """Pairs of texts whose exact Jaccard similarity reaches the threshold, as (first, second, similarity)."""
    shingles = [_shingles(text) for text in texts]
    pairs = []
    for one, other in sorted(_candidates(shingles)):
        similarity = _jaccard(shingles[one], shingles[other])
        if similarity >= threshold:
            pairs.append((one, other, similarity))
    return pairs


def _candidates(shingles: Sequence[Iterable[str]]) -> set[tuple[int, int]]:
    from datasketch import MinHash, MinHashLSH

    encoded = ([shingle.encode() for shingle in one] for one in shingles)
    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    found: set[tuple[int, int]] = set()
    for row, signature in enumerate(MinHash.generator(encoded, num_perm=BANDS * ROWS, seed=_SEED, hashfunc=zlib.crc32)):
        found.update((other, row) for other in index.query(signature))
        index.insert(row, signature)
    return found


def _drop(
    edges: Iterable[tuple[int, int, float]], answered: Sequence[str], order: Sequence[int], threshold: float
) -> dict[int, Duplicate]:
    """Go through the rows from the best down: each is kept, unless it repeats one kept before it."""
    neighbours: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for one, other, similarity in edges:
        if _same_answer(answered[one], answered[other], threshold):
            neighbours[one].append((other, similarity))
            neighbours[other].append((one, similarity))
    place = {row: index for index, row in enumerate(order)}
    dropped: dict[int, Duplicate] = {}
    for row in order:
        better = [
            (similarity, -place[other], other)
            for other, similarity in neighbours.get(row, ())
            if place[other] < place[row] and other not in dropped
        ]
        if better:
            similarity, _, kept = max(better)
            dropped[row] = Duplicate(row, kept, similarity, exact=False)
    return dropped


def _kept_for_exact(exact: dict[int, int], near: dict[int, Duplicate]) -> list[Duplicate]:
    """Exact duplicates with the row that is kept in the end, which may be a near duplicate of their own best."""
    found = []
    for row, best in exact.items():
        other = near.get(best)
        found.append(Duplicate(row, other.kept, other.jaccard, True) if other else Duplicate(row, best, 1.0, True))
    return found


def _clusters(count: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for one, other in edges:
        first, second = sorted((root(one), root(other)))
        parent[second] = first
    return [root(row) for row in range(count)]


def _conflicts(asked: Sequence[str], answered: Sequence[str], kept: Iterable[int]) -> list[list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for row in kept:
        groups[asked[row]].append(row)
    return [rows for rows in groups.values() if len({answered[row] for row in rows}) > 1]
