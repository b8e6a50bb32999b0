"""Duplicates: exact ones by hash, near ones by MinHash LSH with exact verification, the best of each group kept.

What is compared. Two rows are duplicates when what the user asks is (nearly) the same *and* the answer is
(nearly) the same. The two sides are compared apart, because short messages with a long or structured answer
share most of their characters with every row of the same label. The same question with another answer is no
duplicate but a conflict: kept, counted, shown. Answers that differ in a number ("5일 이내", "7일 이내") are different
answers, however alike. JSON answers are compared by value.

How. Texts are folded (NFC, whitespace to one space, lower case). Rows alike in both sides after folding are exact
duplicates. Of the rest, pairs of alike questions are found as :mod:`tollgate.gates.near_duplicates` says; every pair
met is verified with its exact Jaccard similarity before it counts. Verified pairs, joined, form clusters, whatever
their answers: the split keeps a cluster together. Within a cluster a row is dropped only for a kept row that it is
verified to duplicate, never through a chain of others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import orjson

from tollgate.gates import near_duplicates
from tollgate.gates.near_duplicates import fold
from tollgate.gates.text_buffers import buffers, text_column
from tollgate.gates.threads import in_parts

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from tollgate.gates.near_duplicates_kernels import Known as KnownUnits
    from tollgate.gates.near_duplicates_kernels import Texts

    Integers = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]
    Reals = npt.NDArray[np.float64]
    Words = npt.NDArray[np.uint64]

__all__ = ["Duplicates", "Known", "find_duplicates", "find_known", "fold", "jaccard"]

NGRAM = 5
CONFLICTS_SHOWN, CONFLICT_ROWS_SHOWN = 1000, 100
_ROUNDS = 3
_JSON_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class Duplicates:
    """What the search found, by position in the input.

    Args:
        cluster: For each row the position of the first row of its near-duplicate cluster (its own where it is alone).
        row: Rows that repeat a kept row, rising.
        kept: For each of these the row that is kept instead.
        jaccard: For each of these how alike the two questions are, 0 to 1.
        exact: For each of these whether it is the same, after folding, as the kept row or another that was dropped.
        conflicts: Groups of kept rows with the same folded question but different answers; the first thousand groups,
            and the first hundred rows of each.
        conflict_count: How many such groups there are.
    """

    cluster: Integers
    row: Integers
    kept: Integers
    jaccard: npt.NDArray[np.float32]
    exact: Flags
    conflicts: list[list[int]]
    conflict_count: int


@dataclass(frozen=True, eq=False)
class Known:
    """Rows that repeat an earlier one.

    Args:
        row: Their positions, rising.
        earlier_row: For each the most alike earlier row, of equals the first.
        jaccard: For each how alike the two questions are, 0 to 1.
    """

    row: Integers
    earlier_row: Integers
    jaccard: npt.NDArray[np.float32]


def find_duplicates(
    questions: pa.Array | pa.ChunkedArray | list[str],
    answers: pa.Array | pa.ChunkedArray | list[str],
    ranks: npt.ArrayLike,
    threshold: float = 0.8,
) -> Duplicates:
    """Find exact and near duplicates among rows, and choose which to keep.

    Args:
        questions: The user's side of each row.
        answers: The assistant's side of each row.
        ranks: How good each row is, (n,) or (n, k), compared part by part; of duplicates the one with the greatest
            rank is kept, and of equals the first.
        threshold: Least Jaccard similarity (above 0, at most 1) of character 5-grams at which texts count as nearly
            the same.

    Returns:
        Clusters, duplicates and conflicts by position.
    """
    rows = _Rows.read(questions, answers)
    units = _Units.choose(rows, _best_first(np.asarray(ranks, np.float64)))
    alike = _Alike.search(rows, units, threshold)
    kept_for, similarity = alike.drop()
    cluster = _first_of_each(alike.clusters()[units.of_row])
    best = kept_for[units.of_row]
    exact = np.ones(rows.count, np.bool_)
    exact[units.row] = False
    dropped = np.flatnonzero(exact | (best >= 0))
    near = best[dropped] >= 0
    unit = units.of_row[dropped]
    conflicts, conflict_count = _conflicts(rows.question, units.row[kept_for < 0])
    return Duplicates(
        cluster=cluster,
        row=dropped,
        kept=units.row[np.where(near, best[dropped], unit)],
        jaccard=np.where(near, similarity[unit], 1.0).astype(np.float32),
        exact=exact[dropped],
        conflicts=conflicts,
        conflict_count=conflict_count,
    )


def find_known(
    questions: pa.Array | pa.ChunkedArray | list[str],
    answers: pa.Array | pa.ChunkedArray | list[str] | None,
    earlier_questions: pa.Array | pa.ChunkedArray | list[str],
    earlier_answers: pa.Array | pa.ChunkedArray | list[str] | None,
    threshold: float = 0.8,
) -> Known:
    """Find rows that repeat an earlier row: of an earlier version, or of a test set.

    Args:
        questions: The user's side of each row.
        answers: The assistant's side of each row; nothing if only questions are to be compared.
        earlier_questions: The user's side of each earlier row.
        earlier_answers: The assistant's side of each earlier row; nothing if only questions are to be compared.
        threshold: As in :func:`find_duplicates`.

    Returns:
        The rows found, with the earlier row of each.
    """
    import pyarrow as pa

    before, after = text_column(earlier_questions), text_column(questions)
    given = None
    if answers is not None and earlier_answers is not None:
        given = pa.concat_arrays([text_column(earlier_answers), text_column(answers)])
    rows = _Rows.read(pa.concat_arrays([before, after]), given)
    units = _Units.choose(rows, np.arange(rows.count))
    earlier = int(np.searchsorted(units.row, len(before)))
    kept_for, similarity = _Alike.search(rows, units, threshold, earlier).drop() if earlier else _nothing(units)
    unit = units.of_row[len(before) :]
    found = np.where(unit < earlier, unit, kept_for[unit])
    alike = np.where(unit < earlier, 1.0, similarity[unit])
    row = np.flatnonzero(found >= 0)
    return Known(row, units.row[found[row]], alike[row].astype(np.float32))


def jaccard(one: str, other: str) -> float:
    """Jaccard similarity (0 to 1) of two folded texts' character 5-grams."""
    first, second = _shingles(one), _shingles(other)
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)


