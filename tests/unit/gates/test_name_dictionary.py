"""MeCab's dictionary is read, kept as hashes, and found again in texts, with particles behind it and spaces within."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from tollgate.errors import BadInputError
from tollgate.gates import names_tables
from tollgate.gates.names_kernels import FEATURES, folding, prepared, room_for_marks
from tollgate.gates.names_tables import Tables, tables
from tollgate.gates.training import name_dictionary
from tollgate.gates.training.name_dictionary import Dictionary
from tollgate.gates.training.name_generator import NameGenerator

WORDS = Dictionary(frozenset({"김철수", "톰크루즈", "보라", "하늘"}), frozenset({"보라", "하늘길"}))
BEGIN, INSIDE, END, AMBIGUOUS, ACROSS = 0, 16, 32, 8, 4


def compiled(folder: Path, entries: list[str]) -> Path:
    """A dictionary as MeCab compiles it: a header of 72 bytes, a trie, tokens, and features that end in zeros."""
    features = b"".join(entry.encode() + b"\0" for entry in entries)
    trie, tokens = b"trie", b"tokens"
    sizes = (0, 102, 0, len(entries), 1, 1, len(trie), len(tokens), len(features), 0)
    path = folder / "sys.dic"
    path.write_bytes(struct.pack("<10I32s", *sizes, b"UTF-8") + trie + tokens + features)
    return path


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tables:
    monkeypatch.setattr(names_tables, "_DICTIONARY", name_dictionary.write(WORDS, tmp_path))
    return tables()


def entries(text: str, known: Tables, wanted: str | None = None) -> list[tuple[int, int]]:
    """Of each character the kind of the entry that it is in, and where that ends."""
    codes = folding()[np.array([ord(one) for one in text])].astype(np.int32)
    room = room_for_marks(len(text))
    marked = np.array([one != "_" for one in wanted or text], np.uint8)
    prepared(codes, len(codes), known.arrays(), room, marked, np.empty((len(codes), FEATURES), np.uint32))
    return list(zip(room[2][: len(text)].tolist(), room[3][: len(text)].tolist(), strict=True))


def test_words_of_two_syllables_or_more_are_read(tmp_path: Path) -> None:
    path = compiled(
        tmp_path,
        [
            "NNP,인명,F,보라,*,*,*,*",
            "NNG,*,F,보라,*,*,*,*",
            "NNP,인명,T,김,*,*,*,*",
            "NNP,지명,T,서울,*,*,*,*",
            "NNP,인명,F,Kim,*,*,*,*",
            "VV+EC,*,F,가서,Inflect,VV,EC,가/VV/*+아서/EC/*",
            "BOS/EOS",
        ],
    )
    read = name_dictionary.read(path)
    assert read == Dictionary(frozenset({"보라"}), frozenset({"보라", "서울"}))
    assert WORDS.names() == ["김철수", "톰크루즈", "하늘"]


@pytest.mark.parametrize("content", [b"", b"x" * 71, b"x" * 200])
def test_another_file_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.dic"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=r"other\.dic"):
        name_dictionary.read(path)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_dictionary, "find_spec", lambda _: None)
    with pytest.raises(BadInputError, match="python-mecab-ko-dic"):
        name_dictionary.read()


def test_the_longest_person_at_the_start_of_a_word_is_marked(known: Tables) -> None:
    assert entries("김철수가", known) == [(2 + BEGIN, 3), (2 + INSIDE, 3), (2 + END, 3), (0, 0)]
    assert entries("왜 하늘은", known)[2:] == [(1 + BEGIN, 4), (1 + END, 4), (0, 0)]
    assert entries("작은김철수", known) == [(0, 0)] * 5


def test_a_person_that_is_or_begins_another_word_is_marked_as_such(known: Tables) -> None:
    assert entries("보라색", known)[0] == (1 + AMBIGUOUS, 2)
    assert entries("하늘길", known)[0] == (1 + AMBIGUOUS, 2)
    assert entries("하늘", known)[0] == (1, 2)


def test_a_name_is_found_across_a_space(known: Tables) -> None:
    expected = [(ACROSS + BEGIN, 5), *[(ACROSS + INSIDE, 5)] * 3, (ACROSS + END, 5), (0, 0)]
    assert entries("톰 크루즈가", known) == expected
    assert entries("보 라", known) == [(0, 0)] * 3


def test_only_wanted_words_are_looked_up(known: Tables) -> None:
    assert entries("하늘 하늘", known, wanted="___하_") == [(0, 0)] * 3 + [(1 + BEGIN, 5), (1 + END, 5)]


def test_unlisted_names_are_in_no_table(known: Tables) -> None:
    assert entries("김철수", known)[0] == (2, 3)
    assert entries("김철수", tables(unlisted=["김철수"])) == [(0, 0)] * 3


def test_the_shipped_dictionary_is_small_and_large() -> None:
    path = Path(names_tables.__file__).with_name("models") / "names" / name_dictionary.FILE
    assert path.stat().st_size < 3_000_000
    with np.load(path) as file:
        assert len(file["gaps"]) == len(file["says"]) > 500_000
        assert set(np.unique(file["says"]).tolist()) == {1, 2, 3}


def test_every_other_made_up_name_is_from_the_dictionary() -> None:
    names = ["박하늬", "피터", "요한슨"]
    generator = NameGenerator(["김연아", "소피마르소"], (), seed=2, persons=names)
    assert 300 < sum(generator.korean() == "박하늬" for _ in range(1000)) < 700
    assert 300 < sum(generator.foreign() in names for _ in range(1000)) < 700
