"""Compiled tagger that finds names of persons: a linear-chain conditional random field over characters.

Each character of a passage gets one of the tags O, B, I, E, S (outside, begin, inside, end of a name, a name of one
character). The score of a tag is a sum of weights that its features hash to: characters around it, parts of its word
and of the words beside it, and what word lists say of them. Only what a scan leaves over is read (see
:mod:`tollgate.gates.names_scan_kernels`); the rest is outside. Weights are signed bytes, four (B, I, E, S; O is 0)
in each 32-bit number, and are summed two by two in 16-bit lanes. Import this module inside functions only: it loads
numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba as nb
import numpy as np

from tollgate.gates.character_kernels import decode
from tollgate.gates.compiled import inner
from tollgate.gates.names_scan_kernels import FEATURES as RUN_FEATURES
from tollgate.gates.names_scan_kernels import mark_runs

if TYPE_CHECKING:
    import numpy.typing as npt

    from tollgate.gates.character_kernels import Bytes, Codes, Integer
    from tollgate.gates.names_scan_kernels import Signed

    Whole = npt.NDArray[np.int64]
    Real = npt.NDArray[np.float32]
    Weights = npt.NDArray[np.uint32]
    Features = npt.NDArray[np.uint32]
    Folds = npt.NDArray[np.uint16]
    Known = tuple[Bytes, Bytes, Codes, Bytes, Codes, Bytes]
    """Kinds of characters, syllables of names, and keys and lists of the word lists and of the dictionary."""
    Marks = tuple[Bytes, Bytes, Bytes, Codes]
    """Of each character what word lists say, whether a title begins there, what kind of entry of the dictionary it
    is in, and where that ends."""

BITS = 20
"""Bits of a feature's number."""

FEATURES = 61
"""Features of a character."""

TAGS = 5
OUTSIDE, BEGIN, INSIDE, END, SINGLE = range(TAGS)

PASSAGE = 1024
"""The longest passage, in characters; a longer text is cut at line ends, sentence ends or spaces."""

PLACE, FOREIGN, TITLE, GIVEN, ORDINARY, REFUSED = 1, 2, 4, 8, 16, 32
"""Which word lists hold a word: places, organisations and other words that are no persons, parts of foreign names,
titles, given names, ordinary words that look like names, and words that are never reported (but no feature)."""

BEGINNING = 64
"""Said of what begins a longer word of a list that texts are marked by."""

RARE_SURNAME, SURNAME, FIRST, SECOND = 1, 2, 4, 8
"""What a syllable is in Korean names: a rare or frequent surname, the first or second syllable of given names."""

LEXICON_BITS = 14
"""Bits of a place in the table of word lists."""

PERSON, OTHER = 1, 2
"""What the dictionary says of a word: that persons have it as a name, and that it is something else; many are both."""

DICTIONARY_BITS = 20
"""Bits of a place in the table of the dictionary."""

LONGEST_ENTRY = 12
"""Syllables of the longest entry of the dictionary that is looked up."""

KEY_BITS = 31
"""Bits of a word's key that tables keep."""

_KEPT = np.uint64((1 << KEY_BITS) - 1)
_LONGEST_WORD = 8
_LEAST_ACROSS = 4  # syllables of a name that is looked up across spaces
_MOST_SPACES = 2
_MASK = np.uint64((1 << BITS) - 1)
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_SALT = np.uint64(0xD6E8FEB86659FD93)
_EMPTY = np.uint64(0)
_HANGUL, _DIGIT, _SPACE, _LATIN, _HANJA, _JAMO, _SIGN = range(1, 8)
_FINALS = 28
_FIRST_SYLLABLE = 0xAC00
_SPACE_CODE = 32
_LANES = np.uint32(0x00FF00FF)
_BIAS = 128
_IMPOSSIBLE = np.float32(-1e9)
_UNWANTED = np.float32(-1e4)
_UNKNOWN = 0x25A0  # what characters beyond the Basic Multilingual Plane are read as


