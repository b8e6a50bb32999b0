"""Make the dictionary that the models of names look words up in, from mecab-ko-dic (Apache License 2.0).

    python -m tollgate.gates.training.name_dictionary --output FOLDER

mecab-ko-dic is the dictionary of a Korean morphological analyser; the package python-mecab-ko-dic holds it compiled. It
says of proper nouns whether they are persons' (NNP, 인명). Its words are reduced to hashes, with two bits for each: a
person's name, another word. It knows nothing of KLUE-NER, but many of the persons there are known everywhere.
"""

from __future__ import annotations

import argparse
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tollgate.errors import BadInputError, Problem
from tollgate.gates.training import stored_arrays

PACKAGE = "mecab_ko_dic"
"""What python-mecab-ko-dic is imported as."""

FILE = "dictionary.npz"

# Of MeCab's dictionary.h, in bytes: the whole, and where the sizes of the trie, the tokens and the features stand
_HEADER = 72
_SIZES = slice(24, 36)
_PROPER, _PERSON, _JOINED = "NNP", "인명", "+"
_HANGUL = re.compile("[가-힣]+")


@dataclass(frozen=True)
class Dictionary:
    """Words in Hangul, of two syllables or more.

    Attributes:
        persons: Names of persons, without spaces: Korean ones with their surname, and foreign ones whole or in part.
        others: Words that are something else, too or only.
    """

    persons: frozenset[str]
    others: frozenset[str]

    def names(self) -> list[str]:
        """The persons whose name is no other word, in order."""
        return sorted(self.persons - self.others)


def read(path: Path | None = None) -> Dictionary:
    """Read MeCab's compiled dictionary.

    Args:
        path: Its ``sys.dic``; that of the installed package where it isn't given.

    Raises:
        BadInputError: The package isn't installed, or the file is no dictionary of Korean.
    """
    persons: set[str] = set()
    others: set[str] = set()
    for features in _features(path or _installed()):
        tag, meaning, _, word = features[:4]
        if not 2 <= len(word) <= _longest() or not _HANGUL.fullmatch(word) or _JOINED in tag:
            continue
        (persons if tag == _PROPER and meaning == _PERSON else others).add(word)
    return Dictionary(frozenset(persons), frozenset(others))


def _longest() -> int:
    from tollgate.gates.names_kernels import LONGEST_ENTRY

    return LONGEST_ENTRY


def _installed() -> Path:
    found = find_spec(PACKAGE)
    if not found or not found.origin:
        problem = Problem("python-mecab-ko-dic", "not installed", "the package in this environment (pip install)")
        raise BadInputError("The dictionary of names needs a package that is not installed.", [problem])
    return Path(found.origin).with_name("dictionary") / "sys.dic"


def _features(path: Path) -> Iterator[list[str]]:
    """Tag, meaning, final consonant, word and more of each entry."""
    content = path.read_bytes()
    sizes = struct.unpack("<3I", content[_SIZES]) if len(content) > _HEADER else (0, 0, 0)
    begin = _HEADER + sizes[0] + sizes[1]
    if not sizes[2] or len(content) != begin + sizes[2]:
        raise BadInputError("This is no dictionary.", [Problem(str(path), "another file", "MeCab's sys.dic, compiled")])
    for entry in content[begin:].split(b"\0"):
        features = entry.decode("utf-8").split(",")
        if len(features) > 4:
            yield features


def write(dictionary: Dictionary, folder: Path) -> Path:
    """Write the hashes to ``dictionary.npz`` in a folder: ``gaps`` between sorted keys, and what each word ``says``."""
    from tollgate.gates.names_kernels import OTHER, PERSON
    from tollgate.gates.names_tables import key_of

    known: dict[int, int] = {}
    for words, flag in ((dictionary.persons, PERSON), (dictionary.others, OTHER)):
        for word in words:
            key = key_of(word)
            known[key] = known.get(key, 0) | flag
    keys = np.array(sorted(known), np.int64)
    says = np.array([known[key] for key in keys.tolist()], np.uint8)
    gaps = np.diff(keys, prepend=0).astype(np.uint32)
    return stored_arrays.write(folder / FILE, {"gaps": gaps, "says": says})


def main() -> None:
    """Write the dictionary; see the module's description."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the dictionary")
    given = parser.parse_args()
    dictionary = read()
    written = write(dictionary, given.output)
    sys.stdout.write(
        f"{written}: {len(dictionary.persons):,} names of persons, {len(dictionary.others):,} other words\n"
    )


if __name__ == "__main__":
    main()
