"""Compiled loops of the search for near duplicates. Importing this module is slow (numba): do it inside functions.

A text is read from an Arrow column's bytes and folded on the way, so that no Python string is made: each code point is
looked up in a table that gives its lower case, each run of whitespace becomes one space, none stays at the ends.
Columns must hold valid UTF-8, as Arrow's string types promise.

Units are the rows to compare, numbered from the best down. A pair is one number: the better unit in the upper 32 bits,
the other in the lower 32 bits. The kernels release the interpreter's lock; callers split the work among threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from tollgate.gates.compiled import inner

if TYPE_CHECKING:
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]
    Words = npt.NDArray[np.uint64]
    Codes = npt.NDArray[np.uint32]
    Bytes = npt.NDArray[np.uint8]
    Flags = npt.NDArray[np.bool_]
    Reals = npt.NDArray[np.float64]

NGRAM = 5
SPACE = 32
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)
_ONE = np.uint64(1)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, as in splitmix64
_FINALIZER = np.uint64(0xFF51AFD7ED558CCD)  # from MurmurHash3's fmix64
# Odd random multipliers of the multilinear hash of a shingle (Lemire & Kaser 2014), and of its length.
_C0, _C1 = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA0761D6478BD642F)
_C2, _C3 = np.uint64(0xE7037ED1A0B428DB), np.uint64(0x8EBC6AF09C88C6E3)
_C4, _CLENGTH = np.uint64(0x589965CC75374CC3), np.uint64(0x1D8E4E27C47D124F)
_HASHED = np.uint64(24)  # lower bits dropped from a shingle's hash where its count takes the upper bits
_COUNTED = np.uint64(40)
_MOST_COUNTED = np.uint32(0xFFFFFF)
COUNTERS = 22  # bits of the table of shingle counts


class Texts(NamedTuple):
    """A text column as the kernels read it.

    Args:
        offsets: Where each text starts, in bytes; one more than there are texts.
        data: The UTF-8 bytes.
        lower: For each code point of the basic plane, what it is compared as: whitespace as a space, letters in lower
            case. Code points beyond the basic plane are compared as they are.
    """

    offsets: Integers
    data: Bytes
    lower: Codes


class Known(NamedTuple):
    """What is known of the units until now, so that nothing is asked twice.

    Args:
        cluster: A number for each unit, the same for all that verified pairs connect.
        dropped: Whether a unit is dropped.
        answer: A number for each unit, the same for the same answer.
        strict: Answers with this number or a greater one are like no other.
    """

    cluster: Integers
    dropped: Flags
    answer: Integers
    strict: int

    def of(self, units: Integers) -> Known:
        """The same of some units."""
        return Known(self.cluster[units], self.dropped[units], self.answer[units], self.strict)


@njit(cache=True, nogil=True, inline="always")
def _mixed(value: np.uint64) -> np.uint64:
    value ^= value >> _WORD
    value *= _FINALIZER
    return value ^ (value >> np.uint64(29))


@njit(cache=True, nogil=True, inline="always")
def _code_point(data: Bytes, place: int) -> tuple[np.uint32, int]:
    """Code point that starts at a place, and how many bytes it takes."""
    lead = np.uint32(data[place])
    if lead < 0x80:
        return lead, 1
    second = np.uint32(data[place + 1]) & np.uint32(0x3F)
    if lead < 0xE0:
        return ((lead & np.uint32(0x1F)) << np.uint32(6)) | second, 2
    third = np.uint32(data[place + 2]) & np.uint32(0x3F)
    if lead < 0xF0:
        return ((lead & np.uint32(0x0F)) << np.uint32(12)) | (second << np.uint32(6)) | third, 3
    fourth = np.uint32(data[place + 3]) & np.uint32(0x3F)
    upper = ((lead & np.uint32(0x07)) << np.uint32(18)) | (second << np.uint32(12))
    return upper | (third << np.uint32(6)) | fourth, 4


@inner
def fold(texts: Texts, row: int | np.int64, codes: Codes) -> int:
    """Write the folded code points of one text and return how many they are; ``codes`` has room for its bytes."""
    offsets, data, lower = texts
    place, end, count = offsets[row], offsets[row + 1], 0
    while place < end:
        code, size = _code_point(data, place)
        place += size
        if code < 0xAC00 or 0xD7A3 < code <= 0xFFFF:  # Hangul syllables have no case
            code = lower[code]
        if code == SPACE and (count == 0 or codes[count - 1] == SPACE):
            continue
        codes[count] = code
        count += 1
    if count and codes[count - 1] == SPACE:
        count -= 1
    return count


@inner
def _longest(texts: Texts, rows: Integers) -> int:
    longest = 0
    for row in rows:
        longest = max(longest, texts.offsets[row + 1] - texts.offsets[row])
    return longest


@inner
def mark_rare_codes(texts: Texts, rare: Flags, start: int, stop: int, marked: Flags) -> None:
    """Mark the texts with a code point that the table cannot fold alone (``rare``, or one beyond the emoji planes)."""
    offsets, data, _ = texts
    for row in range(start, stop):
        place, end = offsets[row], offsets[row + 1]
        while place < end:
            if data[place] < 0x80:
                place += 1
                continue
            code, size = _code_point(data, place)
            place += size
            if (code <= 0xFFFF and rare[code]) or (code > 0xFFFF and not _foldable_alone(code)):
                marked[row] = True
                break


@inner
def _foldable_alone(code: np.uint32) -> bool:
    """Whether a code point beyond the basic plane is an emoji, a symbol or an ideograph without other form."""
    return bool(0x1F000 <= code < 0x1FBF0 or 0x20000 <= code < 0x2F800 or 0x30000 <= code < 0x40000)


@inner
def mark_first_character(texts: Texts, one: int, other: int, start: int, stop: int, marked: Flags) -> None:
    """Mark the texts whose first character after whitespace is one of two ASCII characters."""
    offsets, data, lower = texts
    for row in range(start, stop):
        place, end = offsets[row], offsets[row + 1]
        while place < end:
            code, size = _code_point(data, place)
            if code > 0xFFFF or lower[code] != SPACE:
                marked[row] = code in (one, other)
                break
            place += size


@njit(cache=True, nogil=True)
def fingerprint(texts: Texts, start: int, stop: int, prints: Words) -> None:
    """Hash each folded text of a range to 64 bits."""
    codes = np.empty(_longest(texts, np.arange(start, stop)) + 1, np.uint32)
    for row in range(start, stop):
        length = fold(texts, row, codes)
        value = np.uint64(length)
        for place in range(length):
            value = (value ^ np.uint64(codes[place])) * _MULTIPLIER
            value ^= value >> _WORD
        prints[row] = _mixed(value)


@inner
def _equal(texts: Texts, one: np.int64, other: int, codes: Codes, others: Codes) -> bool:
    length = fold(texts, one, codes)
    if length != fold(texts, other, others):
        return False
    for place in range(length):  # noqa: SIM110 - numba knows no generators
        if codes[place] != others[place]:
            return False
    return True


@njit(cache=True, nogil=True)
def first_equal(texts: Texts, prints: Words, first: Integers) -> None:
    """For each text find the first that is equal to it after folding; where hashes are equal, characters decide."""
    count = prints.size
    size = 1024
    while size < 2 * count:
        size *= 2
    table = np.full(size, -1, np.int64)
    longest = _longest(texts, np.arange(count)) + 1
    codes, others = np.empty(longest, np.uint32), np.empty(longest, np.uint32)
    for row in range(count):
        slot = np.int64(prints[row] & np.uint64(size - 1))
        while True:
            known = table[slot]
            if known < 0:
                table[slot] = first[row] = row
                break
            if prints[known] == prints[row] and _equal(texts, known, row, codes, others):
                first[row] = known
                break
            slot = (slot + 1) & (size - 1)


@njit(cache=True, nogil=True)
def first_same(keys: Integers, first: Integers) -> None:
    """For each key find the place of the first key that is the same."""
    size = 1024
    while size < 2 * keys.size:
        size *= 2
    table = np.full(size, -1, np.int64)
    for place in range(keys.size):
        slot = np.int64(_mixed(np.uint64(keys[place]) * _MULTIPLIER) & np.uint64(size - 1))
        while table[slot] >= 0 and keys[table[slot]] != keys[place]:
            slot = (slot + 1) & (size - 1)
        if table[slot] < 0:
            table[slot] = place
        first[place] = table[slot]


@inner
def shingle(codes: Codes, length: int, hashes: Words) -> int:
    """Hash each run of five characters to 64 bits, never 0, and return their number; a shorter text is one run."""
    if length < NGRAM:
        value = np.uint64(length + 1) * _CLENGTH
        for place in range(length):
            value = (value ^ np.uint64(codes[place])) * _MULTIPLIER
        hashes[0] = _mixed(value) | _ONE
        return 1
    count = length - NGRAM + 1
    for start in range(count):
        value = np.uint64(codes[start]) * _C0 + np.uint64(codes[start + 1]) * _C1
        value += np.uint64(codes[start + 2]) * _C2 + np.uint64(codes[start + 3]) * _C3
        hashes[start] = _mixed(value + np.uint64(codes[start + 4]) * _C4) | _ONE
    return count


@inner
def _sign(shingles: Codes, count: int, factors: Codes, terms: Codes, smallest: Codes) -> None:
    """MinHash signature: for each affine permutation of the 32-bit numbers, the smallest image of a shingle."""
    smallest[:] = np.uint32(0xFFFFFFFF)
    last = count - 1
    for start in range(0, count, 4):  # four at a time: the inner loop is bound by loads and stores
        one, two = shingles[start], shingles[min(start + 1, last)]
        three, four = shingles[min(start + 2, last)], shingles[min(start + 3, last)]
        for place in range(factors.size):
            factor, term = factors[place], terms[place]
            front = min(np.uint32(factor * one + term), np.uint32(factor * two + term))
            back = min(np.uint32(factor * three + term), np.uint32(factor * four + term))
            smallest[place] = min(smallest[place], min(front, back))


@njit(cache=True, nogil=True)
def sketch(
    texts: Texts, rows: Integers, factors: Codes, terms: Codes, start: int, stop: int, keys: Codes, marks: Bytes
) -> None:
    """Sign the texts of a range of units.

    Args:
        texts: The column.
        rows: The text of each unit.
        factors: The permutations' odd factors, as many per band as there are in all over the number of bands.
        terms: The permutations' terms.
        start: First unit.
        stop: Unit after the last.
        keys: Written: hash of each band's part of the signature, (bands, units).
        marks: Written: the low byte of each part of the signature, (units, permutations). Texts of Jaccard similarity
            J have about the share J + (1 - J) / 256 of these in common.
    """
    bands, width = keys.shape[0], factors.size // keys.shape[0]
    longest = _longest(texts, rows[start:stop]) + 1
    codes, hashes, shingles = np.empty(longest, np.uint32), np.empty(longest, np.uint64), np.empty(longest, np.uint32)
    smallest = np.empty(factors.size, np.uint32)
    for unit in range(start, stop):
        count = shingle(codes, fold(texts, rows[unit], codes), hashes)
        for place in range(count):
            shingles[place] = np.uint32(hashes[place] >> _WORD)
        _sign(shingles, count, factors, terms, smallest)
        for place in range(factors.size):
            marks[unit, place] = smallest[place] & np.uint32(0xFF)
        for band in range(bands):
            value = np.uint64(band + 1)
            for place in range(band * width, (band + 1) * width):
                value = (value ^ np.uint64(smallest[place])) * _MULTIPLIER
                value ^= value >> _WORD
            keys[band, unit] = np.uint32(_mixed(value) >> _WORD)


@inner
def _alike(marks: Bytes, one: np.int64, other: np.int64, least: int) -> bool:
    same = 0
    for place in range(marks.shape[1]):
        same += marks[one, place] == marks[other, place]
    return same >= least


@njit(cache=True, nogil=True)
def _bigger(values: Words) -> Words:
    bigger = np.empty(2 * values.size, np.uint64)
    bigger[: values.size] = values
    return bigger


@njit(cache=True, nogil=True)
def sharing(packed: Words, bits: int) -> Words:
    """Leave out most words whose upper 32 bits no other word has, so that fewer need sorting.

    Args:
        packed: A key in the upper 32 bits, a unit in the lower.
        bits: Keys are told apart by so many of their upper bits (6 to 32), in two tables of 2^bits bits.
    """
    shift = np.uint64(64 - bits)
    seen, again = np.zeros(1 << (bits - 6), np.uint64), np.zeros(1 << (bits - 6), np.uint64)
    for word in packed:
        slot = word >> shift
        place, bit = slot >> np.uint64(6), _ONE << (slot & np.uint64(63))
        again[place] |= seen[place] & bit
        seen[place] |= bit
    count = 0
    found = np.empty(packed.size, np.uint64)
    for word in packed:
        slot = word >> shift
        if again[slot >> np.uint64(6)] >> (slot & np.uint64(63)) & _ONE:
            found[count] = word
            count += 1
    return found[:count]


@njit(cache=True, nogil=True)
def pairs_in_buckets(
    packed: Words,
    marks: Bytes,
    least: tuple[int, int],
    limit: int,
    earlier: int,
    known: Known,
    crowded: Flags,
) -> Words:
    """Pair the units that share a key, with bounded work for each.

    A unit meets every better unit of its bucket, as long as these are at most ``limit``. In a bucket with more it meets
    only the best one, and the whole bucket is marked as crowded.

    Args:
        packed: Sorted: a key in the upper 32 bits, a unit in the lower.
        marks: Bytes of the units' signatures.
        least: Pairs with fewer bytes in common are passed over; the second number holds in crowded buckets.
        limit: Most units that a unit of the bucket meets.
        earlier: If positive, only pairs of a unit below this number with one from it on.
        known: What need not be asked again.
        crowded: Written: whether a unit is in a bucket with more than ``limit`` to meet.

    Returns:
        Pairs, in no order, perhaps some of them twice.
    """
    found, count, start = np.empty(1024, np.uint64), 0, 0
    while start < packed.size:
        end, before = _bucket(packed, start, earlier)
        first = start + before if earlier > 0 else start + 1
        most = before if earlier > 0 else end - start - 1
        if first < end and most > limit:
            for place in range(start, end):
                crowded[packed[place] & _LOW] = True
        for place in range(first, end):
            other = np.int64(packed[place] & _LOW)
            better = before if earlier > 0 else place - start
            many = better > limit
            for step in range(1 if many else better):
                one = np.int64(packed[start + step] & _LOW)
                if one == other or _told(known, one, other):
                    continue
                if _alike(marks, one, other, least[1] if many else least[0]):
                    if count == found.size:
                        found = _bigger(found)
                    found[count] = (np.uint64(one) << _WORD) | np.uint64(other)
                    count += 1
        start = end
    return found[:count]


@inner
def _told(known: Known, one: np.int64, other: np.int64) -> bool:
    """Whether two units are of one cluster, and the worse is dropped already or can't be for the better one."""
    if known.cluster[one] != known.cluster[other]:
        return False
    first, second = known.answer[one], known.answer[other]
    return bool(known.dropped[other] or (first != second and max(first, second) >= known.strict))


