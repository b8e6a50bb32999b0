"""Which characters are surely in NFC, against Python's tables of Unicode."""

from __future__ import annotations

import sys
import unicodedata

import numpy as np
import pytest

from tollgate.gates.character_kernels import are_in_nfc, characters_in_nfc

_SURROGATES = range(0xD800, 0xE000)


def _joining() -> set[int]:
    """Characters that join the one before them, or change places with others."""
    decompositions = (unicodedata.decomposition(chr(code)).split() for code in range(sys.maxunicode + 1))
    seconds = {int(parts[1], 16) for parts in decompositions if len(parts) == 2 and not parts[0].startswith("<")}
    vowels_and_finals = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}
    marks = {code for code in range(sys.maxunicode + 1) if unicodedata.combining(chr(code))}
    return seconds | vowels_and_finals | marks


def test_no_character_of_the_table_changes_or_joins_another():
    listed = set(np.flatnonzero(characters_in_nfc()).tolist()) | set(range(0x1F000, 0x20000))

    assert not listed & _joining()
    assert not listed & set(_SURROGATES)
    assert not [code for code in listed if not unicodedata.is_normalized("NFC", chr(code))]


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("", True),
        ("통행료 12,000원 — 맞나요? ㅋㅋ 漢字 “네” 😀👍🏻👨‍👩‍👧", True),
        ("café", True),
        ("cafe\u0301", False),
        ("\u1112\u1161\u11ab", False),
        ("Å\u212b", False),
        ("𠮷", False),  # beyond the emoji: somebody else has to say
    ],
)
def test_texts_in_common_characters_are_known_to_be_in_nfc(text: str, known: bool):
    data = np.frombuffer(text.encode(), np.uint8)

    assert bool(are_in_nfc(data, characters_in_nfc())) is known
