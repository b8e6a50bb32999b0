"""Pairs of nearly the same texts: banded MinHash finds candidates, the exact Jaccard similarity decides.

Texts are compared by their sets of character 5-grams after folding. MinHash signatures (Broder 1997) are cut into
bands; two texts are candidates when all of a band agrees, which at similarity s happens with probability
1 - (1 - s^rows)^bands (Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, 3.4). Bands and rows are chosen so
that at the threshold less than one pair in a thousand is missed.

Work per text is bounded. Where more than ``BUCKET`` texts share a band (a boilerplate, a template), a text meets only
the best of them there, and the texts of such crowded buckets are joined in other ways besides: by band and answer
together, by their rarest shingles (a prefix filter, which misses nothing), and by the answers' bands within a cluster.
Only where those are crowded too, which takes texts made of common parts alone, a pair may be missed.
"""

from __future__ import annotations

import math
import sys
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from tollgate.gates.text_buffers import buffers, text_column
from tollgate.gates.threads import cores, in_parts

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from tollgate.gates.near_duplicates_kernels import Known, Texts

    Integers = npt.NDArray[np.int64]
    Words = npt.NDArray[np.uint64]
    Flags = npt.NDArray[np.bool_]
    Reals = npt.NDArray[np.float64]

BUCKET = 32
_PERMUTATIONS = 160
_MISSED = 0.001
_SEED = 1
_MANY_PAIRS = 1 << 24
_BASIC_PLANE = 0x10000
_LOW, _WORD = np.uint64(0xFFFFFFFF), np.uint64(32)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: neighbouring numbers end up far apart


def fold(text: str) -> str:
    """A text as it is compared: NFC, lower case, each run of whitespace one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def folded_texts(column: pa.LargeStringArray) -> Texts:
    """A column for the kernels, which fold it as :func:`fold` does.

    The kernels fold one code point at a time. The few texts for which that is not enough (combining marks, conjoining
    jamo, a capital sigma: texts whose NFC or lower case depends on neighbours) are folded here.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from tollgate.gates import near_duplicates_kernels as kernels

    lower, rare = fold_tables()
    texts = kernels.Texts(*buffers(column), lower)
    marked = np.zeros(len(column), np.bool_)
    in_parts(len(column), lambda start, stop: kernels.mark_rare_codes(texts, rare, start, stop, marked))
    if not marked.any():
        return texts
    folded = pa.array([fold(text) for text in column.filter(pa.array(marked)).to_pylist()], pa.large_string())
    return kernels.Texts(*buffers(text_column(pc.replace_with_mask(column, pa.array(marked), folded))), lower)


@cache
def fold_tables() -> tuple[npt.NDArray[np.uint32], Flags]:
    """For each code point of the basic plane what it folds to alone, and whether that depends on its neighbours."""
    lower, rare = np.arange(_BASIC_PLANE, dtype=np.uint32), np.zeros(_BASIC_PLANE, np.bool_)
    for code in range(0x80):
        lower[code] = ord(" ") if chr(code).isspace() else ord(chr(code).lower())
    for code in range(0x80, _BASIC_PLANE):
        character = chr(code)
        if character.isspace():
            lower[code] = ord(" ")
        elif 0xD800 <= code < 0xE000:
            continue
        elif unicodedata.combining(character) or not unicodedata.is_normalized("NFC", character):
            rare[code] = True
        else:
            low = character.lower()
            lower[code], rare[code] = ord(low[0]), len(low) > 1
    rare[[ord("Σ"), *_joining()]] = True
    return lower, rare


def _joining() -> list[int]:
    """Code points that may compose with the one before them: second parts of decompositions, and Hangul jamo."""
    parts = (unicodedata.decomposition(chr(code)).split() for code in range(0x80, _BASIC_PLANE))
    seconds = {int(pair[1], 16) for pair in parts if len(pair) == 2 and not pair[0].startswith("<")}
    return [*sorted(code for code in seconds if code < _BASIC_PLANE), *range(0x1100, 0x1200)]


