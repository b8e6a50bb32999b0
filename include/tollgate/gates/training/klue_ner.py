"""KLUE-NER's files: sentences with a tag for each character, and folds of them that share no name."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tollgate.errors import BadInputError, Problem


@dataclass(frozen=True)
class Labelled:
    """A sentence and where its names of persons are (start, end)."""

    text: str
    names: tuple[tuple[int, int], ...]

    def strings(self) -> list[str]:
        """Its names."""
        return [self.text[start:end] for start, end in self.names]


def read(path: Path) -> list[Labelled]:
    """Read a file of KLUE-NER: a character and its tag a line, an empty line after a sentence, comments after ``##``.

    Raises:
        BadInputError: A line is neither.
    """
    sentences, characters, tags = [], [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.startswith("## "):
            continue
        if line:
            character, _, tag = line.rpartition("\t")
            if len(character) != 1 or not tag:
                expected = "a character, a tab and a tag"
                raise BadInputError("This is no file of KLUE-NER.", [Problem(f"{path}:{number}", line, expected)])
            characters.append(character)
            tags.append(tag)
        elif characters:
            sentences.append(Labelled("".join(characters), tuple(_spans(tags))))
            characters, tags = [], []
    if characters:
        sentences.append(Labelled("".join(characters), tuple(_spans(tags))))
    return sentences


def _spans(tags: Sequence[str]) -> Iterable[tuple[int, int]]:
    start = None
    for place, tag in enumerate([*tags, "O"]):
        if start is not None and tag != "I-PS":
            yield start, place
            start = None
        if tag == "B-PS":
            start = place


def folds(sentences: Sequence[Labelled], count: int, seed: int = 0) -> list[int]:
    """Put sentences into folds so that no name of two or more characters is in two of them.

    Sentences that share a name, with or without spaces, are in one fold. Names of one character (surnames beside a
    title, "A씨") are a closed class and may be in several.
    """
    parent: dict[object, object] = {}

    def root(one: object) -> object:
        while parent.setdefault(one, one) != one:
            one = parent[one]
        return one

    for index, sentence in enumerate(sentences):
        for name in sentence.strings():
            if len(name) > 1:
                parent[root(name.replace(" ", ""))] = root(index)
    groups = [root(index) for index in range(len(sentences))]
    sizes = Counter(groups)
    order = sorted(sizes, key=str)
    random.Random(seed).shuffle(order)  # noqa: S311
    order.sort(key=lambda group: -sizes[group])
    filled, fold_of = [0] * count, {}
    for group in order:
        fold_of[group] = min(range(count), key=filled.__getitem__)
        filled[fold_of[group]] += sizes[group]
    return [fold_of[group] for group in groups]


def names(sentences: Iterable[Labelled]) -> set[str]:
    """Every name of two or more characters, as written and without spaces."""
    written = {name for sentence in sentences for name in sentence.strings() if len(name) > 1}
    return written | {name.replace(" ", "") for name in written if len(name.replace(" ", "")) > 1}
