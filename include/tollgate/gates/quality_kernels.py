"""Compiled measures of quality over the UTF-8 bytes of whole text columns: no Python string is made of any row.

Each side of a row is its turns, joined by the byte :data:`~tollgate.gates.character_kernels.TURN`. Import this module
inside functions only: it loads numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numba as nb
import numpy as np

from tollgate.gates.character_kernels import (
    BROKEN,
    DIGIT,
    HANGUL,
    JAMO,
    LATIN,
    OTHER_LETTER,
    SPACE,
    SYMBOL,
    TURN,
    WESTERN,
    decode,
    longest_text,
)
from tollgate.gates.compiled import inner

if TYPE_CHECKING:
    import numpy.typing as npt

    from tollgate.gates.character_kernels import Bytes, Codes, Integer

    Whole = npt.NDArray[np.int64]
    Real = npt.NDArray[np.float32]

# Columns of what `measure` returns
(
    SHORTEST_QUESTION,  # letters and digits of the shortest turn
    SHORTEST_ANSWER,  # the same of the answers in prose; -1 where there is none
    REPEATED,  # greatest share of a turn that repeats what stands right before it, or a sentence of it
    DIVERSITY,  # share of the runs of three characters that are new
    LETTERS,  # letters and digits, less half the lone jamo, in what is no space (share)
    HANGUL_SHARE,  # Hangul in the letters, a syllable counting as 2.5 letters of others
    BROKEN_SHARE,  # broken characters in all
    ENDING,  # how the worst of the answers ends: 2 as a sentence, 1 as a word, 0 in the middle
    TOPICS,  # stems of words in the question
    SHARED,  # pairs of syllables in the answers that are one of them
    ANSWER_LETTERS,  # letters and digits of the answers in prose
    REFUSED,  # letters and digits of the shortest answer that refuses; -1 where none does
) = range(12)
MEASURES = 12

# What is added up over the turns of a row
_LETTERS, _JAMO, _VISIBLE, _HANGUL, _FOREIGN, _BROKEN, _ALL, _NEW, _RUNS, _TOPICS, _SHARED, _ANSWERED = range(12)

_LONGEST_UNIT = 12  # characters of a unit that counts as repeated, at most
_WINDOW = 256  # characters within which diversity is measured, so that long texts are not punished for being long
_LEAST_SENTENCE = 5  # characters of a sentence that must not come again; "네." may
_PHRASE_WITHIN = 400  # characters of an answer within which a refusal is looked for
_NAME = 20  # letters of an answer that may be a name or a category, of which no sentence is asked
_LEAST_SET_BITS, _SET_BITS = 6, 12
_SET_SIZE = 1 << _SET_BITS
_PROBES = 64

_PRIME = np.uint64(0x9E3779B97F4A7C15)


class Tables(NamedTuple):
    """What is known of characters, syllables and phrases.

    Attributes:
        classes: Class of each character (65,536).
        common: Whether a Hangul syllable is one of the 2,350 in use (65,536).
        endings: How a text ends that ends with this character: 2 a sentence, 1 a word, 0 in the middle (65,536).
        stems: Sorted pairs of syllables (first * 65,536 + second) that tell nothing of what a question is about.
        heads: Whether a phrase begins with this character (65,536).
        phrases: All phrases of refusal, without spaces, in lower case.
        bounds: Where each of them begins, and where the last ends.
    """

    classes: Bytes
    common: Bytes
    endings: Bytes
    stems: Whole
    heads: Bytes
    phrases: Codes
    bounds: Whole


class _Set(NamedTuple):
    """A set of numbers that is empty for every new stamp.

    Of a short row it uses few of its places, so that they stay in the nearest cache.
    """

    entries: Whole  # stamp and value (2 to the power of _SET_BITS, 2)
    bits: Whole  # how many places the row uses, as a power of two (1)


class _Scratch(NamedTuple):
    """Space for one row at a time: the characters of a turn, their classes, and what is added up."""

    codes: Codes
    kinds: Bytes
    bare: Codes
    worded: Bytes
    marks: Bytes
    topics: _Set
    found: _Set
    seen: _Set
    places: Whole
    stamp: Whole
    tally: Whole


@inner
def _slot(members: _Set, stamp: Integer, value: Integer) -> Integer:
    """Where a value is, or would be put; -1 where the set is too full to tell."""
    entries, bits = members.entries, np.uint64(members.bits[0])
    last = (np.uint64(1) << bits) - np.uint64(1)
    slot = (np.uint64(value) * _PRIME) >> (np.uint64(64) - bits)
    for _ in range(_PROBES):
        if entries[slot, 0] != stamp or entries[slot, 1] == value:
            return np.int64(slot)
        slot = (slot + np.uint64(1)) & last
    return np.int64(-1)


@inner
def _add(members: _Set, stamp: Integer, value: Integer) -> bool:
    """Put a value into a set; whether it is new there."""
    slot = _slot(members, stamp, value)
    if slot < 0:
        return True
    new = members.entries[slot, 0] != stamp
    members.entries[slot, 0] = stamp
    members.entries[slot, 1] = value
    return bool(new)


@inner
def _contains(members: _Set, stamp: Integer, value: Integer) -> bool:
    slot = _slot(members, stamp, value)
    return bool(slot >= 0 and members.entries[slot, 0] == stamp)


@inner
def _bits_for(length: Integer) -> Integer:
    """Bits of a set's places that are at least twice as many as a row has bytes, as far as sets are that large."""
    bits = _LEAST_SET_BITS
    while bits < _SET_BITS and 1 << bits < 2 * length:
        bits += 1
    return bits


