"""Compiled scan for runs of letters that may be part of a name, so that the tagger need read those only.

Each run of Hangul (or of Latin or Chinese) gets the log-odds of a logistic regression: the sum of weights, signed
bytes, that its features hash to. Features are its length, its beginning, its ends, its pairs and triples of
characters, the characters beside it, and what its first syllables are in Korean names. Import this module inside
functions only: it loads numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba as nb
import numpy as np

from tollgate.gates.compiled import inner

if TYPE_CHECKING:
    import numpy.typing as npt

    from tollgate.gates.character_kernels import Bytes, Codes, Integer

    Signed = npt.NDArray[np.int8]
    Numbers = npt.NDArray[np.uint32]

BITS = 18
"""Bits of a feature's number."""

LONGEST = 10
"""The longest run that is judged; a longer one of Hangul may always hold a name."""

FEATURES = 19 + 2 * LONGEST
"""Features of a run at most."""

_SHIFT = np.uint64(64 - BITS)
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_SALT = np.uint64(0xD6E8FEB86659FD93)
_EMPTY = np.uint64(0)
_SURNAMES, _FIRST, _SECOND = 3, 4, 8  # as in names_kernels
_SPACE = 32
_HANGUL, _LATIN, _HANJA = 1, 4, 5
_BETWEEN = 2  # characters between two runs of a name: a space, or a full stop and a space
_TAIL = 6


@nb.njit(inline="always")
def _mix(key: np.uint64, value: Integer | np.uint64) -> np.uint64:
    key = (key ^ np.uint64(value)) * _PRIME
    return key ^ (key >> np.uint64(29))


@nb.njit(inline="always")
def _number(template: int, key: np.uint64) -> np.uint32:
    return np.uint32(((key + np.uint64(template) * _SALT) * _PRIME) >> _SHIFT)


@nb.njit(inline="always")
def _at(codes: Codes, count: Integer, place: Integer) -> Integer:
    return codes[place] if 0 <= place < count else 1


@nb.njit(inline="always")
def _span(codes: Codes, start: Integer, end: Integer) -> np.uint64:
    key = _EMPTY
    for place in range(start, end):
        key = _mix(key, codes[place])
    return key


@nb.njit(inline="always")
def run_end(codes: Codes, count: Integer, start: Integer, kind: Bytes) -> Integer:
    """Where the run of Hangul or of other letters ends that begins at ``start``; ``start`` itself if none does."""
    first = kind[codes[start]]
    if first != _HANGUL and first != _LATIN and first != _HANJA:
        return start
    end = start + 1
    while end < count and kind[codes[end]] == first:
        end += 1
    return end


@inner
def run_features(codes: Codes, count: Integer, start: Integer, end: Integer, syllables: Bytes, out: Numbers) -> Integer:
    """Write the numbers of the features of the run from ``start`` to ``end``; returns how many they are."""
    length = np.uint64(end - start)
    c0, c1, c2 = codes[start], _at(codes, end, start + 1), _at(codes, end, start + 2)
    shape = np.uint64(syllables[c0] & _SURNAMES) | np.uint64(syllables[c1] & _FIRST)
    shape |= np.uint64(syllables[c2] & _SECOND) | (np.uint64(syllables[c1] & _SECOND) << np.uint64(1))
    before = _mix(_mix(_EMPTY, _at(codes, count, start - 1)), _at(codes, count, start - 2))
    before3 = _mix(before, _at(codes, count, start - 3))
    after = _mix(_mix(_EMPTY, _at(codes, count, end)), _at(codes, count, end + 1))
    after3 = _mix(after, _at(codes, count, end + 2))
    tail2 = _span(codes, min(end, start + 2), min(end, start + 2 + _TAIL))
    tail3 = _span(codes, min(end, start + 3), min(end, start + 3 + _TAIL))
    tail4 = _span(codes, min(end, start + 4), min(end, start + 4 + _TAIL))
    out[0] = _number(1, length)
    out[1] = _number(2, _span(codes, start, end))
    out[2] = _number(3, _span(codes, start, min(end, start + 2)))
    out[3] = _number(4, _span(codes, start, min(end, start + 3)))
    out[4] = _number(5, tail2)
    out[5] = _number(6, tail3)
    out[6] = _number(7, tail4)
    out[7] = _number(8, _mix(tail3, shape))
    out[8] = _number(9, _mix(tail2, shape))
    out[9] = _number(10, _mix(shape, length))
    out[10] = _number(11, before)
    out[11] = _number(12, before3)
    out[12] = _number(13, _mix(before3, _at(codes, count, start - 4)))
    out[13] = _number(14, after)
    out[14] = _number(15, after3)
    out[15] = _number(16, _mix(after3, _at(codes, count, end + 3)))
    out[16] = _number(17, _mix(_mix(after3, shape), length))
    out[17] = _number(18, _span(codes, max(start, end - 2), end))
    out[18] = _number(19, _mix(_EMPTY, codes[end - 1]))
    found = 19
    earlier, here = _SPACE, c0
    for place in range(start, end):
        later = _at(codes, end, place + 1)
        pair = _mix(_mix(_EMPTY, here), later)
        out[found] = _number(20, pair)
        out[found + 1] = _number(21, _mix(pair, earlier))
        found += 2
        earlier, here = here, later
    return found


@inner
def mark_runs(
    codes: Codes, count: Integer, kind: Bytes, syllables: Bytes, weights: Signed, least: Integer, numbers: Numbers,
    marks: Bytes,
) -> bool:  # fmt: skip
    """Mark the characters of runs that may be part of a name, and what is between two such runs if it is little.

    Args:
        codes: Folded characters of a passage.
        count: How many they are.
        kind: Kinds of characters.
        syllables: What each character is in Korean names.
        weights: The weight of each feature's number; none where all characters are to be marked.
        least: The lowest sum of weights of a run that is marked.
        numbers: Room for the features of a run.
        marks: Gets 1 for each marked character, else 0.

    Returns:
        Whether anything is marked.
    """
    if len(weights) == 0:
        marks[:count] = 1
        return True
    marks[:count] = 0
    marked_until: Integer = -_BETWEEN - 1
    start: Integer = 0
    while start < count:
        end = run_end(codes, count, start, kind)
        if end == start:
            start += 1
            continue
        total = least - 1 if kind[codes[start]] == _LATIN else least
        if end - start <= LONGEST:
            total = 0
            for one in range(run_features(codes, count, start, end, syllables, numbers)):
                total += weights[numbers[one]]
        if total >= least:
            marks[marked_until if start - marked_until <= _BETWEEN else start : end] = 1
            marked_until = end
        start = end
    return bool(marked_until >= 0)