def folding() -> npt.NDArray[np.uint16]:
    """What each character of the Basic Multilingual Plane is read as.

    Digits are all 0, spaces all one, full-width letters and signs narrow, and conjoining jamo the ones people type.
    """
    fold = np.arange(0x10000, dtype=np.uint16)
    fold[0xFF01:0xFF5F] = np.arange(0x21, 0x7F)
    fold[ord("0") : ord("9") + 1] = ord("0")
    fold[0xFF10:0xFF1A] = ord("0")
    for code in (0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x1E, 0xA0, 0x2002, 0x2003, 0x2009, 0x202F, 0x3000):
        fold[code] = ord(" ")
    for quote in '‘’“”"`´':
        fold[ord(quote)] = ord("'")
    for index, consonant in enumerate("ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"):
        fold[0x1100 + index] = ord(consonant)
    fold[0x1161:0x1176] = np.arange(0x314F, 0x3164)
    return fold


def kinds() -> Bytes:
    """The kind of each folded character: Hangul syllable, digit, space, Latin, Chinese, jamo or sign."""
    table = np.full(0x10000, _SIGN, np.uint8)
    for start, end, kind in (
        (0xAC00, 0xD7A4, _HANGUL),
        (0x30, 0x3A, _DIGIT),
        (0x20, 0x21, _SPACE),
        (0x41, 0x5B, _LATIN),
        (0x61, 0x7B, _LATIN),
        (0x4E00, 0xA000, _HANJA),
        (0x3131, 0x318F, _JAMO),
        (0x1100, 0x1200, _JAMO),
    ):
        table[start:end] = kind
    return table


@nb.njit(inline="always")
def _mix(key: np.uint64, value: np.uint64) -> np.uint64:
    key = (key ^ np.uint64(value)) * _PRIME
    return key ^ (key >> np.uint64(29))


@nb.njit(inline="always")
def _number(template: int, key: np.uint64) -> np.uint32:
    """The number of a feature: its template's and its value's hash."""
    key = (key + np.uint64(template) * _SALT) * _PRIME
    return np.uint32((key ^ (key >> np.uint64(32))) & _MASK)


@nb.njit(inline="always")
def _at(codes: Codes, count: Integer, place: Integer) -> np.uint64:
    return np.uint64(codes[place]) if 0 <= place < count else np.uint64(1)


@nb.njit(inline="always")
def _span(codes: Codes, start: Integer, end: Integer) -> np.uint64:
    key = _EMPTY
    for place in range(start, end):
        key = _mix(key, np.uint64(codes[place]))
    return key


@inner
def word_key(codes: Codes) -> np.uint64:
    """The key of a word in the tables."""
    return _span(codes, 0, len(codes)) & _KEPT


@nb.njit(inline="always")
def _slot(key: np.uint64, table: Bytes) -> np.int64:
    """Where the search for a key begins."""
    return np.int64((key * _PRIME) >> np.uint64(40)) & np.int64(len(table) - 1)


@nb.njit(inline="always")
def _listed(key: np.uint64, keys: Codes, lists: Bytes) -> np.uint8:
    """Which word lists hold the word with this key."""
    wanted = key & _KEPT
    slot = _slot(wanted, lists)
    while lists[slot]:
        if keys[slot] == np.int32(wanted):
            return lists[slot]
        slot = (slot + 1) & np.int64(len(lists) - 1)
    return np.uint8(0)


@inner
def add_word(key: np.uint64, word_list: np.uint8, keys: Codes, lists: Bytes) -> None:
    """Add a word to a table, which is an open hash table of a power of two of places."""
    slot = _slot(key, lists)
    while lists[slot] and keys[slot] != np.int32(key):
        slot = (slot + 1) & np.int64(len(lists) - 1)
    keys[slot] = np.int32(key)
    lists[slot] |= word_list


@inner
def add_words(added: Whole, word_lists: Bytes, keys: Codes, lists: Bytes) -> None:
    """Add many words by their keys, each to lists of its own; see :func:`add_word`."""
    for one in range(len(added)):
        add_word(np.uint64(added[one]), word_lists[one], keys, lists)


@nb.njit(cache=True)
def room_for_marks(size: Integer) -> Marks:
    """Room for what is known of the characters of passages of at most ``size`` characters."""
    return (
        np.zeros(size + 1, np.uint8),
        np.zeros(size + 1, np.uint8),
        np.zeros(size + 1, np.uint8),
        np.zeros(size + 1, np.int32),
    )


