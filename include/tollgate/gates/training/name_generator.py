"""Names that nobody in the training sentences has, and sentences with them.

A model that sees each name of the corpus in place learns the names; one that sees the same sentences with ever other
names learns what is beside names, and how names are made.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from tollgate.gates.names_tables import words
from tollgate.gates.training.klue_ner import Labelled

_CONTEXTS = Path(__file__).with_name("name_contexts.toml")
_HANGUL = re.compile(r"[가-힣]+(?: [가-힣]+)*")
_MARK = re.compile(r"\{(name|word|number|phone|road)\}")
_PARTICLE = re.compile(r"(으로|은|이에요|이고|이라고|이|을|와)\((로|는|예요|고|라고|가|를|과)\)")
_FINALS = 28
_LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ATTEMPTS = 60
_LONGEST_PART = 5  # syllables of a foreign name that is taken for one part of it

# Population census of 2015: persons of a surname, in ten thousands
_SURNAMES = {
    "김": 1069, "이": 731, "박": 419, "최": 233, "정": 215, "강": 118, "조": 106, "윤": 102, "장": 99, "임": 82,
    "한": 77, "오": 76, "서": 75, "신": 74, "권": 71, "황": 70, "안": 69, "송": 68, "전": 56, "홍": 56, "유": 64,
    "고": 47, "문": 46, "양": 46, "손": 46, "배": 40, "백": 38, "허": 33, "남": 28, "심": 27, "노": 26, "하": 23,
    "곽": 20, "성": 20, "차": 19, "주": 19, "우": 19, "구": 18, "나": 15, "민": 17, "진": 16, "지": 15, "엄": 14,
    "채": 13, "원": 13, "천": 12, "방": 9, "공": 9, "현": 9, "함": 8, "변": 8, "염": 7, "여": 6, "추": 6, "도": 6,
    "소": 5, "석": 6, "선": 4, "설": 4, "마": 4, "길": 4, "연": 4, "위": 3, "표": 3, "명": 3, "기": 3, "반": 3,
    "왕": 3, "금": 3, "옥": 2, "육": 2, "인": 2, "맹": 2, "제": 2, "모": 2, "탁": 2, "류": 22, "남궁": 2, "황보": 1,
    "제갈": 1, "선우": 1, "서문": 1, "독고": 1, "사공": 1,
}  # fmt: skip


def ends_in_consonant(text: str) -> bool:
    """Whether a text ends in a Hangul syllable with a final consonant, on which particles depend."""
    return "가" <= text[-1] <= "힣" and (ord(text[-1]) - 0xAC00) % _FINALS != 0


class NameGenerator:
    """Makes up names like given ones; deterministic for a seed."""

    def __init__(self, known: Iterable[str], banned: Collection[str], seed: int, persons: Sequence[str] = ()) -> None:
        """Learn how names are made.

        Args:
            known: Names to learn from.
            banned: Names never to make.
            seed: Seed of the random choices.
            persons: Names of a dictionary, from which every other one is taken, in an order that is always the same.
        """
        self.rng = random.Random(seed)  # noqa: S311
        self._banned = banned
        self._surnames = list(_SURNAMES)
        self._frequencies = list(_SURNAMES.values())
        self._known = sorted({name for name in known if _HANGUL.fullmatch(name)})
        korean = [name for name in self._known if _kind(name) == "full"]
        self._first = [name[-2] for name in korean] + list(words("first_syllables"))
        self._second = [name[-1] for name in korean] + list(words("second_syllables"))
        self._short = [name for name in self._known if len(name) == 2]
        parts = [part for name in self._known if _kind(name) == "foreign" for part in name.split() if len(part) > 1]
        self._parts = parts + [word for word in words("foreign_names") if word not in banned]
        self._followers = self._chain()
        self._listed = {kind: [name for name in persons if _kind(name) == kind] for kind in ("full", "foreign")}
        self._listed["foreign"] = [name for name in self._listed["foreign"] if len(name) <= _LONGEST_PART]

    def _from_dictionary(self, kind: str) -> str | None:
        """Every other time a name of the dictionary, where there is one."""
        listed = self._listed[kind]
        return self.rng.choice(listed) if listed and self.rng.random() < 0.5 else None

    def _chain(self) -> dict[str, list[str]]:
        """Which syllables follow which in foreign names; ``^`` begins and ``$`` ends one."""
        followers: dict[str, list[str]] = defaultdict(list)
        for part in self._parts:
            before = "^"
            for syllable in [*part, "$"]:
                followers[before].append(syllable)
                before = syllable
        return followers

    def surname(self) -> str:
        """A Korean surname, as frequent as among people."""
        return self.rng.choices(self._surnames, self._frequencies)[0]

    def korean(self) -> str:
        """A Korean name: a surname and two syllables."""
        if listed := self._from_dictionary("full"):
            return listed
        if self.rng.random() < 0.4:
            return self.surname() + self.rng.choice(words("given_names"))
        return self.surname() + self.rng.choice(self._first) + self.rng.choice(self._second)

    def foreign(self) -> str:
        """A part of a foreign name: a known one, or syllables that follow each other in such."""
        if listed := self._from_dictionary("foreign"):
            return listed
        if self.rng.random() < 0.35:
            return self.rng.choice(self._parts)
        for _ in range(_ATTEMPTS):
            made, before = "", "^"
            while len(made) <= 6:
                before = self.rng.choice(self._followers[before])
                if before == "$":
                    break
                made += before
            if 2 <= len(made) <= 6:
                return made
        return self.rng.choice(self._parts)

    def like(self, name: str) -> str:
        """A name of the same kind that takes the same particles; the name itself if none can be made."""
        for _ in range(_ATTEMPTS):
            made = self._once(name)
            if ends_in_consonant(made) == ends_in_consonant(name) and made not in self._banned:
                return made
        return name

    def any(self) -> str:
        """A name as customers have: mostly Korean, a few foreign."""
        for _ in range(_ATTEMPTS):
            choice = self.rng.random()
            made = self.korean() if choice < 0.9 else self._short_name() if choice < 0.94 else self.foreign()
            if made not in self._banned:
                break
        return made

    def _short_name(self) -> str:
        if self.rng.random() < 0.5:
            return self.surname()[0] + self.rng.choice(self._second)
        return self.rng.choice(words("given_names"))

    def _once(self, name: str) -> str:
        kind = _kind(name)
        if kind == "letter":
            return self.rng.choice(_LATIN)
        if kind == "surname":
            return self.surname()[0]
        if kind == "short":
            known = self._short or [name]
            return self.rng.choice(known) if self.rng.random() < 0.3 else self._short_name()
        if kind == "full":
            return self.korean()
        if kind == "foreign":
            if " " not in name and len(name) > 4 and self.rng.random() < 0.5:
                return self.foreign() + self.foreign()
            return " ".join(self.foreign() for _ in name.split())
        return name


def _kind(name: str) -> str:
    if re.fullmatch("[A-Z]", name):
        return "letter"
    if not _HANGUL.fullmatch(name):
        return "other"
    surname = name[0] in _SURNAMES
    if len(name) == 1:
        return "surname"
    if len(name) == 2:
        return "short" if surname else "foreign"
    if (len(name) == 3 and surname) or (len(name) == 4 and name[:2] in _SURNAMES):
        return "full"
    return "foreign"


def renamed(sentences: Sequence[Labelled], generator: NameGenerator, chance: float = 0.9) -> Iterator[Labelled]:
    """The same sentences with other names, one for each that a sentence holds."""
    for sentence in sentences:
        others: dict[str, str] = {}
        pieces: list[str] = []
        spans, place, length = [], 0, 0
        for start, end in sentence.names:
            name = sentence.text[start:end]
            if name not in others:
                others[name] = generator.like(name) if generator.rng.random() < chance else name
            pieces += [sentence.text[place:start], others[name]]
            length += start - place
            spans.append((length, length + len(others[name])))
            length += len(others[name])
            place = end
        yield Labelled("".join([*pieces, sentence.text[place:]]), tuple(spans))


class Messages:
    """Made-up messages of customers and staff, with and without names."""

    def __init__(self, generator: NameGenerator) -> None:
        """Read the phrases.

        Args:
            generator: Makes the names.
        """
        self._generator = generator
        with _CONTEXTS.open("rb") as file:
            self._phrases: dict[str, list[str]] = tomllib.load(file)
        self._words = [*words("not_names"), *(word for word in words("titles") if len(word) > 2), *words("places")]

    def some(self, count: int) -> Iterator[Labelled]:
        """Messages: half with names, a third about roads, the rest with words that look like names."""
        rng = self._generator.rng
        for _ in range(count):
            kinds = rng.choices(("with_name", "road_forms", "without_name"), (3, 2, 1), k=rng.choice((1, 1, 2)))
            yield self._joined([self._filled(rng.choice(self._phrases[kind])) for kind in kinds])

    def _joined(self, parts: Sequence[Labelled]) -> Labelled:
        text, spans = "", []
        for part in parts:
            text += " " if text else ""
            spans += [(len(text) + start, len(text) + end) for start, end in part.names]
            text += part.text
        return Labelled(text, tuple(spans))

    def _filled(self, phrase: str) -> Labelled:
        text, place, spans = "", 0, []
        for slot in _MARK.finditer(phrase):
            text += _agreed(text, phrase[place : slot.start()])
            value = self._value(slot[1])
            if slot[1] == "name":
                spans.append((len(text), len(text) + len(value)))
            text += value
            place = slot.end()
        return Labelled(text + _agreed(text, phrase[place:]), tuple(spans))

    def _value(self, slot: str) -> str:
        rng = self._generator.rng
        if slot == "name":
            return self._generator.any()
        if slot == "word":
            return rng.choice(self._words)
        if slot == "road":
            return rng.choice(self._phrases["roads"])
        digits = "".join(rng.choice("0123456789") for _ in range(8))
        return f"010-{digits[:4]}-{digits[4:]}" if slot == "phone" else digits[: rng.randint(2, 8)]


def _agreed(before: str, after: str) -> str:
    """A piece of a phrase whose particles fit what stands before them."""

    def fitting(match: re.Match[str]) -> str:
        stem = (before + after[: match.start()])[-1:]
        with_final, without = match.groups()
        if with_final == "와":
            with_final, without = without, with_final
        if with_final == "으로" and stem and "가" <= stem <= "힣" and (ord(stem) - 0xAC00) % _FINALS == 8:
            return without
        return with_final if stem and ends_in_consonant(stem) else without

    return _PARTICLE.sub(fitting, after)