def _shingles(text: str) -> frozenset[str]:
    return frozenset(text[start : start + NGRAM] for start in range(max(1, len(text) - NGRAM + 1)))


def _answer_value(text: str) -> bytes | None:
    """A JSON answer by its value, so that the order of keys and the spacing don't matter; nothing if it is none."""
    try:
        return orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # the latter: nested deeper than is written
        return None


@dataclass(frozen=True, eq=False)
class _Rows:
    """All rows: their texts, and numbers that are the same where questions (answers) are the same.

    Answers that are JSON have numbers from ``count`` on. ``answers`` is nothing where only questions count.
    """

    count: int
    questions: Texts
    answers: Texts | None
    question: Integers
    answer: Integers

    @classmethod
    def read(
        cls, questions: pa.Array | pa.ChunkedArray | list[str], answers: pa.Array | pa.ChunkedArray | list[str] | None
    ) -> _Rows:
        asked = text_column(questions)
        texts = near_duplicates.folded_texts(asked)
        question = near_duplicates.groups_of_equal(texts, len(asked))
        if answers is None:
            return cls(len(asked), texts, None, question, np.zeros(len(asked), np.int64))
        given = text_column(answers)
        answer_texts = near_duplicates.folded_texts(given)
        answer = near_duplicates.groups_of_equal(answer_texts, len(given))
        structured, value = _structured(given)
        answer[structured] = len(given) + value
        return cls(len(asked), texts, answer_texts, question, answer)