@inner
def _mark_run(
    codes: Codes, start: Integer, end: Integer, lexicon: Codes, listed: Bytes, marks: Bytes
) -> tuple[Integer, Integer]:
    """Mark listed words at the start of a run of Hangul; returns how long a title and what word list begin it."""
    title = 0
    begin = start
    while begin < end:
        place = foreign = 0
        key = _EMPTY
        for length in range(1, min(_LONGEST_WORD, end - begin) + 1):
            key = _mix(key, np.uint64(codes[begin + length - 1]))
            lists = _listed(key, lexicon, listed)
            if lists == 0:
                break
            if lists & (PLACE | ORDINARY):
                place = length
            if lists & FOREIGN:
                foreign = length
            if lists & TITLE and begin == start:
                title = length
            if not lists & BEGINNING:
                break
        for offset in range(place):
            marks[begin + offset] |= np.uint8(1 if offset + 1 < place else 2)
        for offset in range(foreign):
            marks[begin + offset] |= np.uint8(4 if offset + 1 < foreign else 8)
        if foreign < 2:
            break
        begin += foreign  # "스칼렛요한슨": another part may follow
    return title, begin


@inner
def _longest_entry(
    codes: Codes, count: Integer, start: Integer, kind: Bytes, keys: Codes, says: Bytes
) -> tuple[Integer, np.uint8]:
    """Where the longest person of the dictionary that begins at ``start`` ends, and of what kind it is; 0 for none.

    Spaces are passed over, as foreign names are written with and without. The kind is 1 to 3 for names of two, three
    and more syllables and 4 for one with spaces, and 8 more where the dictionary holds another word as long or longer.
    """
    key = _EMPTY
    place: Integer = start
    end: Integer = 0
    length = best = best_spaces = other = spaces = 0
    while place < count and length < LONGEST_ENTRY:
        if codes[place] == 32:
            if spaces == _MOST_SPACES or place + 1 == count:
                break
            spaces += 1
            place += 1
            continue
        if kind[codes[place]] != _HANGUL:
            break
        key = _mix(key, np.uint64(codes[place]))
        length += 1
        place += 1
        if length == 1:  # no entry is that short
            continue
        said = _listed(key, keys, says)
        if said & PERSON and (spaces == 0 or length >= _LEAST_ACROSS):
            best, end, best_spaces = length, place, spaces
        if said & OTHER and spaces == 0:
            other = length
    if best == 0:
        return 0, np.uint8(0)
    if best_spaces:
        return end, np.uint8(4)
    return end, np.uint8(min(best - 1, 3) + (8 if other >= best else 0))


@inner
def _mark_entry(
    codes: Codes, count: Integer, start: Integer, kind: Bytes, keys: Codes, says: Bytes, entries: Bytes, ends: Codes
) -> None:
    """Mark the characters of the dictionary's person that begins at ``start``: its kind, 16 inside, 32 at its end."""
    end, what = _longest_entry(codes, count, start, kind, keys, says)
    for place in range(start, end):
        entries[place] = what + np.uint8(0 if place == start else 32 if place + 1 == end else 16)
        ends[place] = end


@inner
def _mark_title(codes: Codes, count: Integer, start: Integer, known: Known, room: Marks) -> Integer:
    """Mark what word lists say of the run of Hangul that begins at ``start``; returns where it ends."""
    kind, lexicon, listed = known[0], known[2], known[3]
    marks, titles = room[0], room[1]
    end = start
    while end < count and kind[codes[end]] == _HANGUL:
        end += 1
    if end > start:
        title, _ = _mark_run(codes, start, end, lexicon, listed, marks)
        if title:
            rest = end - start - title
            titles[start] = 1 if rest == 0 else 2 if rest <= 4 else 0
    return end


@inner
def _mark_word(
    codes: Codes, count: Integer, start: Integer, end: Integer, known: Known, wanted: Bytes, room: Marks
) -> None:
    """Mark what word lists say of the runs of Hangul in a word, and the dictionary of those with wanted characters."""
    kind, lexicon, listed, dictionary, says = known[0], known[2], known[3], known[4], known[5]
    marks, entries, ends = room[0], room[2], room[3]
    run: Integer = start
    while run < end:
        stop = _mark_title(codes, count, run, known, room)
        is_wanted = False
        for place in range(run, stop):
            is_wanted |= wanted[place] != 0
        if is_wanted and entries[run] == 0:
            _mark_entry(codes, count, run, kind, dictionary, says, entries, ends)
        for place in range(run, stop - 1):
            pair = _mix(_mix(_EMPTY, np.uint64(codes[place])), np.uint64(codes[place + 1]))
            if _listed(pair, lexicon, listed) & GIVEN:
                marks[place] |= np.uint8(16)
        run = stop + 1


