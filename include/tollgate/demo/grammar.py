"""The demo's grammar: phrases from ``phrases/*.toml``, their expansion, Korean particles, and the check for overlaps.

Phrases belong to one of four uses. A model must be tested on phrasings that it never saw, so no phrase of the test and
of the A/B users' messages may occur in the training or validation part: :func:`check_disjoint` holds that. Training
frames are put together from words and could come out as one of the others': :attr:`Grammar.reserved` names those, and
whoever draws a training frame draws again.
"""

from __future__ import annotations

import itertools
import random
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from tollgate.errors import TollgateError

Use = Literal["train", "validation", "test", "ab"]
USES: tuple[Use, ...] = get_args(Use)
PlaceKind = Literal["road", "used", "area", "visited", "none"]

_FOLDER = Path(__file__).with_name("phrases")
_CHOICE = re.compile(r"\[([^\]]*)\]")
_WORD = re.compile(r"<(\w+)>")
_PARTICLE = re.compile(r"(?<=(.))(을\(를\)|이\(가\)|은\(는\)|과\(와\)|으로\(로\)|이에요\(예요\))")
_FINAL_SOUNDS_OF_DIGITS = {"0": "ㅇ", "1": "ㄹ", "3": "ㅁ", "6": "ㄱ", "7": "ㄹ", "8": "ㄹ"}
_HANGUL_FIRST, _HANGUL_LAST, _FINALS, _FINAL_RIEUL = 0xAC00, 0xD7A3, 28, 8


class PhraseOverlapError(TollgateError):
    """A phrase kept for the test or for the A/B users also occurs in what a model learns from."""


@dataclass(frozen=True)
class Intent:
    """One of the twelve subjects of a message.

    Args:
        name: The label, for example ``하이패스``.
        place: Which place frames go with it.
        desk: The department of the older routing, known to the pre-training text only.
        words: Key words that customers use for it.
        cores: For each use the phrasings, not yet expanded.
    """

    name: str
    place: PlaceKind
    desk: str
    words: tuple[str, ...]
    cores: Mapping[Use, tuple[str, ...]]


@dataclass(frozen=True)
class Places:
    """Names of roads and directions and the ways to write them."""

    routes: tuple[str, ...]
    route_forms: tuple[str, ...]
    directions: tuple[str, ...]
    bound_forms: tuple[str, ...]
    line_forms: tuple[str, ...]
    post_forms: tuple[str, ...]
    days: tuple[str, ...]
    amounts: tuple[str, ...]


@dataclass(frozen=True)
class Grammar:
    """All phrases.

    Args:
        intents: The subjects, in the order of the file.
        frames: By kind (``greeting``, ``urgent``, ``place_road`` …) and use the phrases around a core.
        places: Roads, directions, days, amounts.
        composed: Kinds of frames whose training part is put together from ``words.toml``.
    """

    intents: tuple[Intent, ...]
    frames: Mapping[str, Mapping[Use, tuple[str, ...]]]
    places: Places
    composed: frozenset[str]

    @cached_property
    def reserved(self) -> Mapping[str, frozenset[str]]:
        """By kind of composed frame, in the form of :func:`bare`: what validation, test and A/B keep to themselves."""
        return {
            kind: frozenset(_forms(tuple(phrase for use in USES[1:] for phrase in self.frames[kind][use]))) - {""}
            for kind in self.composed
        }

    def intent(self, name: str) -> Intent:
        """The intent of that name."""
        return next(intent for intent in self.intents if intent.name == name)


@lru_cache
def load_grammar() -> Grammar:
    """Read the phrases that come with the package and check that no use shares any with another.

    Raises:
        PhraseOverlapError: See :func:`check_disjoint`.
    """
    intents = tuple(_intent(table) for table in _read("intents.toml")["intent"])
    words, written = _read("words.toml"), _read("frames.toml")
    frames = {kind: _by_use(table, words) for kind, table in written.items()}
    composed = frozenset(kind for kind, table in written.items() if any(map(_WORD.search, table["train"])))
    places = Places(**{name: tuple(values) for name, values in _read("places.toml").items()})
    grammar = Grammar(intents, frames, places, composed)
    check_disjoint(grammar)
    return grammar


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((_FOLDER / name).read_text(encoding="utf-8"))


