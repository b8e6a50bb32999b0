"""Compiled search for runs of characters that a text shares with a test set.

Compared are letters and digits only, in lower case: spacing and punctuation hide nothing. Of each test text every
sixteenth run of 20 characters is an anchor; a rolling hash finds anchors in a text, and each one found is verified
and extended character by character, so that a hit is never a matter of chance. A shared run of 35 characters holds an
anchor whatever its place. Import this module inside functions only: it loads numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numba as nb
import numpy as np

from tollgate.gates.character_kernels import DIGIT, HANGUL, JAMO, LATIN, OTHER_LETTER, WESTERN, decode, longest_text
from tollgate.gates.compiled import inner

if TYPE_CHECKING:
    import numpy.typing as npt

    from tollgate.gates.character_kernels import Bytes, Codes, Integer

    Whole = npt.NDArray[np.int64]
    Hashes = npt.NDArray[np.uint64]
    Real = npt.NDArray[np.float32]

NGRAM = 5
"""Characters of the runs by which near-duplicates are told; as in :mod:`tollgate.gates.dedup`."""

ANCHOR = 20
"""Characters of an anchor: the least that a test text must have to be looked for inside others."""

_STRIDE = 16
_BASE = np.uint64(0x5851F42D4C957F2D)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_LAST = np.uint64(pow(0x5851F42D4C957F2D, ANCHOR - 1, 1 << 64))


class Anchors(NamedTuple):
    """The texts of a test set, and where in them anchors are, by hash.

    Attributes:
        codes: Letters and digits of all texts, one after the other.
        bounds: Where each text begins in them, and where the last ends.
        slots: Hash table (a power of two): first anchor of a slot, or -1.
        place: For each anchor its place in ``codes``.
        text: For each anchor its text.
        digest: For each anchor its hash.
        following: For each anchor the next one of the same slot, or -1.
    """

    codes: Codes
    bounds: Whole
    slots: Whole
    place: Whole
    text: Whole
    digest: Hashes
    following: Whole


@inner
def _letters(data: Bytes, start: Integer, end: Integer, classes: Bytes, codes: Codes) -> Integer:
    """Write the letters and digits of a text to ``codes``, in lower case; returns how many."""
    count = 0
    for place in range(decode(data, start, end, codes)):
        code = codes[place]
        kind = classes[code] if code < 0x10000 else 0
        if kind in (HANGUL, LATIN, DIGIT, JAMO, OTHER_LETTER, WESTERN):
            codes[count] = code + 32 if 65 <= code <= 90 else code
            count += 1
    return count


@inner
def _digest(codes: Codes, start: Integer) -> np.uint64:
    value = np.uint64(0)
    for place in range(start, start + ANCHOR):
        value = value * _BASE + np.uint64(codes[place])
    return value


@inner
def _slot(digest: np.uint64, slots: Whole) -> Integer:
    return np.int64(((digest ^ (digest >> np.uint64(31))) * _MIX) >> np.uint64(24)) & (len(slots) - 1)


@inner
def _power_of_two(least: Integer) -> Integer:
    size = 1024
    while size < least:
        size *= 2
    return size


@nb.njit(cache=True, nogil=True)
def build(offsets: Whole, data: Bytes, classes: Bytes) -> Anchors:
    """Index the texts of a test set.

    Args:
        offsets: Offsets of the texts (n + 1).
        data: Their bytes, valid UTF-8.
        classes: Class of each character, of :func:`~tollgate.gates.character_kernels.character_classes`.
    """
    texts = len(offsets) - 1
    codes = np.empty(offsets[-1] - offsets[0] + 1, np.int32)
    bounds = np.zeros(texts + 1, np.int64)
    anchors = np.int64(0)
    for text in range(texts):
        start = bounds[text]
        count = _letters(data, offsets[text], offsets[text + 1], classes, codes[start:])
        bounds[text + 1] = start + count
        anchors += (count - ANCHOR) // _STRIDE + 1 if count >= ANCHOR else 0
    slots = np.full(_power_of_two(8 * anchors), -1, np.int64)
    place, of, following = np.empty(anchors, np.int64), np.empty(anchors, np.int64), np.empty(anchors, np.int64)
    digests = np.empty(anchors, np.uint64)
    anchor = 0
    for text in range(texts):
        for start in range(bounds[text], bounds[text + 1] - ANCHOR + 1, _STRIDE):
            digests[anchor] = _digest(codes, start)
            slot = _slot(digests[anchor], slots)
            place[anchor], of[anchor], following[anchor] = start, text, slots[slot]
            slots[slot] = anchor
            anchor += 1
    return Anchors(codes[: bounds[-1]], bounds, slots, place, of, digests, following)


@inner
def _shared(codes: Codes, count: Integer, place: Integer, anchors: Anchors, anchor: Integer) -> Integer:
    """Length of the run around an anchor that a text (``codes``) shares with the test text it is of; 0 if none."""
    first, last = anchors.bounds[anchors.text[anchor]], anchors.bounds[anchors.text[anchor] + 1]
    start, other = place, anchors.place[anchor]
    for offset in range(ANCHOR):
        if codes[start + offset] != anchors.codes[other + offset]:
            return 0
    end, until = start + ANCHOR, other + ANCHOR
    while start > 0 and other > first and codes[start - 1] == anchors.codes[other - 1]:
        start -= 1
        other -= 1
    while end < count and until < last and codes[end] == anchors.codes[until]:
        end += 1
        until += 1
    return end - start


@inner
def _overlap(codes: Codes, count: Integer, anchors: Anchors, least: Integer) -> float:
    """Greatest share of a test text that is a run of this text."""
    best = 0.0
    digest = np.uint64(0)
    for end in range(count):
        if end >= ANCHOR:
            digest -= np.uint64(codes[end - ANCHOR]) * _LAST
        digest = digest * _BASE + np.uint64(codes[end])
        if end < ANCHOR - 1:
            continue
        anchor = anchors.slots[_slot(digest, anchors.slots)]
        while anchor >= 0:
            if anchors.digest[anchor] == digest:
                text = anchors.text[anchor]
                whole = anchors.bounds[text + 1] - anchors.bounds[text]
                run = _shared(codes, count, end - ANCHOR + 1, anchors, anchor)
                if run >= min(least, whole):
                    best = max(best, run / whole)
            anchor = anchors.following[anchor]
    return best


@nb.njit(cache=True, nogil=True)
def overlaps(
    offsets: Whole, data: Bytes, classes: Bytes, anchors: Anchors, least: Integer, first: Integer, last: Integer,
    result: Real,
) -> None:  # fmt: skip
    """How much of a test text each of some texts holds.

    Args:
        offsets: Offsets of the texts (n + 1).
        data: Their bytes, valid UTF-8.
        classes: As in :func:`build`.
        anchors: The test set.
        least: Letters and digits of a shared run that counts (35 or more); of a shorter test text, all of it.
        first: The first text to look at.
        last: The text to stop before.
        result: Gets for each of the texts (n) the greatest share of a test text that is a run of it, 0 to 1.
    """
    codes = np.empty(longest_text(offsets, first, last) + 1, np.int32)
    for text in range(first, last):
        count = _letters(data, offsets[text], offsets[text + 1], classes, codes)
        result[text] = _overlap(codes, count, anchors, least)


@inner
def _folded(data: Bytes, start: Integer, end: Integer, codes: Codes) -> Integer:
    """Write a text to ``codes`` in lower case, each run of spaces one space, none at the ends; returns its length."""
    count = 0
    for place in range(decode(data, start, end, codes)):
        code = codes[place]
        if code in (32, 9, 10, 11, 12, 13, 0xA0, 0x3000):
            if count and codes[count - 1] != 32:
                codes[count] = 32
                count += 1
            continue
        codes[count] = code + 32 if 65 <= code <= 90 else code
        count += 1
    return count - 1 if count and codes[count - 1] == 32 else count


@inner
def _gram(codes: Codes, start: Integer, count: Integer, bits: Bytes) -> Integer:
    """Bit of the run of five characters from ``start`` on; of the whole text where it is shorter."""
    value = np.uint64(0)
    for place in range(start, min(start + NGRAM, count)):
        value = (value ^ np.uint64(codes[place])) * _BASE
        value ^= value >> np.uint64(32)
    return np.int64((value * _MIX) >> np.uint64(16)) & (len(bits) * 8 - 1)


@nb.njit(cache=True, nogil=True)
def grams(offsets: Whole, data: Bytes) -> Bytes:
    """A Bloom filter (one hash) of the runs of five characters in some texts."""
    bits = np.zeros(_power_of_two(2 * (offsets[-1] - offsets[0])), np.uint8)
    codes = np.empty(np.max(offsets[1:] - offsets[:-1]) + 1, np.int32)
    for text in range(len(offsets) - 1):
        count = _folded(data, offsets[text], offsets[text + 1], codes)
        for start in range(max(1, count - NGRAM + 1)):
            bit = _gram(codes, start, count, bits)
            bits[bit >> 3] |= np.uint8(1 << (bit & 7))
    return bits


@nb.njit(cache=True, nogil=True)
def known_share(offsets: Whole, data: Bytes, bits: Bytes, first: Integer, last: Integer, result: Real) -> None:
    """Share of the runs of five characters of some texts that the texts of :func:`grams` hold (or a little more).

    Texts of Jaccard similarity s share at least s of the runs of either, so those below need no comparison.

    Args:
        offsets: Offsets of the texts (n + 1).
        data: Their bytes, valid UTF-8.
        bits: What :func:`grams` returned.
        first: The first text to look at.
        last: The text to stop before.
        result: Gets the share for each of the texts (n), 0 to 1.
    """
    codes = np.empty(longest_text(offsets, first, last) + 1, np.int32)
    for text in range(first, last):
        count = _folded(data, offsets[text], offsets[text + 1], codes)
        known = 0
        runs = max(1, count - NGRAM + 1)
        for start in range(runs):
            bit = _gram(codes, start, count, bits)
            known += bits[bit >> 3] >> (bit & 7) & 1
        result[text] = known / runs