@inner
def _mark(codes: Codes, count: Integer, known: Known, wanted: Bytes, room: Marks) -> None:
    """Mark words with wanted characters, and whether the words before and behind these begin with a title.

    Features look no further.
    """
    marks, titles, entries, ends = room
    for place in range(count + 1):
        marks[place] = titles[place] = entries[place] = ends[place] = 0
    before: Integer = -1  # where the word before begins, if its title is not marked yet
    was_wanted = False
    start: Integer = 0
    while start < count:
        if codes[start] == _SPACE_CODE:
            start += 1
            continue
        end = start
        is_wanted = False
        while end < count and codes[end] != _SPACE_CODE:
            is_wanted |= wanted[end] != 0
            end += 1
        if is_wanted:
            if before >= 0:
                _mark_title(codes, count, before, known, room)
            _mark_word(codes, count, start, end, known, wanted, room)
        elif was_wanted:
            _mark_title(codes, count, start, known, room)
        before = -1 if is_wanted or was_wanted else start
        was_wanted = is_wanted
        start = end


@nb.njit(inline="always")
def _shape(surname: np.uint64, first: np.uint64, second: np.uint64, given: np.uint64) -> np.uint64:
    """What three neighbouring syllables are in Korean names."""
    return (surname & np.uint64(3)) | (first & np.uint64(4)) | (second & np.uint64(8)) | given