def _intent(table: Mapping[str, Any]) -> Intent:
    return Intent(table["name"], table["place"], table["desk"], tuple(table["words"]), _by_use(table))


def _by_use(table: Mapping[str, Any], words: Mapping[str, str] | None = None) -> dict[Use, tuple[str, ...]]:
    """The phrases of each use, every ``<word>`` written out as the choice that it stands for."""
    known = words or {}
    return {
        use: tuple(_WORD.sub(lambda match: f"[{known[match[1]]}]", phrase) for phrase in table[use]) for use in USES
    }


def expand(phrase: str, rng: random.Random) -> str:
    """One random expansion of a phrase; slots and particles stay as they are."""
    return _CHOICE.sub(lambda match: rng.choice(match.group(1).split("|")), phrase)


def expansions(phrase: str) -> Iterator[str]:
    """All expansions of a phrase, in order; slots and particles stay as they are."""
    options = [match.split("|") for match in _CHOICE.findall(phrase)]
    for chosen in itertools.product(*options):
        values = iter(chosen)
        yield _CHOICE.sub(lambda _match, values=values: next(values), phrase)  # type: ignore[misc]


def fill(phrase: str, slots: Mapping[str, str]) -> str:
    """Put the slots' values in and make every particle agree with the syllable before it."""
    return agree(phrase.format_map(slots))


def agree(text: str) -> str:
    """Replace ``을(를)`` and its like by the form that fits the syllable before: 차을(를) -> 차를, 돈을(를) -> 돈을."""
    return _PARTICLE.sub(lambda match: _particle(match.group(1), match.group(2)), text)


def _particle(before: str, written: str) -> str:
    with_final, without_final = written.rstrip(")").split("(")
    final = _final_sound(before)
    if with_final == "으로" and final == "ㄹ":
        return without_final
    return with_final if final else without_final


def _final_sound(character: str) -> str:
    """The final consonant: ``ㄹ``, another one as ``-``, or empty where the syllable is open."""
    code = ord(character)
    if not _HANGUL_FIRST <= code <= _HANGUL_LAST:
        return _FINAL_SOUNDS_OF_DIGITS.get(character, "")
    final = (code - _HANGUL_FIRST) % _FINALS
    return "ㄹ" if final == _FINAL_RIEUL else "-" if final else ""


def bare(text: str) -> str:
    """A text as the overlap check compares it: no spaces, no punctuation, particles in one spelling."""
    return re.sub(r"[\s.,!?]", "", agree(text))


def check_disjoint(grammar: Grammar) -> None:
    """Check that test and A/B share no phrase with training or validation, nor with each other, nor these two.

    Cores are compared over all intents after full expansion, without spaces and punctuation; one that merely contains
    another counts as the same. Frames count as the same when they are equal; the empty frame belongs to everyone.
    Composed training frames have too many expansions to be compared: :attr:`Grammar.reserved` keeps them apart.

    Raises:
        PhraseOverlapError: Names the phrase and both uses.
    """
    cores = {use: _core_forms(grammar, use) for use in USES}
    for first, second in itertools.combinations(USES, 2):
        _refuse_contained(cores[first], cores[second], first, second)
        for kind, frames in grammar.frames.items():
            if first == "train" and kind in grammar.composed:
                continue
            shared = (_forms(frames[first]) & _forms(frames[second])) - {""}
            if shared:
                raise PhraseOverlapError(f"frame {kind}: {sorted(shared)[0]!r} is in {first} and in {second}")


def _core_forms(grammar: Grammar, use: Use) -> set[str]:
    return {form for intent in grammar.intents for form in _forms(intent.cores[use])}


def _forms(phrases: tuple[str, ...]) -> set[str]:
    return {bare(form) for phrase in phrases for form in expansions(phrase)}


def _refuse_contained(first: set[str], second: set[str], first_use: Use, second_use: Use) -> None:
    # One search through all forms joined is much faster than a comparison of every pair.
    for inner, outer in ((first, second), (second, first)):
        everything = "\n".join(sorted(outer))
        for form in sorted(inner):
            if form in everything:
                raise PhraseOverlapError(f"core {form!r} is in {first_use} and in {second_use}")