def _structured(answers: pa.LargeStringArray) -> tuple[Integers, Integers]:
    """The answers that are JSON objects or lists, and for each a number that is the same for the same value."""
    import pyarrow as pa

    from tollgate.gates import near_duplicates_kernels as kernels

    texts = kernels.Texts(*buffers(answers), near_duplicates.fold_tables()[0])
    marked = np.zeros(len(answers), np.bool_)
    in_parts(
        len(answers), lambda start, stop: kernels.mark_first_character(texts, ord("{"), ord("["), start, stop, marked)
    )
    written = answers.filter(pa.array(marked)).dictionary_encode()
    distinct = written.dictionary
    values = pa.chunked_array(
        [
            pa.array(map(_answer_value, distinct[start : start + _JSON_ROWS].to_pylist()), pa.large_binary())
            for start in range(0, len(distinct), _JSON_ROWS)
        ],
        pa.large_binary(),
    )
    encoded = values.combine_chunks().dictionary_encode().indices
    number = encoded.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    of_row = number[written.indices.to_numpy(zero_copy_only=False)]
    valid = of_row >= 0
    return np.flatnonzero(marked)[valid], of_row[valid]


def _best_first(ranks: Reals) -> Integers:
    """Rows from the greatest rank down; of equal ones the first comes first."""
    return np.lexsort(-np.atleast_2d(ranks.T)[::-1])


@dataclass(frozen=True, eq=False)
class _Units:
    """Of rows alike in both sides the best, numbered from the best down: the row of each, and the unit of each row."""

    row: Integers
    of_row: Integers

    @classmethod
    def choose(cls, rows: _Rows, order: Integers) -> _Units:
        from tollgate.gates import near_duplicates_kernels as kernels

        first = np.empty(rows.count, np.int64)
        kernels.first_same((rows.question * (2 * rows.count) + rows.answer)[order], first)
        leads = first == np.arange(rows.count)
        of_row = np.empty(rows.count, np.int64)
        of_row[order] = (np.cumsum(leads) - 1)[first]
        return cls(order[leads], of_row)