@inner
def features(codes: Codes, count: Integer, known: Known, room: Marks, wanted: Bytes, out: Features) -> None:
    """Write the numbers of the features of the wanted characters of a passage.

    Args:
        codes: Folded characters.
        count: How many they are.
        known: What is known before training.
        room: What word lists and the dictionary say of each character; one more than there are characters.
        wanted: 1 for each character whose features are wanted, else 0.
        out: Numbers of features, shape (count or more, FEATURES).
    """
    kind, syllables = known[0], known[1]
    marks, titles, entries, entry_ends = room
    start = end = before = before_end = 0
    word = previous = following = _EMPTY
    title = title_before = title_after = np.uint64(0)
    family = np.uint64(0)
    for i in range(count):
        if i == 0 or (codes[i - 1] == 32 and codes[i] != 32):
            before, before_end = start, end
            start = end = i
            while end < count and codes[end] != 32:
                end += 1
            after = end
            while after < count and codes[after] == 32:
                after += 1
            after_end = after
            while after_end < count and codes[after_end] != 32:
                after_end += 1
            previous = _span(codes, before, before_end)
            word = _span(codes, start, end)
            following = _span(codes, after, after_end)
            title_before, title, title_after = title, np.uint64(titles[start]), np.uint64(titles[after])
            family = np.uint64(syllables[codes[start]] & 3)
        if not wanted[i]:
            continue
        m4, m3 = _at(codes, count, i - 4), _at(codes, count, i - 3)
        m2, m1 = _at(codes, count, i - 2), _at(codes, count, i - 1)
        c0 = np.uint64(codes[i])
        p1, p2, p3 = _at(codes, count, i + 1), _at(codes, count, i + 2), _at(codes, count, i + 3)
        row = out[i]
        left2 = _mix(_mix(_EMPTY, m2), m1)
        left3 = _mix(_mix(_mix(_EMPTY, m3), m2), m1)
        here2 = _mix(_mix(_EMPTY, c0), p1)
        right2 = _mix(_mix(_EMPTY, p1), p2)
        last2 = _mix(_mix(_EMPTY, m1), c0)
        here3 = _mix(here2, p2)
        last3 = _mix(left2, c0)
        row[0] = _number(1, c0)
        row[1] = _number(2, m1)
        row[2] = _number(3, p1)
        row[3] = _number(4, m2)
        row[4] = _number(5, p2)
        row[5] = _number(6, m3)
        row[6] = _number(7, p3)
        row[7] = _number(8, last2)
        row[8] = _number(9, here2)
        row[9] = _number(10, left2)
        row[10] = _number(11, right2)
        row[11] = _number(12, _mix(_mix(_EMPTY, m1), p1))
        row[12] = _number(13, _mix(last2, p1))
        row[13] = _number(14, here3)
        row[14] = _number(15, last3)
        row[15] = _number(16, left3)
        row[16] = _number(17, _mix(right2, p3))
        row[17] = _number(18, _mix(here3, p3))
        row[18] = _number(19, _mix(left3, c0))
        row[19] = _number(20, _mix(last3, p1))
        row[20] = _number(21, _mix(_mix(last2, p1), p2))
        k0, k1, k2, k3 = np.uint64(kind[c0]), np.uint64(kind[m1]), np.uint64(kind[m2]), np.uint64(kind[m3])
        types = (k2 << np.uint64(12)) | (k1 << np.uint64(9)) | (k0 << np.uint64(6))
        types |= (np.uint64(kind[p1]) << np.uint64(3)) | np.uint64(kind[p2])
        row[21] = _number(22, types)
        # Where in its word a character is, and how long that is
        if codes[i] == 32:
            offset, rest, length = np.uint64(7), np.uint64(8), np.uint64(9)
        else:
            offset, rest = np.uint64(min(i - start, 6)), np.uint64(min(end - i, 7))
            length = np.uint64(min(end - start, 8))
        where = (offset << np.uint64(4)) | length
        row[22] = _number(23, where)
        row[23] = _number(24, (where << np.uint64(2)) | family)
        # The rest of the word, where particles and titles are, and its beginning
        tail = _span(codes, i + 1, min(end, i + 6))
        row[24] = _number(25, _mix(tail, offset))
        row[25] = _number(26, _mix(_mix(tail, offset), family))
        row[26] = _number(27, _mix(_span(codes, max(start, i - 5), i + 1), min(rest, np.uint64(3))))
        row[27] = _number(28, _mix(word, offset))
        row[28] = _number(29, _mix(previous, offset))
        row[29] = _number(30, _mix(following, rest))
        ending = _mix(_mix(_EMPTY, _at(codes, count, end - 2)), _at(codes, count, end - 1))
        row[30] = _number(31, _mix(ending, rest))
        row[31] = _number(32, _mix(_mix(_EMPTY, _at(codes, count, end - 1)), (offset << np.uint64(4)) | rest))
        leading = _mix(_mix(_EMPTY, _at(codes, count, start - 3)), _at(codes, count, start - 2))
        row[32] = _number(33, _mix(leading, offset))
        row[33] = _number(34, _mix(_mix(_EMPTY, _at(codes, count, start - 2)), (offset << np.uint64(4)) | rest))
        next1, next2 = _at(codes, count, end + 1), _at(codes, count, end + 2)
        trailing = _mix(_mix(_EMPTY, next1), next2)
        row[34] = _number(35, _mix(trailing, rest))
        row[35] = _number(36, _mix(_mix(trailing, _at(codes, count, end + 3)), rest))
        row[36] = _number(37, _mix(_mix(tail, trailing), offset))
        row[37] = _number(38, _mix(_mix(tail, next1), offset))
        s0, s1, s2 = np.uint64(syllables[c0]), np.uint64(syllables[m1]), np.uint64(syllables[m2])
        families = ((s0 & np.uint64(3)) << np.uint64(4)) | ((s1 & np.uint64(3)) << np.uint64(2)) | (s2 & np.uint64(3))
        row[38] = _number(39, (families << np.uint64(9)) | (k1 << np.uint64(6)) | (k2 << np.uint64(3)) | k3)
        # Final consonants decide particles (은/는, 이/가)
        final = (c0 - np.uint64(_FIRST_SYLLABLE)) % np.uint64(_FINALS) if k0 == _HANGUL else np.uint64(29)
        final1 = (m1 - np.uint64(_FIRST_SYLLABLE)) % np.uint64(_FINALS) if k1 == _HANGUL else np.uint64(29)
        closed = np.uint64(2) if final == 29 else np.uint64(final != 0)
        joint = _mix(_mix(_EMPTY, closed), p1)
        row[39] = _number(40, joint)
        row[40] = _number(41, _mix(joint, np.uint64(kind[p2])))
        row[41] = _number(42, _mix(_mix(_mix(_EMPTY, k1), c0), length))
        row[42] = _number(43, _mix(leading, tail))
        row[43] = _number(44, _mix(leading, trailing))
        row[44] = _number(45, (final << np.uint64(5)) | final1)
        initial = (c0 - np.uint64(_FIRST_SYLLABLE)) // np.uint64(_FINALS) if k0 == _HANGUL else np.uint64(600)
        initial1 = (m1 - np.uint64(_FIRST_SYLLABLE)) // np.uint64(_FINALS) if k1 == _HANGUL else np.uint64(600)
        row[45] = _number(46, (initial << np.uint64(10)) | initial1)
        # What word lists and the syllables of Korean names say
        g0 = np.uint64(marks[i] & 16)
        g1 = np.uint64(marks[i + 1] & 16)
        gm = np.uint64(marks[i - 1] & 16) if i else np.uint64(0)
        n1, n2 = np.uint64(syllables[p1]), np.uint64(syllables[p2])
        begins = (_shape(s0, n1, n2, g1) << np.uint64(3)) | k1
        goes_on = (_shape(s1, s0, n1, g0) << np.uint64(3)) | k2
        ends = (_shape(s2, s1, s0, gm) << np.uint64(3)) | k3
        row[46] = _number(47, (begins << np.uint64(4)) | length)
        row[47] = _number(48, (goes_on << np.uint64(4)) | length)
        row[48] = _number(49, (ends << np.uint64(4)) | length)
        row[49] = _number(50, _mix(_mix(tail, ends), np.uint64(offset == 2)))
        row[50] = _number(51, _mix(_mix(tail, goes_on), np.uint64(offset == 1)))
        said = np.uint64(marks[i] & 15)
        said_after = np.uint64(marks[i + 1] & 15)
        said_before = np.uint64(marks[i - 1] & 15) if i else np.uint64(0)
        row[51] = _number(52, (said_before << np.uint64(8)) | (said << np.uint64(4)) | said_after)
        row[52] = _number(53, _mix(_mix(tail, said), offset))
        beside = (title_before << np.uint64(4)) | (title << np.uint64(2)) | title_after
        row[53] = _number(54, (beside << np.uint64(8)) | (offset << np.uint64(4)) | rest)
        row[54] = _number(55, _mix(_mix(tail, ends), beside))
        row[55] = _number(56, _mix(_mix(_EMPTY, begins), (beside << np.uint64(4)) | length))
        row[56] = _number(57, _mix(left3, m4))
        # The dictionary's person that a character is in, and what stands behind and before it
        e0, e1 = np.uint64(entries[i]), np.uint64(entries[i + 1])
        em = np.uint64(entries[i - 1]) if i else np.uint64(0)
        row[57] = _number(58, (em << np.uint64(16)) | (e0 << np.uint64(8)) | e1)
        stop = entry_ends[i]
        row[58] = _number(59, _mix(_span(codes, stop, min(end, stop + 4)), e0)) if stop else _number(59, _EMPTY)
        row[59] = _number(60, _mix(leading, e0)) if stop else row[58]
        behind = _mix(_mix(_EMPTY, _at(codes, count, stop + 1)), _at(codes, count, stop))
        row[60] = _number(61, _mix(behind, e0)) if stop else row[58]


