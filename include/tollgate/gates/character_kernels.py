"""What compiled kernels know of characters: reading them from UTF-8 bytes, and their classes.

Import this module inside functions or in other kernels only: it loads numba.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tollgate.gates.compiled import inner

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Codes = npt.NDArray[np.int32]
    Whole = npt.NDArray[np.int64]
    Integer = int | np.signedinteger[Any]

TURN = 0x1E
"""The byte between the turns of one side of a row (ASCII record separator)."""

# Classes of characters
SYMBOL, SPACE, HANGUL, LATIN, DIGIT, JAMO, OTHER_LETTER, BROKEN, WESTERN = range(9)


def character_classes() -> Bytes:
    """The class of every character of the Basic Multilingual Plane; those beyond it are symbols."""
    classes = np.zeros(0x10000, np.uint8)
    for start, end, kind in (
        (0x00, 0x20, BROKEN),
        (0x09, 0x0E, SPACE),
        (TURN, TURN + 1, SPACE),
        (0x20, 0x21, SPACE),
        (0x30, 0x3A, DIGIT),
        (0x41, 0x5B, LATIN),
        (0x61, 0x7B, LATIN),
        (0x7F, 0xA0, BROKEN),
        (0xA0, 0xA1, SPACE),
        (0xA1, 0x100, WESTERN),
        (0x100, 0x2B0, OTHER_LETTER),
        (0x370, 0x1100, OTHER_LETTER),
        (0x1100, 0x1200, BROKEN),  # jamo that NFC did not join
        (0x1200, 0x2000, OTHER_LETTER),
        (0x1680, 0x1681, SPACE),  # of Ogham, the only one among letters
        (0x2000, 0x200E, SPACE),
        (0x3000, 0x3001, SPACE),
        (0x3040, 0x3100, OTHER_LETTER),
        (0x3131, 0x318F, JAMO),
        (0x3400, 0x4DC0, OTHER_LETTER),
        (0x4E00, 0xA000, OTHER_LETTER),
        (0xAC00, 0xD7A4, HANGUL),
        (0xE000, 0xF900, BROKEN),  # private use
        (0xF900, 0xFB00, OTHER_LETTER),
        (0xFEFF, 0xFF00, SPACE),
        (0xFF10, 0xFF1A, DIGIT),
        (0xFF21, 0xFF3B, LATIN),
        (0xFF41, 0xFF5B, LATIN),
        (0xFFFD, 0xFFFE, BROKEN),
    ):
        classes[start:end] = kind
    return classes


@inner
def longest_text(offsets: Whole, first: Integer, last: Integer) -> Integer:
    """Bytes of the longest of some texts of a column, from the first one up to the last, which is not looked at."""
    longest: Integer = 0
    for text in range(first, last):
        longest = max(longest, offsets[text + 1] - offsets[text])
    return longest


@cache
def characters_in_nfc() -> Bytes:
    """Of every character of the Basic Multilingual Plane whether it is surely in NFC, whatever stands beside it.

    Those in common use in Korean texts; of any other :mod:`unicodedata` has to say.
    """
    table = np.zeros(0x10000, np.uint8)
    for start, end in (
        (0x0000, 0x0250),  # Latin
        (0x0391, 0x03D0),  # Greek
        (0x0400, 0x0482),  # Cyrillic
        (0x200B, 0x2070),  # dashes, quotation marks, joiners of emoji
        (0x20A0, 0x20C0),  # currencies
        (0x2103, 0x2126),
        (0x2190, 0x2329),  # arrows, mathematics, technical signs
        (0x232B, 0x2ADC),  # … circled numbers, box drawing, shapes
        (0x3000, 0x302A),
        (0x3041, 0x3097),  # kana
        (0x309D, 0x3100),
        (0x3131, 0x318F),  # jamo that people type
        (0x3200, 0x33FF),
        (0x4E00, 0x9FA6),  # Chinese
        (0xAC00, 0xD7A4),  # Hangul
        (0xE000, 0xF8FF),
        (0xFE00, 0xFE10),  # variants of emoji
        (0xFF01, 0xFFEF),
    ):
        table[start:end] = 1
    return table


@inner
def are_in_nfc(data: Bytes, characters: Bytes) -> bool:
    """Whether valid UTF-8 has no characters but those of :func:`characters_in_nfc`, and emoji."""
    place = 0
    while place < len(data):
        byte = np.int32(data[place])
        if byte < 0x80:
            place += 1
            continue
        if byte == 0xEB or byte == 0xEC:  # U+B000 to U+CFFF: two syllables of Hangul in three
            place += 3
            continue
        if byte < 0xE0:
            code = (byte & 0x1F) << 6 | (np.int32(data[place + 1]) & 0x3F)
            place += 2
        elif byte < 0xF0:
            tail = (np.int32(data[place + 1]) & 0x3F) << 6 | (np.int32(data[place + 2]) & 0x3F)
            code = (byte & 0x0F) << 12 | tail
            place += 3
        elif byte == 0xF0 and data[place + 1] == 0x9F:  # U+1F000 to U+1FFFF
            place += 4
            continue
        else:
            return False
        if not characters[code]:
            return False
    return True


@inner
def decode(data: Bytes, start: Integer, end: Integer, codes: Codes) -> Integer:
    """Write the code points of valid UTF-8 to ``codes``; returns how many."""
    count = 0
    place = start
    while place < end:
        byte = np.int32(data[place])
        if byte < 0x80:
            codes[count] = byte
            place += 1
        elif byte < 0xE0:
            codes[count] = (byte & 0x1F) << 6 | (np.int32(data[place + 1]) & 0x3F)
            place += 2
        elif byte < 0xF0:
            tail = (np.int32(data[place + 1]) & 0x3F) << 6 | (np.int32(data[place + 2]) & 0x3F)
            codes[count] = (byte & 0x0F) << 12 | tail
            place += 3
        else:
            tail = (np.int32(data[place + 2]) & 0x3F) << 6 | (np.int32(data[place + 3]) & 0x3F)
            codes[count] = (byte & 0x07) << 18 | (np.int32(data[place + 1]) & 0x3F) << 12 | tail
            place += 4
        count += 1
    return count
