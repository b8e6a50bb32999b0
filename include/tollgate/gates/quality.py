"""Quality of a row, 0 to 1, from named parts that are each visible.

Judged is natural language: what the user writes, and the assistant's answers unless they are structured. A structured
answer (a JSON object or array) is complete as it is, and says nothing about length, words or sentences. The score is
the product of the parts, each raised to its weight: one part at 0 makes the whole 0, however good the others are, and
a part of little weight can lower it, not refuse the row.

=================  ===================================================================================================
part               1 where ...
=================  ===================================================================================================
question_length    the shortest of the user's turns has 8 letters and digits
answer_length      the shortest of the answers in prose has as many
repetition         no turn repeats what stands right before, or its own sentences
diversity          most runs of three characters are new within 256
letters            60 % of what is no space are letters and digits
hangul             a tenth of what is written is Hangul
ending             every answer ends as a sentence does; 0.75 as a word does, 0.5 in the middle
intact             no replacement or control characters, mojibake, halves of syllables
relevance          a long answer takes up at least some of the question's words
refusal            no answer is just a refusal
=================  ===================================================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tollgate.gates.text_buffers import buffers, text_column
from tollgate.gates.threads import in_parts

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from tollgate.gates.quality_kernels import Tables

    Column = npt.NDArray[np.float32]

WEIGHTS: Final[Mapping[str, float]] = {
    "question_length": 0.2,
    "answer_length": 0.2,
    "repetition": 0.2,
    "diversity": 0.2,
    "letters": 0.15,
    "hangul": 0.25,
    "ending": 0.1,
    "intact": 0.15,
    "relevance": 0.15,
    "refusal": 0.3,
}
"""The parts, and the power each is raised to."""

TURN: Final = "\x1e"
"""Stands between the turns of one side of a row in a column, so that each is judged by itself."""

_ENOUGH = 8  # letters and digits of a turn
_LONG = 60  # letters and digits of an answer that is expected to take up the question's words

_SENTENCE_ENDS = ".?!…~。？！\"'”’)）]」』》>:;%" + "다요까죠음함임됨니오라자세네군지게걸래야데든"
_CUT_OFF = ",，、·/-–—=+(<[{「『《&@#*^_|\\은는을를와과의및또"
_LEXICON = Path(__file__).parent / "lexicon"
"""``refusals.txt``: a phrase a line. ``question_stems.txt``: the first two syllables of words of any question."""


@dataclass(frozen=True)
class QualityScores:
    """Scores of rows.

    Attributes:
        total: Score of each row (n,), 0 to 1.
        parts: Each part (n,), 0 to 1, by the names in :data:`WEIGHTS`.
    """

    total: Column
    parts: dict[str, Column]


def join_turns(sides: Iterable[Sequence[str]]) -> list[str]:
    """The turns of one side of each row as one text, as :func:`score_column` takes them."""
    return [TURN.join(turns) for turns in sides]


def score(questions: Sequence[str], answers: Sequence[str]) -> tuple[float, dict[str, float]]:
    """Score a dialogue.

    Args:
        questions: The user's turns.
        answers: The assistant's turns.

    Returns:
        The score (0 to 1, three decimals) and its parts (each 0 to 1), by the names in :data:`WEIGHTS`.
    """
    scores = score_column(join_turns([questions]), join_turns([answers]))
    return round(float(scores.total[0]), 3), {name: round(float(part[0]), 3) for name, part in scores.parts.items()}


def score_column(
    questions: pa.Array | pa.ChunkedArray | list[str], answers: pa.Array | pa.ChunkedArray | list[str]
) -> QualityScores:
    """Score many rows.

    Args:
        questions: The user's side of each row (n); several turns joined by :data:`TURN`.
        answers: The assistant's side of each row (n), likewise.

    Returns:
        The scores and their parts.

    Raises:
        ValueError: The columns differ in length.
    """
    from tollgate.gates import quality_kernels as kernels

    asked, given = text_column(questions), text_column(answers)
    if len(asked) != len(given):
        raise ValueError(f"{len(asked)} questions, but {len(given)} answers")
    columns = (*buffers(asked), *buffers(given), _tables())
    scores = in_parts(len(asked), lambda first, last: _scores(kernels.measure(*columns, first, last)))
    total = np.concatenate([some.total for some in scores])
    return QualityScores(total, {name: np.concatenate([some.parts[name] for some in scores]) for name in WEIGHTS})


def _scores(measured: npt.NDArray[np.float32]) -> QualityScores:
    parts = _parts(measured)
    total = np.ones(len(measured), np.float32)
    for name, weight in WEIGHTS.items():
        total *= parts[name] ** np.float32(weight)
    return QualityScores(total, parts)


def _parts(measured: npt.NDArray[np.float32]) -> dict[str, Column]:
    from tollgate.gates import quality_kernels as kernels

    def column(index: int) -> Column:
        return measured[:, index]

    def full_from(values: npt.NDArray[np.floating[Any]], least: float, enough: float) -> Column:
        """0 up to ``least``, 1 from ``enough`` on, straight in between."""
        return np.clip((values - least) / (enough - least), 0, 1).astype(np.float32)

    shortest = column(kernels.SHORTEST_ANSWER)
    refused = column(kernels.REFUSED)
    shared = column(kernels.SHARED) / np.maximum(column(kernels.TOPICS), 1)
    judged = (column(kernels.ANSWER_LETTERS) >= _LONG) & (column(kernels.TOPICS) >= 2)
    return {
        "question_length": _length(column(kernels.SHORTEST_QUESTION)),
        "answer_length": np.where(shortest < 0, np.float32(1), _length(shortest)),
        "repetition": np.maximum(0, 1 - np.float32(1.2) * column(kernels.REPEATED)),
        "diversity": full_from(column(kernels.DIVERSITY), 0.1, 0.6),
        "letters": full_from(column(kernels.LETTERS), 0, 0.6),
        "hangul": np.float32(0.2) + np.float32(0.8) * full_from(column(kernels.HANGUL_SHARE), 0, 0.1),
        "ending": np.float32(0.5) + np.float32(0.25) * column(kernels.ENDING),
        "intact": full_from(-column(kernels.BROKEN_SHARE), -0.08, 0),
        "relevance": np.where(judged, np.float32(0.3) + np.float32(0.7) * full_from(shared, 0, 0.1), np.float32(1)),
        "refusal": np.where(
            refused < 0, np.float32(1), np.float32(0.1) + np.float32(0.9) * full_from(refused, 60, 260)
        ),
    }


def _length(letters: Column) -> Column:
    """1 from :data:`_ENOUGH` letters and digits on; below, the square root of the share."""
    return np.sqrt(np.clip(letters, 0, _ENOUGH) / np.float32(_ENOUGH))


@functools.cache
def _tables() -> Tables:
    from tollgate.gates.character_kernels import character_classes
    from tollgate.gates.quality_kernels import Tables

    phrases = ["".join(phrase.lower().split()) for phrase in _lexicon("refusals").splitlines()]
    heads = np.zeros(0x10000, np.uint8)
    heads[[ord(phrase[0]) for phrase in phrases]] = 1
    return Tables(
        classes=character_classes(),
        common=_syllables_in_use(),
        endings=_endings(),
        stems=np.array(
            sorted(ord(stem[0]) << 16 | ord(stem[1]) for stem in _lexicon("question_stems").split()), np.int64
        ),
        heads=heads,
        phrases=np.array([ord(sign) for phrase in phrases for sign in phrase], np.int32),
        bounds=np.cumsum([0, *map(len, phrases)]).astype(np.int64),
    )


def _lexicon(name: str) -> str:
    return (_LEXICON / f"{name}.txt").read_text(encoding="utf-8")


def _syllables_in_use() -> npt.NDArray[np.uint8]:
    """Which Hangul syllables KS X 1001 holds: the 2,350 in use, out of 11,172."""
    common = np.zeros(0x10000, np.uint8)
    for high in range(0xB0, 0xC9):
        for low in range(0xA1, 0xFF):
            common[ord(bytes([high, low]).decode("cp949"))] = 1
    return common


def _endings() -> npt.NDArray[np.uint8]:
    endings = np.full(0x10000, 2, np.uint8)  # emoticons and the like
    for first, last in (("가", "힣"), ("0", "9"), ("A", "Z"), ("a", "z")):
        endings[ord(first) : ord(last) + 1] = 1
    endings[[ord(sign) for sign in _SENTENCE_ENDS]] = 2
    endings[[ord(sign) for sign in _CUT_OFF]] = 0
    return endings