@inner
def prepared(codes: Codes, count: Integer, known: Known, room: Marks, wanted: Bytes, out: Features) -> None:
    """Mark a passage of folded characters, then write its features; see :func:`features`."""
    _mark(codes, count, known, wanted, room)
    features(codes, count, known, room, wanted, out)


@inner
def _potentials(
    numbers: Features,
    further: Features,
    count: Integer,
    wanted: Bytes,
    weights: Weights,
    scale: np.float32,
    bias: np.float32,
    scores: Real,
) -> None:
    """Scores of the four tags inside names, from summed bytes; outside is 0, and all that an unwanted one can be."""
    shift = np.int32((FEATURES + further.shape[1]) * _BIAS)
    for i in range(count):
        if not wanted[i]:
            scores[i, :] = _UNWANTED
            continue
        even = np.uint32(0)
        odd = np.uint32(0)
        for k in range(FEATURES):
            packed = weights[numbers[i, k]]
            even += packed & _LANES
            odd += (packed >> np.uint32(8)) & _LANES
        for k in range(further.shape[1]):
            packed = weights[further[i, k]]
            even += packed & _LANES
            odd += (packed >> np.uint32(8)) & _LANES
        scores[i, 0] = np.float32(np.int32(even & np.uint32(0xFFFF)) - shift) * scale + bias
        scores[i, 1] = np.float32(np.int32(odd & np.uint32(0xFFFF)) - shift) * scale + bias
        scores[i, 2] = np.float32(np.int32(even >> np.uint32(16)) - shift) * scale + bias
        scores[i, 3] = np.float32(np.int32(odd >> np.uint32(16)) - shift) * scale + bias