@inner
def _bucket(packed: Words, start: int, earlier: int) -> tuple[int, int]:
    """Where the bucket that starts here ends, and how many of its units are below ``earlier``."""
    end, before = start, 0
    while end < packed.size and packed[end] >> _WORD == packed[start] >> _WORD:
        before += int((packed[end] & _LOW) < np.uint64(earlier))
        end += 1
    return end, before


@njit(cache=True, nogil=True)
def count_shingles(texts: Texts, rows: Integers, counts: Codes) -> None:
    """Count in how many texts (about: by hash, with repetitions) each shingle occurs."""
    longest = _longest(texts, rows) + 1
    codes, hashes = np.empty(longest, np.uint32), np.empty(longest, np.uint64)
    for row in rows:
        for place in range(shingle(codes, fold(texts, row, codes), hashes)):
            slot = hashes[place] >> np.uint64(64 - COUNTERS)
            if counts[slot] < _MOST_COUNTED:
                counts[slot] += np.uint32(1)


@njit(cache=True, nogil=True)
def rare_shingles(texts: Texts, rows: Integers, units: Integers, counts: Codes, threshold: float) -> Words:
    """Keys by which every pair of texts at the threshold or above meets: each text's rarest shingles.

    Two sets of similarity t share at least t times the size of the larger; so, in one order of all shingles, the first
    size - ceil(t * size) + 1 of both have one in common (prefix filter, Chaudhuri, Ganti & Kaushik 2006). The order is
    by rising count, so that what all texts share comes last.

    Args:
        texts: The column.
        rows: The text of each unit of ``units``.
        units: Units, to be packed with the keys.
        counts: Count of each shingle, from :func:`count_shingles`.
        threshold: Least similarity, above 0 and at most 1.

    Returns:
        A key in the upper 32 bits, a unit in the lower; unsorted.
    """
    longest = _longest(texts, rows) + 1
    codes, hashes = np.empty(longest, np.uint32), np.empty(longest, np.uint64)
    found, count = np.empty(1024, np.uint64), 0
    for index in range(rows.size):
        length = shingle(codes, fold(texts, rows[index], codes), hashes)
        for place in range(length):
            seen = np.uint64(counts[hashes[place] >> np.uint64(64 - COUNTERS)])
            hashes[place] = (seen << _COUNTED) | (hashes[place] >> _HASHED)
        tokens = np.unique(hashes[:length])
        for place in range(tokens.size - int(np.ceil(threshold * tokens.size - 1e-9)) + 1):
            if place < tokens.size:
                if count == found.size:
                    found = _bigger(found)
                key = _mixed(tokens[place] * _MULTIPLIER) & ~_LOW
                found[count] = key | np.uint64(units[index])
                count += 1
    return found[:count]