@inner
def _new_stamp(scratch: _Scratch) -> Integer:
    scratch.stamp[0] += 1
    return scratch.stamp[0]


@inner
def is_structured(data: Bytes, start: Integer, end: Integer) -> bool:
    """Whether bytes are one JSON object or array, as far as brackets, quotes and their first sign tell."""
    while start < end and data[start] <= 0x20:
        start += 1
    while end > start and data[end - 1] <= 0x20:
        end -= 1
    if end - start < 2 or (data[start] != 0x7B and data[start] != 0x5B):
        return False
    first = start + 1
    while data[first] <= 0x20:
        first += 1
    sign = data[first]
    if data[start] == 0x7B and sign != 0x22 and sign != 0x7D:  # "{" wants a key or "}"
        return False
    if data[start] == 0x5B and not (0x30 <= sign <= 0x39 or sign in (0x22, 0x2D, 0x5B, 0x5D, 0x66, 0x6E, 0x74, 0x7B)):
        return False
    return _closes_at_end(data, start, end)


@inner
def _closes_at_end(data: Bytes, start: Integer, end: Integer) -> bool:
    """Whether the bracket that opens at ``start`` is closed by the last byte."""
    depth = 0
    quoted = False
    place = start
    while place < end:
        byte = data[place]
        if quoted:
            if byte == 0x5C:
                place += 1
            elif byte == 0x22:
                quoted = False
        elif byte == 0x22:
            quoted = True
        elif byte == 0x7B or byte == 0x5B:
            depth += 1
        elif byte == 0x7D or byte == 0x5D:
            depth -= 1
            if depth == 0:
                return place == end - 1
        place += 1
    return False


@inner
def _classify(scratch: _Scratch, count: Integer, tables: Tables) -> None:
    """Class of each character, and how many of all are broken.

    Broken are, besides the class of that name: three and more accented or Latin-1 signs in a row (UTF-8 or CP949 read
    as Latin-1), syllables out of use beside each other or beside Chinese characters (UTF-8 read as CP949), and a lone
    vowel after a lone consonant, two halves of a syllable (ㅜ, ㅠ and ㅡ apart, which are tears and faces).
    """
    codes, kinds, tally = scratch.codes, scratch.kinds, scratch.tally
    western = 0
    odd = False  # the character before is a syllable out of use
    for place in range(count):
        code = codes[place]
        kind = tables.classes[code] if code < 0x10000 else np.uint8(SYMBOL)
        kinds[place] = kind
        if kind == BROKEN:
            tally[_BROKEN] += 1
        if kind == WESTERN:
            western += 1
            tally[_BROKEN] += 3 if western == 3 else western > 3
        else:
            western = 0
        if kind == JAMO and place and 0x314F <= code <= 0x3163 and 0x3131 <= codes[place - 1] <= 0x314E:
            tally[_BROKEN] += code != 0x315C and code != 0x3160 and code != 0x3161
        was_odd, odd = odd, kind == HANGUL and not tables.common[code]
        if (odd or was_odd) and place:
            tally[_BROKEN] += odd and was_odd and code != codes[place - 1]
            tally[_BROKEN] += 2 * (kind == OTHER_LETTER or (odd and kinds[place - 1] == OTHER_LETTER))
    tally[_ALL] += count


