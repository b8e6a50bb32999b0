"""What the tagger of names knows before it is trained: characters, syllables of names, word lists, a dictionary.

The word lists were written for it and lie in the folder ``lexicon``. The dictionary is that of mecab-ko-dic, reduced to
hashes of its entries; see :mod:`tollgate.gates.training.name_dictionary`, which makes it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from tollgate.gates.character_kernels import Bytes, Codes
    from tollgate.gates.names_kernels import Known

_LEXICON = Path(__file__).with_name("lexicon")
_DICTIONARY = Path(__file__).with_name("models") / "names" / "dictionary.npz"
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
        dictionary: Keys of the dictionary's words, likewise.
        says: Whether a word is a person's name, another word, or both.
    """

    kind: Bytes
    syllables: Bytes
    lexicon: Codes
    listed: Bytes
    dictionary: Codes
    says: Bytes

    def arrays(self) -> Known:
        """All of them, in the order of the attributes."""
        return self.kind, self.syllables, self.lexicon, self.listed, self.dictionary, self.says


def tables(banned: Collection[str] = (), *, shipped: bool = False, unlisted: Collection[str] = ()) -> Tables:
    """Build the tables.

    Args:
        banned: Words that no list may hold: the names of a test.
        shipped: Whether to refuse the words too that the shipped models mistook; training does without.
        unlisted: Words that the dictionary may not hold either.
    """
    from tollgate.gates import names_kernels as kernels

    lexicon = np.zeros(1 << kernels.LEXICON_BITS, np.int32)
    listed = np.zeros(1 << kernels.LEXICON_BITS, np.uint8)
    mistaken = [("mistaken_words", kernels.REFUSED)] if shipped else []
    marking = {kernels.PLACE, kernels.FOREIGN, kernels.TITLE, kernels.ORDINARY}
    for name, word_list in (
        ("places", kernels.PLACE),
        ("organisations", kernels.PLACE),
        ("loanwords", kernels.PLACE),
        ("foreign_names", kernels.FOREIGN),
        ("titles", kernels.TITLE),
        ("given_names", kernels.GIVEN),
        ("not_names", kernels.ORDINARY),
        ("ordinary_words", kernels.REFUSED),
        *mistaken,
    ):
        for word in words(name):
            if word in banned:
                continue
            kernels.add_word(np.uint64(key_of(word)), np.uint8(word_list), lexicon, listed)
            for length in range(1, len(word) if word_list in marking else 0):
                kernels.add_word(np.uint64(key_of(word[:length])), np.uint8(kernels.BEGINNING), lexicon, listed)
    return Tables(kernels.kinds(), _syllables(), lexicon, listed, *_dictionary(unlisted))


def key_of(word: str) -> int:
    """The key of a word in the tables."""
    from tollgate.gates import names_kernels as kernels

    return int(kernels.word_key(np.array([ord(character) for character in word], np.int32)))


def _dictionary(unlisted: Collection[str]) -> tuple[Codes, Bytes]:
    """The dictionary's table, without some words."""
    from tollgate.gates import names_kernels as kernels

    keys = np.zeros(1 << kernels.DICTIONARY_BITS, np.int32)
    says = np.zeros(1 << kernels.DICTIONARY_BITS, np.uint8)
    left_out = np.array(sorted(key_of(word) for word in unlisted), np.int64)
    with np.load(_DICTIONARY) as file:
        stored = np.cumsum(file["gaps"], dtype=np.int64)
        kept = ~np.isin(stored, left_out)
        kernels.add_words(stored[kept], file["says"][kept], keys, says)
    return keys, says


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