@inner
def _slot(table: Words, value: np.uint64, mask: int) -> np.int64:
    """Slot of a hash in an open table, or the empty one where it belongs."""
    slot = np.int64(value >> _WORD) & mask
    while table[slot] != 0 and table[slot] != value:
        slot = (slot + 1) & mask
    return slot


@inner
def _put_first(table: Words, used: Integers, hashes: Words, count: int, mask: int) -> int:
    """Put the distinct shingles of a pair's first text into an empty table and return their number."""
    size = 0
    for place in range(count):
        slot = _slot(table, hashes[place], mask)
        if table[slot] == 0:
            table[slot] = hashes[place]
            used[size] = slot
            size += 1
    return size


@njit(cache=True, nogil=True)
def jaccard_of_pairs(texts: Texts, ones: Integers, others: Integers, start: int, stop: int, similarity: Reals) -> None:
    """Jaccard similarity of the shingle sets of pairs of texts, by 64-bit hashes of all shingles (no estimate).

    Args:
        texts: The column.
        ones: First text of each pair; quick where equal ones follow each other.
        others: Second text of each pair.
        start: First pair.
        stop: Pair after the last.
        similarity: Written: 0 to 1.
    """
    longest = max(_longest(texts, ones[start:stop]), _longest(texts, others[start:stop])) + 1
    codes, hashes = np.empty(longest, np.uint32), np.empty(longest, np.uint64)
    size = 64
    while size < 4 * longest:
        size *= 2
    table, seen, used = np.zeros(size, np.uint64), np.full(size, -1, np.int64), np.empty(2 * longest, np.int64)
    loaded, mask, first = -1, 0, 0
    for pair in range(start, stop):
        one, other = ones[pair], others[pair]
        both = texts.offsets[one + 1] - texts.offsets[one] + texts.offsets[other + 1] - texts.offsets[other]
        size = 64
        while size < 2 * (both + 2):
            size *= 2
        if one != loaded or size - 1 != mask:
            for place in range(first):
                table[used[place]] = 0
            mask, loaded = size - 1, one
            first = _put_first(table, used, hashes, shingle(codes, fold(texts, one, codes), hashes), mask)
        shared, added = 0, 0
        for place in range(shingle(codes, fold(texts, other, codes), hashes)):
            slot = _slot(table, hashes[place], mask)
            if table[slot] == 0:
                table[slot] = hashes[place]
                used[first + added] = slot
                added += 1
            elif seen[slot] != pair:
                shared += 1
            seen[slot] = pair
        for place in range(first, first + added):
            table[used[place]] = 0
        similarity[pair] = shared / (first + added)


