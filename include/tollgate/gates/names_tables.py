"""What the tagger of names knows before it is trained: kinds of characters, syllables of Korean names, word lists."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_LEXICON = Path(__file__).with_name("lexicon")
_FREQUENT_SURNAMES = "김이박최정강조윤장임한오서신권황안송류유홍전고문양손배백허남심노하"


@cache
def words(name: str) -> tuple[str, ...]:
    """The words of a list in the lexicon, in the order of the file and each once."""
    lines = (_LEXICON / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return tuple(dict.fromkeys(word for line in lines if not line.startswith("#") for word in line.split()))


@dataclass(frozen=True)
class Tables:
    """Arrays for the kernels.

    Attributes:
        kind: The kind of each folded character.
        syllables: What each character is in Korean names.
        lexicon: Keys of listed words, an open hash table.
        listed: Which lists hold them; 0 for an empty slot.
    """

    kind: npt.NDArray[np.uint8]
    syllables: npt.NDArray[np.uint8]
    lexicon: npt.NDArray[np.int32]
    listed: npt.NDArray[np.uint8]

    def arrays(
        self,
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
        """All of them, in the order of the attributes."""
        return self.kind, self.syllables, self.lexicon, self.listed


def tables(banned: Collection[str] = ()) -> Tables:
    """Build the tables.

    Args:
        banned: Words that no list may hold: the names of a test.
    """
    from tollgate.gates import names_kernels as kernels

    lexicon = np.zeros(1 << kernels.LEXICON_BITS, np.int32)
    listed = np.zeros(1 << kernels.LEXICON_BITS, np.uint8)
    for name, word_list in (
        ("places", kernels.PLACE),
        ("organisations", kernels.PLACE),
        ("loanwords", kernels.PLACE),
        ("foreign_names", kernels.FOREIGN),
        ("titles", kernels.TITLE),
        ("given_names", kernels.GIVEN),
        ("not_names", kernels.ORDINARY),
        ("ordinary_words", kernels.REFUSED),
    ):
        for word in words(name):
            if word not in banned:
                key = kernels.word_key(np.array([ord(character) for character in word], np.int32))
                kernels.add_word(np.uint64(key), np.uint8(word_list), lexicon, listed)
    return Tables(kernels.kinds(), _syllables(), lexicon, listed)


def _syllables() -> npt.NDArray[np.uint8]:
    from tollgate.gates import names_kernels as kernels

    table = np.zeros(0x10000, np.uint8)
    for surname in words("surnames"):
        if len(surname) == 1:
            table[ord(surname)] |= kernels.SURNAME if surname in _FREQUENT_SURNAMES else kernels.RARE_SURNAME
    for syllable in words("first_syllables"):
        table[ord(syllable)] |= kernels.FIRST
    for syllable in words("second_syllables"):
        table[ord(syllable)] |= kernels.SECOND
    return table
