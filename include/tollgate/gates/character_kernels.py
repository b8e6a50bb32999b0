"""What compiled kernels know of characters: reading them from UTF-8 bytes, and their classes.

Import this module inside functions or in other kernels only: it loads numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba as nb
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Codes = npt.NDArray[np.int32]
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


@nb.njit(cache=True)
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