@cache
def digit_zeros() -> Integers:
    """Code points of the digit zero of every script, rising; what ``\\d`` matches are the ten from each."""
    digits = (code for code in range(sys.maxunicode + 1) if chr(code).isdecimal())
    return np.array([code for code in digits if unicodedata.decimal(chr(code)) == 0], np.int64)


@dataclass(frozen=True)
class Banding:
    """How many bands a signature has, and how many parts (rows) each."""

    bands: int
    rows: int


def banding(threshold: float) -> Banding:
    """The longest bands that keep the signature within 160 parts and miss at most 0.1 % of pairs at the threshold."""
    best = Banding(1, 1)
    for rows in range(1, _PERMUTATIONS + 1):
        bands = math.ceil(math.log(_MISSED) / math.log1p(-(min(threshold, 0.99) ** rows)))
        if rows == 1 or bands * rows <= _PERMUTATIONS:
            best = Banding(bands, rows)
    return best


@dataclass(frozen=True)
class Sketches:
    """What is known of each unit's text.

    Args:
        keys: Hash of each band, (bands, units).
        marks: A byte of each part of the signature, (units, parts).
        least: Pairs with fewer bytes in common are below the threshold, but for three in a hundred thousand (four
            standard deviations of the estimate); and a number less sure, but for one in twenty.
    """

    keys: npt.NDArray[np.uint32]
    marks: npt.NDArray[np.uint8]
    least: tuple[int, int]


def sketch(texts: Texts, rows: Integers, threshold: float) -> Sketches:
    """Sign the text of each unit."""
    from tollgate.gates import near_duplicates_kernels as kernels

    form = banding(threshold)
    size = form.bands * form.rows
    generator = np.random.default_rng(_SEED)
    factors = generator.integers(0, 1 << 32, size, dtype=np.uint32) | np.uint32(1)
    terms = generator.integers(0, 1 << 32, size, dtype=np.uint32)
    keys, marks = np.empty((form.bands, rows.size), np.uint32), np.empty((rows.size, size), np.uint8)
    in_parts(rows.size, lambda start, stop: kernels.sketch(texts, rows, factors, terms, start, stop, keys, marks))
    deviation = math.sqrt(size * threshold * (1 - threshold))
    sure, likely = (max(0, math.floor(size * threshold - width * deviation)) for width in (4, 5 / 3))
    return Sketches(keys, marks, (sure, likely))


class Search:
    """Finds pairs of units whose texts may be alike, in several ways.

    Pairs are sorted words with the better unit in the upper 32 bits and the other in the lower.

    Args:
        texts: The column that is compared.
        rows: The text of each unit, from the best unit down.
        threshold: Least Jaccard similarity, above 0 and at most 1.
        earlier: If positive, only pairs of one of so many first units with one of the others.
    """

    def __init__(self, texts: Texts, rows: Integers, threshold: float, earlier: int = 0) -> None:
        self._texts, self._rows, self._threshold, self._earlier = texts, rows, threshold, earlier
        self._sketches = sketch(texts, rows, threshold)
        self._crowded = np.zeros(rows.size, np.bool_)

    def crowded(self) -> Integers:
        """Units that shared a key with so many that they did not meet them all, rising."""
        return np.flatnonzero(self._crowded)

    def band_groups(self) -> Iterator[slice]:
        """All bands, the first few apart: where texts crowd, they tell enough to leave most pairs of the others out."""
        start, size = 0, 2
        while start < len(self._sketches.keys):
            yield slice(start, start + size)
            start, size = start + size, 2 * size

    def by_band(self, bands: slice, known: Known, units: Integers, salt: Integers | None = None) -> Words:
        """Pairs that agree in a band.

        Args:
            bands: The bands to try.
            known: What is known of all units.
            units: The units to pair, rising.
            salt: A number for each of these that must agree too.
        """
        low = units.astype(np.uint64)
        if salt is not None:
            low |= salt.astype(np.uint64) * _SPREAD & ~_LOW

        def met(band: npt.NDArray[np.uint32]) -> Words:
            return self._met((band[units].astype(np.uint64) << _WORD) ^ low, known)

        merged = _Merged()
        with ThreadPoolExecutor(cores()) as pool:
            for pairs in pool.map(met, self._sketches.keys[bands]):
                merged.add(pairs)
        return merged.pairs()

    def by_rare_shingles(self, known: Known, units: Integers) -> Words:
        """Pairs of some units that share one of their rarest shingles: all at the threshold, unless crowded again."""
        from tollgate.gates import near_duplicates_kernels as kernels

        texts, rows = self._texts, self._rows[units]
        counts = np.zeros(1 << kernels.COUNTERS, np.uint32)
        kernels.count_shingles(texts, rows, counts)

        def keyed(start: int, stop: int) -> Words:
            return kernels.rare_shingles(texts, rows[start:stop], units[start:stop], counts, self._threshold)

        return distinct(self._met(np.concatenate(in_parts(units.size, keyed)), known))

    def _met(self, packed: Words, known: Known) -> Words:
        """Pairs that share a key, from words with the key in the upper and the unit in the lower 32 bits."""
        from tollgate.gates import near_duplicates_kernels as kernels

        packed = kernels.sharing(packed, min(32, max(6, packed.size.bit_length() + 3)))
        packed.sort()
        marks, least = self._sketches.marks, self._sketches.least
        return kernels.pairs_in_buckets(packed, marks, least, BUCKET, self._earlier, known, self._crowded)