@inner
def viterbi(scores: Real, count: Integer, transitions: Real, path: Bytes, came: Bytes) -> None:
    """The best tags: Viterbi's algorithm over the transitions that BIES tagging allows.

    Args:
        scores: Scores of B, I, E, S for each character, shape (count or more, 4).
        count: Number of characters.
        transitions: Scores of one tag after another, shape (5, 5).
        path: Gets the tags.
        came: Room for the tags that the best paths come from, shape (count or more, 5).
    """
    outside, begin, inside, end, single = np.float32(0), scores[0, 0], _IMPOSSIBLE, _IMPOSSIBLE, scores[0, 3]
    for i in range(1, count):
        new_outside, new_begin, new_single = outside, outside, outside
        new_outside += transitions[0, 0]
        new_begin += transitions[0, 1]
        new_single += transitions[0, 4]
        came[i, 0] = came[i, 1] = came[i, 4] = 0
        for tag, before in ((3, end), (4, single)):
            if before + transitions[tag, 0] > new_outside:
                new_outside = before + transitions[tag, 0]
                came[i, 0] = tag
            if before + transitions[tag, 1] > new_begin:
                new_begin = before + transitions[tag, 1]
                came[i, 1] = tag
            if before + transitions[tag, 4] > new_single:
                new_single = before + transitions[tag, 4]
                came[i, 4] = tag
        from_begin, from_inside = begin + transitions[1, 2], inside + transitions[2, 2]
        came[i, 2] = 1 if from_begin >= from_inside else 2
        new_inside = max(from_begin, from_inside) + scores[i, 1]
        from_begin, from_inside = begin + transitions[1, 3], inside + transitions[2, 3]
        came[i, 3] = 1 if from_begin >= from_inside else 2
        end = max(from_begin, from_inside) + scores[i, 2]
        outside, inside = new_outside, new_inside
        begin = new_begin + scores[i, 0]
        single = new_single + scores[i, 3]
    tag = 0
    if end > outside:
        tag = 3
    if single > max(outside, end):
        tag = 4
    for i in range(count - 1, -1, -1):
        path[i] = tag
        tag = came[i, tag]


