"""Compiled linear scorer over hashed character n-grams of whole text columns.

A text is folded (lower case, digits as 0, a sign repeated more than twice as two, spaces as one) and cut into
passages of some sentences. Features of a passage are the runs of one to four characters within its words, a space
standing for the beginning and the end of a word. Import this module inside functions only: it loads numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba as nb
import numpy as np

from tollgate.gates.character_kernels import DIGIT, HANGUL, JAMO, LATIN, OTHER_LETTER, SPACE, decode, longest_text
from tollgate.gates.compiled import inner

if TYPE_CHECKING:
    import numpy.typing as npt

    from tollgate.gates.character_kernels import Bytes, Codes, Integer

    Whole = npt.NDArray[np.int64]
    Real = npt.NDArray[np.float32]
    Weights = npt.NDArray[np.int8]
    Packed = npt.NDArray[np.uint32]
    Sets = npt.NDArray[np.uint32]
    Words = npt.NDArray[np.uint64]

BITS = 19
"""Bits of a feature's number."""

PAIR_BITS = 20
"""Bits of a pair's slot: with 16, one text in eight would be searched for a pair that only shares its slot."""

_NGRAM = 4
_SHORT, _MIDDLE, _LONG = 8, 48, 160  # a passage ends, from so many characters on, at a line / sentence / word
_LEAST_SYLLABLES = 2  # of a passage that is judged: signs alone say nothing, and comments have many
_GAP = 4  # signs that may stand between two syllables of a disguised word
_WORDS = 128  # of a passage that are told from each other
_HALVES = np.uint32(0x00FF00FF)
_HALF_HOLDS = 256  # bytes whose sum fits into 16 bits
_SHIFT = 128
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xFF51AFD7ED558CCD)


def packed(weights: Weights) -> Packed:
    """Four weights of each feature (n, 4), each plus 128, as the bytes of one number (n,)."""
    return (weights.astype(np.int16) + _SHIFT).astype(np.uint8).view("<u4").ravel()


@inner
def _fold(codes: Codes, count: Integer, classes: Bytes) -> Integer:
    """Fold characters in place; returns how many are left. A space is first and last, and line ends are kept as 10."""
    kept = 0
    for place in range(count):
        code = codes[place]
        kind = classes[code] if code < 0x10000 else 0
        if kind == SPACE:
            code = 10 if code == 10 else 32
            if kept and (codes[kept - 1] == 32 or codes[kept - 1] == 10):
                codes[kept - 1] = min(code, codes[kept - 1])
                continue
        elif kind == DIGIT:
            code = 48
        elif 65 <= code <= 90:
            code += 32
        if kept >= 2 and codes[kept - 1] == code and codes[kept - 2] == code:
            continue
        codes[kept] = code
        kept += 1
    return kept


@inner
def _passage_end(codes: Codes, start: Integer, count: Integer) -> Integer:
    """Where the passage that begins at ``start`` ends: after a line or a sentence, in a pinch after a word."""
    for place in range(start, count):
        length = place - start
        code = codes[place]
        if code == 10 and length >= _SHORT:
            return place
        if code == 32 and length >= _MIDDLE and (codes[place - 1] in (33, 46, 63) or length >= _LONG):
            return place
    return count


@inner
def _is_known(words: Words, known: Integer, digest: np.uint64) -> bool:
    for place in range(known):  # noqa: SIM110 - numba knows no generators
        if words[place] == digest:
            return True
    return False


@inner
def _features(codes: Codes, start: Integer, end: Integer, words: Words, features: Codes) -> Integer:
    """Write the numbers of a passage's features; returns how many. A word that comes again adds none.

    ``words`` is room for the digests of as many words as are told from each other.
    """
    known = 0
    found: Integer = 0
    place = start
    while place < end:
        first = place
        digest = np.uint64(0)
        while place < end and codes[place] != 32 and codes[place] != 10:
            digest = (digest ^ np.uint64(codes[place])) * _PRIME
            digest ^= digest >> np.uint64(32)
            place += 1
        if place > first and not _is_known(words, known, digest):
            found += _word_features(codes, first, place, features[found:])
            if known < len(words):
                words[known] = digest
                known += 1
        place += 1
    return found


@inner
def _word_features(codes: Codes, first: Integer, end: Integer, features: Codes) -> Integer:
    """Write the runs of one to four characters of a word and the spaces around it, but for single spaces."""
    found = 0
    for last in range(first, end + 1):
        value = (np.uint64(codes[last] if last < end else 32) + np.uint64(1)) * _PRIME
        if last < end:
            features[found] = np.int32((value * _MIX) >> np.uint64(64 - BITS))
            found += 1
        for before in range(last - 1, max(last - _NGRAM, first - 2), -1):
            value = (value ^ np.uint64(codes[before] if before >= first else 32)) * _PRIME
            features[found] = np.int32((value * _MIX) >> np.uint64(64 - BITS))
            found += 1
    return found