class _Merged:
    """Pairs from several searches, each once."""

    def __init__(self) -> None:
        self._found: list[Words] = [np.empty(0, np.uint64)]

    def add(self, pairs: Words) -> None:
        self._found.append(pairs)
        if sum(part.size for part in self._found[1:]) > self._found[0].size + _MANY_PAIRS:
            self.pairs()

    def pairs(self) -> Words:
        """All pairs until now, sorted."""
        self._found = [distinct(np.concatenate(self._found))]
        return self._found[0]


def pairs_by_answer(
    texts: Texts, rows: Integers, units: Integers, known: Known, threshold: float, earlier: int = 0
) -> Words:
    """Find pairs of units of the same cluster whose answers may be alike.

    Args:
        texts: The column of answers.
        rows: The text of each unit, from the best unit down.
        units: The units to pair, rising.
        known: What is known of all units.
        threshold: Least Jaccard similarity, above 0 and at most 1.
        earlier: As in :class:`Search`.

    Returns:
        Pairs, sorted.
    """
    search = Search(texts, rows[units], threshold, int(np.searchsorted(units, earlier)))
    here = known.of(units)
    ones, others = split(search.by_band(slice(None), here, np.arange(units.size), here.cluster))
    return join(units[ones], units[others])


def distinct(pairs: Words) -> Words:
    """Each pair once, sorted: what ``np.unique`` does by hashing, several times slower where pairs come in runs."""
    ordered = np.sort(pairs, kind="stable")
    first = np.ones(ordered.size, np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def split(pairs: Words) -> tuple[Integers, Integers]:
    """The better and the worse unit of each pair."""
    return (pairs >> _WORD).astype(np.int64), (pairs & _LOW).astype(np.int64)


def join(ones: Integers, others: Integers) -> Words:
    """Pairs of a better and a worse unit each."""
    return (ones.astype(np.uint64) << _WORD) | others.astype(np.uint64)


def similarities(texts: Texts, ones: Integers, others: Integers) -> Reals:
    """Jaccard similarity (0 to 1) of the folded 5-grams of each pair of texts."""
    from tollgate.gates import near_duplicates_kernels as kernels

    found = np.empty(ones.size, np.float64)
    in_parts(ones.size, lambda start, stop: kernels.jaccard_of_pairs(texts, ones, others, start, stop, found))
    return found


def groups_of_equal(texts: Texts, count: int) -> Integers:
    """For each text the position of the first that is equal to it after folding."""
    from tollgate.gates import near_duplicates_kernels as kernels

    prints, first = np.empty(count, np.uint64), np.empty(count, np.int64)
    in_parts(count, lambda start, stop: kernels.fingerprint(texts, start, stop, prints))
    kernels.first_equal(texts, prints, first)
    return first
