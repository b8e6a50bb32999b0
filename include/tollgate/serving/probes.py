"""Questions put to a freshly loaded version, and how far its answers may differ from those that are known.

A status of 200 proves nothing: an adapter full of NaN answers 200 with empty text, and a replica that holds other
weights under the right name answers fluently. So what a version answered when it was first looked at is kept, and every
replica that loads it later must say the same.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tollgate.errors import GateRefusedError

Prompt = str | Sequence[Mapping[str, str]]
"""A question: the user's words, or the messages of a chat."""

AGREEMENT = 0.5
"""Share of the known answers that a replica must give again, or at least begin with."""

BEGINNING = 0.25
"""Share of an answer that must be the same, from its first character on.

Not all of it: in bfloat16 the order of a sum, and so a close choice between two tokens, depends on what else is in the
batch, and from the first other token on an answer goes its own way. Weights that are wrong begin otherwise.
"""


class ProbeFailedError(GateRefusedError):
    """A loaded version answered a probe with nothing, with no numbers behind the answer, or not as it should."""


_NUL = "\x00"
"""PostgreSQL cannot keep it; answers are kept and compared without."""


@dataclass(frozen=True)
class KnownAnswer:
    """A question, and what the version is known to answer at temperature 0, or at least how that begins.

    Args:
        question: The question.
        answer: The answer, at least one visible character.
    """

    question: Prompt
    answer: str


Probe = Prompt | KnownAnswer
"""A question that must be answered with something, or one whose answer is known."""


def question_of(probe: Probe) -> Prompt:
    """The question alone."""
    return probe.question if isinstance(probe, KnownAnswer) else probe


def check_answers(name: str, address: str, probes: Sequence[Probe], answers: Sequence[str]) -> None:
    """Compare a replica's answers with the known ones.

    Args:
        name: The version.
        address: The replica.
        probes: The questions, those with known answers among them.
        answers: Its answers, in the same order; cut after the probe's longest answer.

    Raises:
        ProbeFailedError: Fewer than :data:`AGREEMENT` of the known answers were given.
    """
    known = [(probe, answer) for probe, answer in zip(probes, answers, strict=True) if isinstance(probe, KnownAnswer)]
    wrong = [(probe, answer) for probe, answer in known if not _agrees(probe.answer, answer)]
    if known and len(known) - len(wrong) < AGREEMENT * len(known):
        probe, answer = wrong[0]
        raise ProbeFailedError(
            f"{name} at {address} gives {len(known) - len(wrong)} of {len(known)} known answers, fewer than "
            f"{AGREEMENT:.0%}: found {answer[:60]!r}, expected {probe.answer[:60]!r}."
        )


def to_json(probes: Sequence[KnownAnswer]) -> list[dict[str, Any]]:
    """Known answers as the registry keeps them."""
    return [
        {
            "question": probe.question if isinstance(probe.question, str) else [dict(turn) for turn in probe.question],
            "answer": probe.answer.replace(_NUL, ""),
        }
        for probe in probes
    ]


def from_json(kept: Any) -> list[KnownAnswer]:
    """Known answers from the registry; none where nothing usable is kept."""
    if not isinstance(kept, list):
        return []
    return [
        KnownAnswer(one["question"], one["answer"])
        for one in kept
        if isinstance(one, dict) and one.get("question") and str(one.get("answer") or "").strip()
    ]


def _agrees(known: str, answer: str) -> bool:
    """Whether both begin alike; either may have been cut at its longest length."""
    known, answer = _plain(known), _plain(answer)
    pairs = zip(known, answer, strict=False)
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return same >= max(1, BEGINNING * min(len(known), len(answer)))


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text.replace(_NUL, "")).split())