@nb.njit(cache=True, nogil=True)
def score(
    offsets: Whole, data: Bytes, classes: Bytes, weights: Packed, terms: Real, first: Integer, last: Integer,
    result: Real,
) -> None:  # fmt: skip
    """Score some texts by their worst passages, for three targets at once.

    A passage's sums are its features' weights, over the root of the number of features, times a scale, plus an
    intercept: for each target (t), and for how far the passage is like the texts this was learned from (d). Its score
    is t + slope * min(0, d - least).

    Args:
        offsets: Offsets of the texts (n + 1).
        data: Their bytes, valid UTF-8.
        classes: Class of each character, of :func:`~tollgate.gates.character_kernels.character_classes`.
        weights: The weights of each feature (2 to the power of :data:`BITS`), as :func:`packed`: the targets' and
            the likeness's.
        terms: Scale and intercept of each of these, slope and least (10).
        first: The first text to score.
        last: The text to stop before.
        result: For each target and text (3, n) the greatest score of the text's passages is written here; minus
            infinity for a text without words.
    """
    longest = longest_text(offsets, first, last)
    codes, words = np.empty(longest + 1, np.int32), np.empty(_WORDS, np.uint64)
    features = np.empty((longest + 2) * 2 * _NGRAM, np.int32)
    for text in range(first, last):
        count = _fold(codes, decode(data, offsets[text], offsets[text + 1], codes), classes)
        worst = _worst_passages(codes, count, words, features, weights, terms)
        result[0, text], result[1, text], result[2, text] = worst


@inner
def _sums(features: Codes, count: Integer, weights: Packed) -> tuple[Integer, Integer, Integer, Integer]:
    """The sum of each of the four weights over the features of a passage; two at a time, in halves of 32 bits."""
    first = second = third = fourth = np.int64(0)
    begin: Integer = np.int64(0)
    while begin < count:
        end = min(count, begin + _HALF_HOLDS)
        even, odd = np.uint32(0), np.uint32(0)
        for place in range(begin, end):
            packed = weights[np.uint32(features[place])]
            even += packed & _HALVES
            odd += (packed >> np.uint32(8)) & _HALVES
        shift = _SHIFT * (end - begin)
        first += np.int64(even & np.uint32(0xFFFF)) - shift
        second += np.int64(odd & np.uint32(0xFFFF)) - shift
        third += np.int64(even >> np.uint32(16)) - shift
        fourth += np.int64(odd >> np.uint32(16)) - shift
        begin = end
    return first, second, third, fourth


@inner
def _worst_passages(
    codes: Codes, count: Integer, words: Words, features: Codes, weights: Packed, terms: Real
) -> tuple[float, float, float]:
    """The greatest score among the passages of a text, for each target."""
    first_worst = second_worst = third_worst = -np.inf
    start: Integer = np.int64(0)
    while start < count:
        end = _passage_end(codes, start, count)
        syllables = 0
        for code in codes[start:end]:
            syllables += 0xAC00 <= code <= 0xD7A3
        if syllables >= _LEAST_SYLLABLES:
            found = _features(codes, start, end, words, features)
            first, second, third, likeness = _sums(features, found, weights)
            root = np.sqrt(found)
            alike = terms[6] * likeness / root + terms[7]
            unlike = terms[8] * min(0.0, alike - terms[9])
            first_worst = max(first_worst, terms[0] * first / root + terms[1] + unlike)
            second_worst = max(second_worst, terms[2] * second / root + terms[3] + unlike)
            third_worst = max(third_worst, terms[4] * third / root + terms[5] + unlike)
        start = end + 1
    return first_worst, second_worst, third_worst


@nb.njit(cache=True, nogil=True)
def _count_features(offsets: Whole, data: Bytes, classes: Bytes, whole: bool, features: Codes, rows: Whole) -> Integer:
    """Write the features of all passages one after the other, and where each passage's end; returns the passages."""
    longest = np.max(offsets[1:] - offsets[:-1])
    codes, words = np.empty(longest + 1, np.int32), np.empty(_WORDS, np.uint64)
    passages = np.int64(0)
    used = np.int64(0)
    for text in range(len(offsets) - 1):
        count = _fold(codes, decode(data, offsets[text], offsets[text + 1], codes), classes)
        start: Integer = np.int64(0)
        while start < count:
            end = count if whole else _passage_end(codes, start, count)
            found = _features(codes, start, end, words, features[used:])
            if found:
                used += found
                passages += 1
                rows[passages] = used
            start = end + 1
    return passages


