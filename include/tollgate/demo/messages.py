"""Customers' messages with their right answers, made from the grammar with a seed.

A message is a core (what it is about) with frames around it: greeting, place, urgency, closing. Its answer is the
strict JSON ``{"분류": intent, "노선": road or null, "방향": direction or null, "긴급": true or false}``. Training
messages are also noisy and sometimes terse, as real ones are, so that a model learns words rather than sentences.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tollgate.demo.grammar import USES, Grammar, Intent, PhraseOverlapError, Use, bare, expand, fill, load_grammar
from tollgate.demo.uniqueness import NearDuplicateIndex

SYSTEM_PROMPT = "고객 문의를 접수 JSON으로 바꾸세요."
"""The system message of every row and of every request to the demo's model."""

SIZES: dict[Use, int] = {"train": 4000, "validation": 300, "test": 400, "ab": 300}
"""Messages of each use."""

NEAR_DUPLICATE = 0.7
"""No two messages, of whatever use, are as similar as this (Jaccard, runs of five characters)."""

_PLACE_SHARE = {"road": 0.9, "area": 0.7, "visited": 0.7, "used": 0.45, "none": 0.0}
_POST_SHARE = 0.8
_DIRECTION_SHARE = {"road": 0.6, "area": 0.35, "visited": 0.35, "used": 0.45, "none": 0.0}
_TAIL_SHARE = 0.3
_URGENT_SHARE = {"road": 0.45, "area": 0.12, "visited": 0.12, "used": 0.12, "none": 0.08}
_CALM_SHARE = 0.3
_TRAINING_URGENT_SHARE = {"road": 0.45, "area": 0.25, "visited": 0.25, "used": 0.25, "none": 0.25}
_TRAINING_CALM_SHARE = 0.35
_URGENT_FIRST_SHARE = 0.15
_ASIDE_SHARE = 0.3
_CLOSING_SHARE = 0.7
_URGENT_TONE_SHARE = 0.45
_MORE_SAID_SHARE = 0.4
_TERSE_SHARE = 0.25
_DROPPED_WORDS_SHARE = 0.25
_DROPPED_WORD = 0.2
_TURNED_SHARE = 0.1
_NOISE: dict[Use, float] = {"train": 0.1, "validation": 0.04, "test": 0.04, "ab": 0.04}
_KEPT_WORDS = ("휴게소", "화물차", "트럭", "못", "안")
_LINE_DIRECTIONS = ("상행", "하행")
_PLACE_FRAME_BEFORE = {"road": "place_road", "used": "place_used", "area": "place_area", "visited": "place_visited"}


@dataclass(frozen=True)
class Label:
    """The right answer to a message."""

    intent: str
    route: str | None
    direction: str | None
    urgent: bool

    def to_json(self) -> str:
        """The answer as the model must write it: one line, no spaces, keys in this order."""
        values = {"분류": self.intent, "노선": self.route, "방향": self.direction, "긴급": self.urgent}
        return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Message:
    """A customer's message, its right answer, and the core it was made from (slots not filled)."""

    text: str
    label: Label
    core: str


@dataclass(frozen=True)
class _Place:
    text: str
    route: str | None = None
    direction: str | None = None


def chat(text: str, answer: str) -> list[dict[str, str]]:
    """The three messages of a training row."""
    return [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": text},
        {"role": "assistant", "content": answer},
    ]


def labelled_messages(seed: int, sizes: dict[Use, int] | None = None) -> dict[Use, list[Message]]:
    """All messages of the demo, by use: intents in turn, no two of them near-duplicates, phrasings disjoint.

    Args:
        seed: The same seed gives the same messages.
        sizes: Number of messages of each use; :data:`SIZES` unless told.

    Raises:
        PhraseOverlapError: A phrasing kept for the test or the A/B users turned up in a training or validation message.
    """
    grammar = load_grammar()
    streams = {use: MessageStream(grammar, use, random.Random(f"{seed}/{use}")) for use in USES}  # noqa: S311
    index = NearDuplicateIndex(NEAR_DUPLICATE, (next(stream).text for stream in streams.values() for _ in range(500)))
    messages: dict[Use, list[Message]] = {}
    # Held-out uses first: where two messages are too alike it is the training message that gives way.
    for use in ("test", "ab", "validation", "train"):
        size = (sizes or SIZES)[use]
        fresh = (message for message in streams[use] if index.add(message.text))
        messages[use] = [next(fresh) for _ in range(size)]
    check_unseen(messages)
    return messages