@inner
def _passage_end(codes: Codes, start: Integer, count: Integer) -> Integer:
    """Where the passage that begins at ``start`` ends: after a line or a sentence, in a pinch after a word."""
    last = min(count, start + PASSAGE)
    for place in range(start, last):
        code = codes[place]
        if code == 10:
            return place + 1
        if code == 32 and place > start:
            before = codes[place - 1]
            if place - start >= 16 and (before == 46 or before == 33 or before == 63):
                return place + 1
    if last < count:
        for place in range(last - 1, start + PASSAGE // 2, -1):
            if codes[place] == 32:
                return place + 1
    return last


@inner
def _gain(scores: Real, path: Bytes, transitions: Real, start: Integer, end: Integer, count: Integer) -> np.float32:
    """By how much a path beats the same path without its name from ``start`` to ``end``: the name's log-odds."""
    gain = np.float32(0)
    for place in range(start, end):
        gain += scores[place, path[place] - 1]
        if place:
            gain += transitions[path[place - 1], path[place]]
            gain -= transitions[path[place - 1] if place == start else 0, 0]
    if end < count:
        gain += transitions[path[end - 1], path[end]] - transitions[0, path[end]]
    return gain


@inner
def _is_refused(codes: Codes, start: Integer, end: Integer, lexicon: Codes, listed: Bytes) -> bool:
    """Whether what looks like a name is a listed ordinary word, or a word with a syllable typed twice (민민원)."""
    lists = _listed(_span(codes, start, end), lexicon, listed)
    if lists & (ORDINARY | REFUSED):
        return True
    if end - start < 3 or lists & FOREIGN or _listed(_span(codes, end - 2, end), lexicon, listed) & GIVEN:
        return False  # 나나, 클라라, 정정훈
    for place in range(start + 1, end):  # noqa: SIM110 - numba knows no generators
        if codes[place] == codes[place - 1] and codes[place] >= _FIRST_SYLLABLE:
            return True
    return False


@nb.njit(cache=True, nogil=True)
def find(
    offsets: Whole,
    data: Bytes,
    first: Integer,
    last: Integer,
    characters: Whole,
    further: Features,
    fold: Folds,
    known: Known,
    scan: Signed,
    least: Integer,
    weights: Weights,
    scale: np.float32,
    bias: np.float32,
    transitions: Real,
) -> tuple[Whole, Codes, Codes, Real]:
    """Find names in some rows of a text column.

    Args:
        offsets: Where each text begins in ``data``; one more than there are texts.
        data: UTF-8 of all texts.
        first: The first row to read.
        last: The row to stop before.
        characters: Where the characters of each text begin in ``further``.
        further: Numbers of further features of each character; none where its second dimension is 0.
        fold: What each character is read as.
        known: What is known before training.
        scan: Weights of the scan for runs of letters that may be part of a name; none where all are read.
        least: The lowest sum of weights of a run that is read.
        weights: Four bytes for each feature's number: weights of B, I, E and S, each and 128.
        scale: What a weight of 1 stands for.
        bias: Added to the scores of all tags inside names.
        transitions: Scores of one tag after another, shape (5, 5).

    Returns:
        Row, start, end (in characters) and log-odds of each name.
    """
    kind, syllables, lexicon, listed = known[0], known[1], known[2], known[3]
    longest = 1
    for row in range(first, last):
        longest = max(longest, offsets[row + 1] - offsets[row])
    size = min(longest, PASSAGE)
    original, codes = np.empty(longest, np.int32), np.empty(size, np.int32)
    room = room_for_marks(size)
    numbers = np.empty((size, FEATURES), np.uint32)
    scores = np.empty((size, TAGS - 1), np.float32)
    wanted, of_run = np.empty(size, np.uint8), np.empty(RUN_FEATURES, np.uint32)
    path, came = np.zeros(size, np.uint8), np.zeros((size, TAGS), np.uint8)
    found = [(np.int64(0), np.int32(0), np.int32(0), np.float32(0))]
    found.pop()
    for row in range(first, last):
        count = decode(data, offsets[row], offsets[row + 1], original)
        begin: Integer = 0
        while begin < count:
            finish = _passage_end(original, begin, count)
            length = finish - begin
            hangul = False
            for place in range(length):
                code = original[begin + place]
                codes[place] = fold[code] if code < 0x10000 else _UNKNOWN
                hangul |= kind[codes[place]] == _HANGUL
            if hangul and mark_runs(codes, length, kind, syllables, scan, least, of_run, wanted):
                prepared(codes, length, known, room, wanted, numbers)
                there = further[characters[row] + begin : characters[row] + finish]
                _potentials(numbers, there, length, wanted, weights, scale, bias, scores)
                viterbi(scores, length, transitions, path, came)
                start = 0
                for end in range(1, length + 1):
                    tag = path[end - 1]
                    if tag in (BEGIN, SINGLE):
                        start = end - 1
                    if tag in (END, SINGLE):
                        if _is_refused(codes, start, end, lexicon, listed):
                            continue
                        odds = _gain(scores, path, transitions, start, end, length)
                        found.append((np.int64(row), np.int32(begin + start), np.int32(begin + end), odds))
            begin = finish
    rows, starts = np.empty(len(found), np.int64), np.empty(len(found), np.int32)
    ends, odds_of = np.empty(len(found), np.int32), np.empty(len(found), np.float32)
    for one in range(len(found)):
        rows[one], starts[one], ends[one], odds_of[one] = found[one]
    return rows, starts, ends, odds_of