def passages(offsets: Whole, data: Bytes, classes: Bytes, *, whole: bool) -> tuple[Whole, Codes]:
    """Features of the passages of all texts, for training.

    Args:
        offsets: Offsets of the texts (n + 1).
        data: Their bytes, valid UTF-8.
        classes: As in :func:`score`.
        whole: Take every text as one passage.

    Returns:
        Where each passage's features begin (passages + 1), and the features.
    """
    features = np.empty((len(data) + len(offsets)) * 2 * _NGRAM, np.int32)
    rows = np.zeros(len(data) + len(offsets) + 1, np.int64)
    count = _count_features(offsets, data, classes, whole, features, rows)
    return rows[: count + 1], features[: rows[count]]


@inner
def _beginning(codes: Codes, first: Integer, last: Integer, end: Integer) -> Integer:
    """Number of the run from the space before a word to ``last``; of the same run in :func:`_word_features`."""
    value = (np.uint64(codes[last] if last < end else 32) + np.uint64(1)) * _PRIME
    for before in range(last - 1, first - 2, -1):
        value = (value ^ np.uint64(codes[before] if before >= first else 32)) * _PRIME
    return np.int32((value * _MIX) >> np.uint64(64 - BITS))


@nb.njit(cache=True, nogil=True)
def beginnings(offsets: Whole, data: Bytes, classes: Bytes) -> tuple[Codes, Codes]:
    """The beginnings of all words, for training: the features of the space before a word and what follows it.

    Args:
        offsets: Offsets of the texts (n + 1).
        data: Their bytes, valid UTF-8.
        classes: As in :func:`score`.

    Returns:
        For each word, in the order of the texts, the number of its text (words,), and the features of its beginnings
        of two and of three characters (words, 2). A space ends a shorter word; the second of a single character is -1.
    """
    longest = np.max(offsets[1:] - offsets[:-1])
    codes = np.empty(longest + 1, np.int32)
    rows = np.empty(len(data) // 2 + len(offsets), np.int32)
    found = np.empty((len(rows), 2), np.int32)
    words = 0
    for text in range(len(offsets) - 1):
        count = _fold(codes, decode(data, offsets[text], offsets[text + 1], codes), classes)
        place = 0
        while place < count:
            first = place
            while place < count and codes[place] != 32 and codes[place] != 10:
                place += 1
            if place > first:
                rows[words] = text
                found[words, 0] = _beginning(codes, first, first + 1, place)
                found[words, 1] = _beginning(codes, first, first + 2, place) if place > first + 1 else -1
                words += 1
            place += 1
    return rows[:words], found[:words]


@inner
def slot_of_pair(first: Integer, second: Integer) -> Integer:
    """Where a pair of characters has its place (of 2 to the power of :data:`PAIR_BITS`)."""
    value = (np.uint64(first) * _PRIME ^ np.uint64(second)) * _MIX
    return np.int64(value >> np.uint64(64 - PAIR_BITS))


@nb.njit(cache=True, nogil=True)
def entries_with_a_pair(
    offsets: Whole,
    data: Bytes,
    classes: Bytes,
    numbers: Bytes,
    entries: Sets,
    first: Integer,
    last: Integer,
    result: Sets,
) -> None:
    """Which pairs of Hangul some texts hold, side by side or with a few signs between.

    Args:
        offsets: Offsets of the texts (n + 1).
        data: Their bytes, valid UTF-8.
        classes: As in :func:`score`.
        numbers: A number for each pair, at its :func:`slot_of_pair`, 0 for one that isn't looked for; a single
            character is a pair with itself.
        entries: A set of bits for each number, none for 0.
        first: The first text to look at.
        last: The text to stop before.
        result: Gets the bits of all pairs that each of the texts (n) holds.
    """
    codes = np.empty(longest_text(offsets, first, last) + 1, np.int32)
    for text in range(first, last):
        count = decode(data, offsets[text], offsets[text + 1], codes)
        result[text] = _entries_of(codes, count, classes, numbers, entries)


@inner
def _entries_of(codes: Codes, count: Integer, classes: Bytes, numbers: Bytes, entries: Sets) -> np.uint32:
    before: Integer = np.int64(0)
    gap = 0
    found = np.uint32(0)
    for place in range(count):
        code = np.int64(codes[place])
        kind = classes[code] if code < 0x10000 else 0
        if kind not in (HANGUL, JAMO):
            gap += 1
            if gap > _GAP or kind in (LATIN, OTHER_LETTER):
                before = 0
            continue
        found |= entries[numbers[slot_of_pair(code, code)]]
        if before:
            found |= entries[numbers[slot_of_pair(before, code)]]
        before, gap = code, 0
    return found