@inner
def _compact(scratch: _Scratch, count: Integer) -> tuple[Integer, Integer]:
    """Write what is no space to ``bare``, in lower case, and count classes; returns its length, and the letters.

    Of a sign in a row only the first three count: laughter ("ㅋㅋㅋㅋㅋㅋ") does not outweigh the words before it.
    """
    tally, bare = scratch.tally, scratch.bare
    length = letters = run = 0
    hangul = foreign = visible = jamo = 0
    for place in range(count):
        kind = scratch.kinds[place]
        if kind == SPACE:
            continue
        code = scratch.codes[place]
        code = code + 32 if 65 <= code <= 90 else code
        letter = kind in (HANGUL, LATIN)
        run = run + 1 if length and bare[length - 1] == code else 1
        bare[length] = code
        scratch.worded[length] = letter
        length += 1
        letters += letter or kind == DIGIT
        hangul += kind == HANGUL
        foreign += kind in (LATIN, OTHER_LETTER, WESTERN)
        if letter or kind == DIGIT or run <= 3:
            visible += 1
            jamo += kind == JAMO
    tally[_LETTERS] += letters
    tally[_HANGUL] += hangul
    tally[_FOREIGN] += foreign
    tally[_VISIBLE] += visible
    tally[_JAMO] += jamo
    return length, letters