def ab_messages(seed: int) -> list[Message]:
    """The messages of the A/B test's simulated users; :data:`SIZES` says how many."""
    return labelled_messages(seed)["ab"]


def check_unseen(messages: dict[Use, list[Message]]) -> None:
    """Check on the finished messages that no core of test or A/B stands in a training or validation message.

    Raises:
        PhraseOverlapError: Names the core.
    """
    learned = "\n".join(bare(message.text) for use in ("train", "validation") for message in messages[use])
    for use in ("test", "ab"):
        for core in sorted({message.core for message in messages[use] if "{" not in message.core}):
            if bare(core) in learned:
                raise PhraseOverlapError(f"core {core!r} of {use} stands in a training or validation message")


class MessageStream(Iterator[Message]):
    """Endless messages of one use, intents and their cores in turn.

    Args:
        grammar: The phrases.
        use: Which phrases, and how much noise.
        rng: Where chance comes from.
    """

    def __init__(self, grammar: Grammar, use: Use, rng: random.Random) -> None:
        self._grammar = grammar
        self._use: Use = use
        self._rng = rng
        self._count = 0
        # What is rare in the customers' letters must not be rare in what teaches to tell it.
        trains = use == "train"
        self._urgent_share = _TRAINING_URGENT_SHARE if trains else _URGENT_SHARE
        self._calm_share = _TRAINING_CALM_SHARE if trains else _CALM_SHARE

    def __next__(self) -> Message:
        turn, number = divmod(self._count, len(self._grammar.intents))
        self._count += 1
        intent = self._grammar.intents[number]
        cores = intent.cores[self._use]
        return self.message(intent, cores[turn % len(cores)])

    def message(self, intent: Intent, phrase: str | None = None) -> Message:
        """One message of an intent, from one of its phrasings (any, unless told)."""
        rng = self._rng
        core = self._worn(intent, expand(phrase or rng.choice(intent.cores[self._use]), rng))
        place = self._place(intent)
        before, tail = self._place_frames(intent, place)
        urgent = rng.random() < self._urgent_share[intent.place]
        urgency = self._urgency(urgent)
        first = urgency.strip() + " " if urgency and rng.random() < _URGENT_FIRST_SHARE else ""
        after = "" if first else urgency
        aside = self._frame("aside") if rng.random() < _ASIDE_SHARE else ""
        end = rng.choice(("?", ".")) if core.endswith(("나요", "까요", "가요")) else rng.choice((".", ".", ".", ""))
        phrase = "".join(
            (
                self._frame("greeting"),
                first,
                before,
                core,
                end,
                tail,
                *rng.sample((after, aside), 2),
                self._frame("closing") if rng.random() < _CLOSING_SHARE else "",
            )
        )
        text = fill(self._noisy(phrase), {"place": place.text, "amount": self._amount(), "date": self._date()})
        return Message(text.strip(), Label(intent.name, place.route, place.direction, urgent), core)

    def short(self, intent: Intent) -> Message:
        """A message without greeting, place and closing: a core, and perhaps how urgent it is."""
        rng = self._rng
        core = self._worn(intent, expand(rng.choice(intent.cores[self._use]), rng))
        urgent = rng.random() < self._urgent_share[intent.place]
        text = fill(f"{core}.{self._urgency(urgent)}", {"amount": self._amount(), "date": self._date()})
        return Message(text, Label(intent.name, None, None, urgent), core)

    def tone(self) -> tuple[str, bool]:
        """The ends of a message without its core, and whether they say that it is urgent."""
        urgent = self._rng.random() < _URGENT_TONE_SHARE
        said = [self._frame("urgent") if urgent else self._frame(self._rng.choice(("calm", "calm", "aside")))]
        said += [self._frame(kind) for kind in ("aside", "closing") if self._rng.random() < _MORE_SAID_SHARE]
        self._rng.shuffle(said)
        return self._noisy("".join(said)).strip(), urgent

    def _frame(self, kind: str) -> str:
        reserved = self._grammar.reserved.get(kind, frozenset()) if self._use == "train" else frozenset()
        while True:
            frame = expand(self._rng.choice(self._grammar.frames[kind][self._use]), self._rng)
            if bare(frame) not in reserved:
                return frame

    def _urgency(self, urgent: bool) -> str:
        if urgent:
            return self._frame("urgent")
        return self._frame("calm") if self._rng.random() < self._calm_share else ""

    def _worn(self, intent: Intent, core: str) -> str:
        """A training core as hurried people write it: key words only, or with words missing."""
        rng = self._rng
        if self._use != "train":
            return core
        chance = rng.random()
        if chance < _TERSE_SHARE:
            return self._terse(intent)
        if chance < _TERSE_SHARE + _DROPPED_WORDS_SHARE:
            kept = [w for w in core.split() if rng.random() > _DROPPED_WORD or w.startswith(_KEPT_WORDS) or "{" in w]
            return " ".join(kept) or core
        if chance < _TERSE_SHARE + _DROPPED_WORDS_SHARE + _TURNED_SHARE:
            words = core.split()
            at = rng.randrange(len(words))
            return " ".join(words[at:] + words[:at])
        return core

    def _terse(self, intent: Intent) -> str:
        chosen = self._rng.sample(intent.words, self._rng.randint(1, 2))
        return " ".join(chosen) + self._frame("terse")

    def _place(self, intent: Intent) -> _Place:
        rng, places = self._rng, self._grammar.places
        if rng.random() >= _PLACE_SHARE[intent.place]:
            return _Place("")
        route = rng.choice(places.routes)
        words = [rng.choice(places.route_forms).format(route=route)]
        direction = rng.choice(places.directions) if rng.random() < _DIRECTION_SHARE[intent.place] else None
        if direction:
            forms = places.line_forms if direction in _LINE_DIRECTIONS else places.bound_forms
            words.append(rng.choice(forms).format(direction=direction))
        if intent.place == "road" and rng.random() < _POST_SHARE:
            words.append(rng.choice(places.post_forms).format(kilometre=rng.randint(1, 420)))
        return _Place(" ".join(words), f"{route}고속도로", direction)

    def _place_frames(self, intent: Intent, place: _Place) -> tuple[str, str]:
        if not place.text:
            return "", ""
        if intent.place == "road" and self._rng.random() < _TAIL_SHARE:
            return "", self._frame("place_tail")
        return self._frame(_PLACE_FRAME_BEFORE[intent.place]), ""

    def _amount(self) -> str:
        return self._rng.choice(self._grammar.places.amounts).format(hundreds=self._rng.randint(10, 320) * 100)

    def _date(self) -> str:
        rng = self._rng
        return rng.choice(self._grammar.places.days).format(month=rng.randint(1, 12), day=rng.randint(1, 28))

    def _noisy(self, phrase: str) -> str:
        """Slips of the finger, outside the slots: a lost space, a doubled syllable, other punctuation."""
        rng, share = self._rng, _NOISE[self._use]
        parts = re.split(r"(\{\w+\}(?:\S\(\S\)|\S+\(\S+\))?)", phrase)
        for number in range(0, len(parts), 2):
            parts[number] = self._slip(parts[number], share)
        text = "".join(parts)
        return text.replace(".", rng.choice(("", "..", "!", " ㅠㅠ"))) if rng.random() < share else text

    def _slip(self, part: str, share: float) -> str:
        rng = self._rng
        spaces = [match.start() for match in re.finditer(r"(?<=\S) (?=\S)", part)]
        if spaces and rng.random() < share:
            at = rng.choice(spaces)
            part = part[:at] + part[at + 1 :]
        syllables = [match.start() for match in re.finditer(r"[가-힣](?![^()]*\))", part)]
        if len(syllables) > 8 and rng.random() < share / 2:
            at = rng.choice(syllables)
            if "(" not in part[at:].split(" ", 1)[0]:  # a particle still in both its forms must stay as it is
                part = part[:at] + part[at] + part[at:]
        return part
