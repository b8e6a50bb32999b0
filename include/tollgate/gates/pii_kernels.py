"""A fast look at the UTF-8 bytes of a column: which texts may hold which personal data.

Only those few texts become Python strings and meet the regular expressions of :mod:`tollgate.gates.pii_patterns`. A
bit set wrongly costs time; a bit missing would lose a finding, so every condition here is looser than the expressions.
Imports numba; import this module inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from tollgate.gates import pii_patterns
from tollgate.gates.compiled import inner
from tollgate.gates.threads import in_parts

if TYPE_CHECKING:
    import numpy.typing as npt

_LONG_NUMBER = pii_patterns.LONG_NUMBER
_LETTER_NUMBER = pii_patterns.LETTER_NUMBER
_DOTTED = pii_patterns.DOTTED
_EMAIL = pii_patterns.EMAIL
_PLATE = pii_patterns.PLATE
_ADDRESS = pii_patterns.ADDRESS
_BRACKET = pii_patterns.BRACKET
_MAYBE_STRUCTURED = pii_patterns.MAYBE_STRUCTURED

_FEWEST_DIGITS = 9
"""Digits of the shortest number that needs no letter: 02-123-4567."""
_LONGEST_GAP = 5
_COLONS_OF_IPV6 = 7

_OTHER, _DIGIT, _STAR, _GAP, _DOT = range(5)


def _interesting() -> npt.NDArray[np.bool_]:
    table = np.zeros(256, np.bool_)
    for byte in (*b"0123456789@:[", 0xEF):
        table[byte] = True
    return table


def _code_points(characters: str) -> npt.NDArray[np.bool_]:
    table = np.zeros(0x10000, np.bool_)
    for one in characters:
        table[ord(one)] = True
    return table


_INTERESTING = _interesting()
_PLATE_USES = _code_points(pii_patterns.PLATE_USES)
_BEFORE_HOUSE_NUMBERS = _code_points("로길동리가산하")
_PASSPORT_LETTERS = _code_points("MSRODGmsrodgＭＳＲＯＤＧｍｓｒｏｄｇ")


@njit(cache=True, inline="always")
def _length(byte: int) -> int:
    """Bytes of the character that begins with a byte."""
    if byte < 0x80:
        return 1
    if byte >= 0xF0:
        return 4
    return 3 if byte >= 0xE0 else 2


@njit(cache=True, inline="always")
def _decode(data: npt.NDArray[np.uint8], position: int, end: int) -> int:
    """The character at a position, full-width characters as ASCII; 0 outside the basic plane."""
    first = data[position]
    if first < 0x80:
        return int(first)
    if first < 0xE0:
        if position + 1 >= end:
            return 0
        return ((first & 0x1F) << 6) | (data[position + 1] & 0x3F)
    if first >= 0xF0 or position + 2 >= end:
        return 0
    code = ((first & 0x0F) << 12) | ((data[position + 1] & 0x3F) << 6) | (data[position + 2] & 0x3F)
    return code - 0xFEE0 if 0xFF01 <= code < 0xFF5F else code


@njit(cache=True, inline="always")
def _class(code: int) -> int:
    """What a character is within a number."""
    if 0x30 <= code <= 0x39:
        return _DIGIT
    if code == 0x2E:
        return _DOT
    if code in (0x2A, 0x78, 0x58, 0x25CF, 0x25CB, 0x2022, 0x2217):
        return _STAR
    if code in (
        0x20,
        0x2D,
        0x28,
        0x29,
        0x2B,
        0x2F,
        0x5F,
        0x09,
        0xA0,
        0xB7,
        0x3000,
        0x2212,
        0xFE63,
        0x3161,
        0x30FB,
        0x318D,
    ):
        return _GAP
    return _GAP if 0x2000 <= code <= 0x202F else _OTHER


@njit(cache=True, inline="always")
def _before(data: npt.NDArray[np.uint8], begin: int, position: int) -> int:
    """Where the character before a position begins; less than ``begin`` where there is none."""
    position -= 1
    while position > begin and data[position] & 0xC0 == 0x80:
        position -= 1
    return position


@njit(cache=True, inline="always")
def _word_before(data: npt.NDArray[np.uint8], begin: int, position: int, end: int) -> int:
    """Where the last character before a position begins, one space or dash skipped; less than ``begin`` for none."""
    position = _before(data, begin, position)
    if position >= begin and _class(_decode(data, position, end)) == _GAP:
        position = _before(data, begin, position)
    return position


@inner
def _run(data: npt.NDArray[np.uint8], position: int, end: int) -> tuple[int, bool]:
    """How many digits stand together from a position on, and whether a letter follows them."""
    digits = 0
    while position < end:
        code = _decode(data, position, end)
        if not 0x30 <= code <= 0x39:
            return digits, 0x41 <= code <= 0x5A or 0x61 <= code <= 0x7A
        digits += 1
        position += _length(data[position])
    return digits, False


@inner
def _beside(data: npt.NDArray[np.uint8], begin: int, position: int, end: int) -> int:
    """What the character before a number makes possible."""
    last = _word_before(data, begin, position, end)
    if last < begin:
        return 0
    code = _decode(data, last, end)
    digits, has_letter = _run(data, position, end)
    flags = 0
    if _PASSPORT_LETTERS[code] and (digits == 8 or (digits == 3 and has_letter)):
        flags |= _LETTER_NUMBER
    if _PLATE_USES[code] and digits == 4:
        number = _word_before(data, begin, last, end)
        if number >= begin and _class(_decode(data, number, end)) == _DIGIT:
            flags |= _PLATE
    if _BEFORE_HOUSE_NUMBERS[code] and digits <= 4:
        previous = _before(data, begin, last)
        before = _decode(data, previous, end) if previous >= begin else 0
        is_particle = code == 0xB85C and before in (0xC73C, 0xB3C4)  # 으로 3번, 고속도로 143km
        is_subject = code == 0xAC00 and not 0x30 <= before <= 0x39  # 을지로3가 12, but 차가 12대
        if not is_particle and not is_subject:
            flags |= _ADDRESS
    return flags


@inner
def _number(data: npt.NDArray[np.uint8], position: int, end: int) -> tuple[int, int]:
    """Read digits with what may stand between them; returns where they end and what they may be."""
    digits = stars = gap = dots = groups = 0
    first_length = first_value = second_length = length = value = 0
    was_dot = False
    stop = position
    while position < end:
        code = _decode(data, position, end)
        kind = _class(code)
        if kind == _OTHER or (kind == _STAR and digits < 1):
            break
        if kind in (_DIGIT, _STAR):
            dots += was_dot and gap == 1
            if gap and length:
                groups += 1
                if groups == 1:
                    first_length, first_value = length, value
                elif groups == 2:
                    second_length = length
                elif (
                    groups == 3 and first_length == 4 and 1900 <= first_value < 2100 and max(second_length, length) < 3
                ):
                    digits = length  # a date: what follows is another number
                    stars = 0
                length = value = 0
            gap = 0
            length += 1
            if kind == _DIGIT:
                digits += 1
                value = min(value * 10 + code - 0x30, 99999)
            else:
                stars += 1
            stop = position + _length(data[position])
        else:
            gap += 1
            if gap > _LONGEST_GAP:
                break
            was_dot = kind == _DOT
        position += _length(data[position])
        if digits + stars >= _FEWEST_DIGITS and dots >= 3:
            break
    flags = _LONG_NUMBER if digits + stars >= _FEWEST_DIGITS else 0
    if dots >= 3:
        flags |= _DOTTED
    return max(stop, 0), flags


@inner
def _flags(data: npt.NDArray[np.uint8], begin: int, end: int) -> int:
    flags = colons = 0
    was_colon = False
    position = begin
    while position < end and data[position] in (0x20, 0x09, 0x0A, 0x0D, 0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x1F):
        position += 1
    if position < end and data[position] in (0x7B, 0x5B, 0xC2, 0xE1, 0xE2, 0xE3):  # or spaces beyond ASCII
        flags |= _MAYBE_STRUCTURED
    position = begin
    while position < end:
        byte = data[position]
        if not _INTERESTING[byte]:
            position += 1
            was_colon = False
            continue
        code = _decode(data, position, end)
        if 0x30 <= code <= 0x39:
            flags |= _beside(data, begin, position, end)
            stop, found = _number(data, position, end)
            flags |= found
            position = max(stop, position + 1)
            was_colon = False
            continue
        if code == 0x3A:
            colons += 1
            if was_colon or colons >= _COLONS_OF_IPV6:
                flags |= _DOTTED
        was_colon = code == 0x3A
        if code == 0x40:
            flags |= _EMAIL
        elif code == 0x5B:
            flags |= _BRACKET
        position += _length(byte)
    return flags


@inner
def _signals(
    offsets: npt.NDArray[np.int64], data: npt.NDArray[np.uint8], first: int, last: int, flags: npt.NDArray[np.uint8]
) -> None:
    for row in range(first, last):
        flags[row] = _flags(data, offsets[row], offsets[row + 1])


def signals(offsets: npt.NDArray[np.int64], data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """What each text may hold, as the bits of :mod:`tollgate.gates.pii_patterns`.

    Args:
        offsets: Where each text begins in ``data``, and where the last one ends.
        data: UTF-8 bytes of all texts.
    """
    flags = np.zeros(len(offsets) - 1, np.uint8)
    in_parts(len(flags), lambda first, last: _signals(offsets, data, first, last, flags))
    return flags