@inner
def _repeated(scratch: _Scratch, length: Integer, periods: Integer) -> Integer:
    """Characters that repeat what stands right before them, in units of up to 12, three times and more in a row.

    Units without a letter may: 10,000 and 2222 mean it. ``periods`` holds a bit for each length of unit to look for.
    """
    bare, marks = scratch.bare, scratch.marks
    marked = False
    for period in range(1, min(_LONGEST_UNIT, length // 3) + 1):
        if not periods >> period & 1:
            continue
        run = 0
        for place in range(period, length + 1):
            if place < length and bare[place] == bare[place - period]:
                run += 1
                continue
            if run >= 2 * period and scratch.worded[place - run - period : place - run].any():
                if not marked:
                    marks[:length] = 0
                    marked = True
                marks[place - run : place] = 1
            run = 0
    return marks[:length].sum() if marked else 0


@inner
def _same_sentences(scratch: _Scratch, count: Integer) -> float:
    """Share of the sentences and lines that are there already."""
    stamp = _new_stamp(scratch)
    sentences = 0
    distinct = 0
    length = 0
    digest = np.uint64(0)
    for place in range(count + 1):
        code = scratch.codes[place] if place < count else np.int32(10)
        if code == 10 or code == 46 or code == 63 or code == 33:
            if length >= _LEAST_SENTENCE:
                sentences += 1
                distinct += _add(scratch.seen, stamp, np.int64(digest >> np.uint64(1)))
            length, digest = 0, np.uint64(0)
        elif scratch.kinds[place] != SPACE:
            digest = (digest ^ np.uint64(code)) * _PRIME
            digest ^= digest >> np.uint64(29)
            length += 1
    return 1 - distinct / sentences if sentences else 0.0


@inner
def _count_runs(scratch: _Scratch, length: Integer) -> Integer:
    """Count the runs of three characters, and those that are new within their window.

    Returns:
        A bit for each distance of up to 12 at which a run came again, and for 1 and 2, which runs of three can't tell.
    """
    bare = scratch.bare
    seen = scratch.seen
    periods = 0b110
    new = 0
    for window in range(0, length - 2, _WINDOW):
        stamp = _new_stamp(scratch)
        for place in range(window, min(window + _WINDOW, length - 2)):
            run = np.int64(bare[place]) << 42 | np.int64(bare[place + 1]) << 21 | np.int64(bare[place + 2])
            slot = _slot(seen, stamp, run)
            if slot < 0:
                continue
            if seen.entries[slot, 0] == stamp:
                distance = place - scratch.places[slot]
                if distance <= _LONGEST_UNIT:
                    periods |= 1 << distance
            else:
                seen.entries[slot, 0] = stamp
                seen.entries[slot, 1] = run
                new += 1
            scratch.places[slot] = place
    scratch.tally[_NEW] += new
    scratch.tally[_RUNS] += max(0, length - 2)
    return periods


@inner
def _ask(scratch: _Scratch, count: Integer, stamp: Integer, stems: Whole) -> None:
    """Keep the stems of a question: the first two syllables of each word, where they tell what it is about."""
    kinds, codes = scratch.kinds, scratch.codes
    for place in range(1, count):
        starts = kinds[place] == HANGUL and kinds[place - 1] == HANGUL and (place < 2 or kinds[place - 2] != HANGUL)
        if not starts:
            continue
        pair = np.int64(codes[place - 1]) << 16 | np.int64(codes[place])
        at = np.searchsorted(stems, pair)
        if at == len(stems) or stems[at] != pair:
            scratch.tally[_TOPICS] += _add(scratch.topics, stamp, pair)


@inner
def _answer(scratch: _Scratch, count: Integer, stamp: Integer) -> None:
    """Count the stems of the question that stand anywhere in an answer."""
    kinds, codes = scratch.kinds, scratch.codes
    if scratch.tally[_TOPICS] == 0:
        return
    for place in range(1, count):
        if kinds[place] == HANGUL and kinds[place - 1] == HANGUL:
            pair = np.int64(codes[place - 1]) << 16 | np.int64(codes[place])
            if _contains(scratch.topics, stamp, pair):
                scratch.tally[_SHARED] += _add(scratch.found, stamp, pair)


@inner
def _ending(scratch: _Scratch, count: Integer, letters: Integer, endings: Bytes) -> Integer:
    while count and scratch.kinds[count - 1] == SPACE:
        count -= 1
    if count == 0:
        return 0
    code = scratch.codes[count - 1]
    found = np.int64(endings[code]) if code < 0x10000 else 2
    return 2 if found == 1 and letters <= _NAME else found


@inner
def _refuses(scratch: _Scratch, length: Integer, tables: Tables) -> bool:
    bare, bounds = scratch.bare, tables.bounds
    for place in range(min(length, _PHRASE_WITHIN)):
        if bare[place] >= 0x10000 or not tables.heads[bare[place]]:
            continue
        for phrase in range(len(bounds) - 1):
            size = bounds[phrase + 1] - bounds[phrase]
            same = place + size <= length
            offset = 0
            while same and offset < size:
                same = bare[place + offset] == tables.phrases[bounds[phrase] + offset]
                offset += 1
            if same:
                return True
    return False


@inner
def _measure_turn(
    data: Bytes,
    start: Integer,
    end: Integer,
    answers: bool,
    topics: Integer,
    tables: Tables,
    scratch: _Scratch,
    out: Real,
) -> None:
    """Measure one turn, and lower or raise the row's measures where it is the worst so far."""
    count = decode(data, start, end, scratch.codes)
    _classify(scratch, count, tables)
    if answers and is_structured(data, start, end):
        return
    length, letters = _compact(scratch, count)
    periods = _count_runs(scratch, length)
    repeated = max(_repeated(scratch, length, periods) / length, _same_sentences(scratch, count)) if length else 1.0
    out[REPEATED] = max(out[REPEATED], np.float32(repeated))
    column = SHORTEST_ANSWER if answers else SHORTEST_QUESTION
    if out[column] < 0 or letters < out[column]:
        out[column] = letters
    if not answers:
        _ask(scratch, count, topics, tables.stems)
        return
    _answer(scratch, count, topics)
    scratch.tally[_ANSWERED] += letters
    out[ENDING] = min(out[ENDING], np.float32(_ending(scratch, count, letters, tables.endings)))
    if _refuses(scratch, length, tables) and (out[REFUSED] < 0 or letters < out[REFUSED]):
        out[REFUSED] = letters


@inner
def _measure_side(
    data: Bytes,
    start: Integer,
    end: Integer,
    answers: bool,
    topics: Integer,
    tables: Tables,
    scratch: _Scratch,
    out: Real,
) -> None:
    turn = start
    for place in range(start, end + 1):
        if place == end or data[place] == TURN:
            _measure_turn(data, turn, place, answers, topics, tables, scratch, out)
            turn = place + 1


@inner
def _finish(tally: Whole, out: Real) -> None:
    """Turn what was added up over a row's turns into its measures."""
    visible = max(1, tally[_VISIBLE])
    written = 2.5 * tally[_HANGUL] + tally[_FOREIGN]
    out[LETTERS] = max(0.0, tally[_LETTERS] - 0.5 * tally[_JAMO]) / visible
    out[HANGUL_SHARE] = 2.5 * tally[_HANGUL] / written if written else 1.0
    out[BROKEN_SHARE] = tally[_BROKEN] / max(1, tally[_ALL])
    out[DIVERSITY] = tally[_NEW] / tally[_RUNS] if tally[_RUNS] else 1.0
    out[TOPICS] = tally[_TOPICS]
    out[SHARED] = tally[_SHARED]
    out[ANSWER_LETTERS] = tally[_ANSWERED]


@inner
def _measure_row(
    question_data: Bytes,
    asked: Whole,
    answer_data: Bytes,
    answered: Whole,
    tables: Tables,
    scratch: _Scratch,
    out: Real,
) -> None:
    """Measure a row."""
    scratch.tally[:] = 0
    out[:] = 0
    out[SHORTEST_QUESTION] = out[SHORTEST_ANSWER] = out[REFUSED] = -1
    out[ENDING] = 2
    scratch.topics.bits[0] = _bits_for(asked[1] - asked[0] + answered[1] - answered[0])  # the same array in all sets
    topics = _new_stamp(scratch)
    _measure_side(question_data, asked[0], asked[1], False, topics, tables, scratch, out)
    _measure_side(answer_data, answered[0], answered[1], True, topics, tables, scratch, out)
    _finish(scratch.tally, out)


@nb.njit(cache=True)
def _new_scratch(longest: Integer) -> _Scratch:
    bits = np.zeros(1, np.int64)
    return _Scratch(
        np.empty(longest + 1, np.int32),
        np.empty(longest + 1, np.uint8),
        np.empty(longest + 1, np.int32),
        np.empty(longest + 1, np.uint8),
        np.empty(longest + 1, np.uint8),
        _Set(np.zeros((_SET_SIZE, 2), np.int64), bits),
        _Set(np.zeros((_SET_SIZE, 2), np.int64), bits),
        _Set(np.zeros((_SET_SIZE, 2), np.int64), bits),
        np.empty(_SET_SIZE, np.int64),
        np.zeros(1, np.int64),
        np.zeros(12, np.int64),
    )


@nb.njit(cache=True, nogil=True)
def measure(
    question_offsets: Whole,
    question_data: Bytes,
    answer_offsets: Whole,
    answer_data: Bytes,
    tables: Tables,
    first: Integer,
    last: Integer,
) -> Real:
    """Measure some rows of two columns.

    Args:
        question_offsets: Offsets of the users' side (n + 1).
        question_data: Its bytes, valid UTF-8.
        answer_offsets: Offsets of the assistants' side (n + 1).
        answer_data: Its bytes.
        tables: What is known of characters.
        first: The first row to measure.
        last: The row to stop before.

    Returns:
        Measures of these rows (last - first, 12), columns by the constants of this module.
    """
    result = np.empty((last - first, MEASURES), np.float32)
    longest = max(longest_text(question_offsets, first, last), longest_text(answer_offsets, first, last))
    scratch = _new_scratch(longest)
    for row in range(first, last):
        asked, answered = question_offsets[row : row + 2], answer_offsets[row : row + 2]
        _measure_row(question_data, asked, answer_data, answered, tables, scratch, result[row - first])
    return result