@inner
def _numbers(codes: Codes, length: int, zeros: Integers, digits: Codes) -> int:
    """Write the runs of decimal digits of a text, a space after each, and return the length of what was written."""
    count = 0
    for place in range(length):
        code = codes[place]
        zero = zeros[np.searchsorted(zeros, code, side="right") - 1]  # the last one, too great, where code is below all
        if zero <= code < zero + 10:
            digits[count] = code
            count += 1
        elif count and digits[count - 1] != SPACE:
            digits[count] = SPACE
            count += 1
    if count and digits[count - 1] != SPACE:
        digits[count] = SPACE
        count += 1
    return count


@njit(cache=True, nogil=True)
def same_numbers(texts: Texts, ones: Integers, others: Integers, zeros: Integers, same: Flags) -> None:
    """Whether both texts of each pair hold the same numbers (runs of decimal digits) in the same order.

    Args:
        texts: The column.
        ones: First text of each pair.
        others: Second text of each pair.
        zeros: Code points of the digit zero of every script, rising; its digits follow each other.
        same: Written.
    """
    longest = max(_longest(texts, ones), _longest(texts, others)) + 1
    codes = np.empty(longest, np.uint32)
    digits, other_digits = np.empty(2 * longest, np.uint32), np.empty(2 * longest, np.uint32)
    for pair in range(ones.size):
        length = _numbers(codes, fold(texts, ones[pair], codes), zeros, digits)
        equal = length == _numbers(codes, fold(texts, others[pair], codes), zeros, other_digits)
        place = 0
        while equal and place < length:
            equal = digits[place] == other_digits[place]
            place += 1
        same[pair] = equal


@inner
def keep_best(pairs: Words, similarity: Reals, kept_for: Integers, jaccard: Reals) -> None:
    """Go through the units from the best down: each is kept, unless it repeats a better one that is kept.

    Args:
        pairs: Pairs of units that repeat each other, sorted by the worse unit.
        similarity: Of each pair.
        kept_for: Written: the kept unit that a unit repeats most closely (of equals the best), -1 where it is kept.
        jaccard: Written where a unit is not kept: how alike the two are.
    """
    kept_for[:] = -1
    for place in range(pairs.size):
        one, other = np.int64(pairs[place] >> _WORD), np.int64(pairs[place] & _LOW)
        if kept_for[one] >= 0:
            continue
        known = kept_for[other]
        closer = similarity[place] > jaccard[other] or (similarity[place] == jaccard[other] and one < known)
        if known < 0 or closer:
            kept_for[other] = one
            jaccard[other] = similarity[place]