class _Alike:
    """Verified pairs of units with alike questions, and which of them have alike answers too."""

    def __init__(self, rows: _Rows, units: _Units, threshold: float, earlier: int) -> None:
        self._rows, self._units, self._threshold, self._earlier = rows, units, threshold, earlier
        self._pairs: Words = np.empty(0, np.uint64)
        self._similarity: Reals = np.empty(0, np.float64)
        self._repeats: Flags = np.empty(0, np.bool_)
        self._seen: Words = np.empty(0, np.uint64)

    @classmethod
    def search(cls, rows: _Rows, units: _Units, threshold: float, earlier: int = 0) -> _Alike:
        """Find the pairs; with ``earlier``, only those of one of so many first units with one of the others."""
        alike = cls(rows, units, threshold, earlier)
        search = near_duplicates.Search(rows.questions, units.row, threshold, earlier)
        alike._verify_bands(search, np.arange(units.row.size))
        crowded = search.crowded()
        if not crowded.size:
            return alike
        answer = rows.answer[units.row[crowded]]
        alike._verify_bands(search, crowded, answer)
        alike._verify(search.by_rare_shingles(alike._known(), crowded))
        free = crowded[answer < rows.count]
        if rows.answers is not None and free.size:
            known = alike._known()
            alike._verify(near_duplicates.pairs_by_answer(rows.answers, units.row, free, known, threshold, earlier))
        return alike

    def _verify_bands(self, search: near_duplicates.Search, units: Integers, salt: Integers | None = None) -> None:
        """Take in the pairs of all bands; where they are many, leave out what the first bands told already."""
        known = self._known()
        for bands in search.band_groups():
            pairs = search.by_band(bands, known, units, salt)
            self._verify(pairs)
            if pairs.size > units.size:
                known = self._known()

    def _known(self) -> KnownUnits:
        from tollgate.gates import near_duplicates_kernels as kernels

        answer = self._rows.answer[self._units.row]
        return kernels.Known(self.clusters(), self.drop()[0] >= 0, answer, self._rows.count)

    def clusters(self) -> Integers:
        """A number for each unit, the same for all that pairs connect."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        count = self._units.row.size
        edges = near_duplicates.split(self._pairs)
        graph = coo_array((np.ones(self._pairs.size, np.bool_), edges), shape=(count, count))
        return connected_components(graph, directed=False)[1].astype(np.int64)

    def drop(self) -> tuple[Integers, Reals]:
        """For each unit the better one that is kept instead (-1: it is kept itself), and how alike they are.

        A unit may repeat only dropped ones of those it was compared with. Then it is compared with the units these
        were dropped for, which are likely to be like it.
        """
        kept_for, similarity = self._closest()
        for _ in range(0 if self._earlier else _ROUNDS):
            if not self._verify(self._second_hand(kept_for)):
                break
            kept_for, similarity = self._closest()
        return kept_for, similarity

    def _closest(self) -> tuple[Integers, Reals]:
        from tollgate.gates import near_duplicates_kernels as kernels

        pairs, similarity = self._pairs[self._repeats], self._similarity[self._repeats]
        order = np.argsort(near_duplicates.split(pairs)[1], kind="stable")
        kept_for, jaccard_of = _nothing(self._units)
        kernels.keep_best(pairs[order], similarity[order], kept_for, jaccard_of)
        return kept_for, jaccard_of

    def _second_hand(self, kept_for: Integers) -> Words:
        ones, others = near_duplicates.split(self._pairs[self._repeats])
        near, far = np.concatenate([ones, others]), np.concatenate([others, ones])
        open_ends = (kept_for[near] < 0) & (kept_for[far] >= 0) & (kept_for[far] != near)
        unit, instead = near[open_ends], kept_for[far[open_ends]]
        return near_duplicates.distinct(near_duplicates.join(np.minimum(unit, instead), np.maximum(unit, instead)))

    def _verify(self, pairs: Words) -> int:
        """Take in those of the pairs that are new and whose questions are alike, and return how many were."""
        if self._seen.size:
            pairs = np.setdiff1d(pairs, self._seen, assume_unique=True)
        self._seen = np.concatenate([self._seen, pairs])
        row = self._units.row
        ones, others = near_duplicates.split(pairs)
        similarity = near_duplicates.similarities(self._rows.questions, row[ones], row[others])
        true = similarity >= self._threshold
        self._pairs = np.concatenate([self._pairs, pairs[true]])
        self._similarity = np.concatenate([self._similarity, similarity[true]])
        self._repeats = np.concatenate([self._repeats, self._same_answers(row[ones[true]], row[others[true]])])
        return int(np.count_nonzero(true))

    def _same_answers(self, ones: Integers, others: Integers) -> Flags:
        """Whether the answers of two rows each are the same, or texts that are alike and hold the same numbers."""
        from tollgate.gates import near_duplicates_kernels as kernels

        rows = self._rows
        one, other = rows.answer[ones], rows.answer[others]
        same: Flags = one == other
        free = np.flatnonzero(~same & (one < rows.count) & (other < rows.count))
        if rows.answers is not None and free.size:
            equal = np.empty(free.size, np.bool_)
            kernels.same_numbers(rows.answers, one[free], other[free], near_duplicates.digit_zeros(), equal)
            free = free[equal]
            same[free] = near_duplicates.similarities(rows.answers, one[free], other[free]) >= self._threshold
        return same


def _nothing(units: _Units) -> tuple[Integers, Reals]:
    return np.full(units.row.size, -1, np.int64), np.zeros(units.row.size, np.float64)


def _first_of_each(labels: Integers) -> Integers:
    """For each position the first one with the same label."""
    first = np.empty(labels.max(initial=-1) + 1, np.int64)
    first[labels[::-1]] = np.arange(labels.size)[::-1]  # of repeated indices the last assignment counts
    return first[labels]


def _conflicts(question: Integers, kept: Integers) -> tuple[list[list[int]], int]:
    """Groups of kept rows with the same question, as far as they are shown, and how many there are."""
    kept = np.sort(kept)
    order = np.argsort(question[kept], kind="stable")
    asked, rows = question[kept][order], kept[order]
    edges = np.flatnonzero(np.concatenate([[True], asked[1:] != asked[:-1], [True]]))
    starts, sizes = edges[:-1], np.diff(edges)
    many = np.flatnonzero(sizes > 1)
    shown = sorted(
        rows[starts[group] : starts[group] + min(sizes[group], CONFLICT_ROWS_SHOWN)].tolist()
        for group in many[:CONFLICTS_SHOWN]
    )
    return shown, many.size
