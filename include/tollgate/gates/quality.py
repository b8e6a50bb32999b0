"""Quality of a row, 0 to 1, from named parts that are each visible.

Judged is natural language: what the user writes, and the assistant's answers unless they are structured. A structured
answer (JSON that parses) is complete as it is, and says nothing about length, words or sentences. The score is the
weighted geometric mean of the parts: one part at 0 makes the whole 0, however good the others are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

from tollgate.gates.pii import is_structured

WEIGHTS: Final[Mapping[str, float]] = {
    "question_length": 1.5,
    "answer_length": 1.5,
    "repetition": 1.5,
    "letters": 1.0,
    "intact": 1.0,
    "ending": 0.5,
}
"""The parts and how much each counts."""

_QUESTION_CHARACTERS, _ANSWER_CHARACTERS = 8, 8
_FLOOR = 0.5  # an answer that stops in the middle of a sentence is a blemish, no reason to drop the row
_LETTER = re.compile(r"[가-힣A-Za-z0-9]")
_WORD_LETTER = re.compile(r"[가-힣A-Za-z]")  # 10,000 and 2222 repeat a digit and mean it
_LONE_JAMO = re.compile(r"[ㄱ-ㅎㅏ-ㅣ]")
_SPACE = re.compile(r"\s+")
_RUN = re.compile(r"(.{1,12}?)\1{2,}")
_BROKEN = re.compile("[�\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\ue000-\uf8ff]|[ÃÂìëêí][\u0080-\u00bf]")
_END = re.compile(r"(?:[.?!…~。\"'”’)\]」』:;%]|[다요까죠음함임됨니오라자세네군지]|[\d가-힣]{1,3})\s*$")


def score(questions: Sequence[str], answers: Sequence[str]) -> tuple[float, dict[str, float]]:
    """Score a dialogue.

    Args:
        questions: The user's turns.
        answers: The assistant's turns.

    Returns:
        The score (0 to 1, three decimals) and its parts (each 0 to 1), by the names in :data:`WEIGHTS`.
    """
    prose = [answer for answer in answers if not is_structured(answer)]
    text = "\n".join([*questions, *prose])
    parts = {
        "question_length": _length(questions, _QUESTION_CHARACTERS),
        "answer_length": _length(prose, _ANSWER_CHARACTERS) if prose else 1.0,
        "repetition": min(_variety(one) for one in [*questions, *prose]),
        "letters": _letters(text),
        "intact": _intact("\n".join([*questions, *answers])),
        "ending": min((_ending(answer) for answer in prose), default=1.0),
    }
    parts = {name: round(value, 3) for name, value in parts.items()}
    return round(_geometric_mean(parts), 3), parts


def _geometric_mean(parts: Mapping[str, float]) -> float:
    if min(parts.values()) <= 0:
        return 0.0
    total = sum(WEIGHTS[name] * math.log(value) for name, value in parts.items())
    return math.exp(total / sum(WEIGHTS.values()))


def _length(texts: Sequence[str], enough: int) -> float:
    """1 from ``enough`` letters and digits on, in the shortest turn; below, the square root of the share."""
    shortest = min(len(_LETTER.findall(text)) for text in texts)
    return min(1.0, math.sqrt(shortest / enough))


def _variety(text: str) -> float:
    """1 without repetition; falls with the share of the text that repeats what stands right before it, or its lines."""
    bare = _SPACE.sub("", text)
    if not bare:
        return 0.0
    repeated = sum(len(match.group()) - len(match[1]) for match in _RUN.finditer(bare) if _WORD_LETTER.search(match[1]))
    lines = [line.strip() for line in re.split(r"[\n.?!]", text) if len(line.strip()) > 4]
    same_lines = 1 - len(set(lines)) / len(lines) if lines else 0.0
    return max(0.0, 1 - max(repeated / len(bare), same_lines) * 1.2)


def _letters(text: str) -> float:
    """Share of Hangul syllables, Latin letters and digits in what is no space; full from 60 % on."""
    bare = _SPACE.sub("", text)
    share = (len(_LETTER.findall(bare)) - len(_LONE_JAMO.findall(bare)) * 0.5) / max(1, len(bare))
    return min(1.0, max(0.0, share) / 0.6)


def _intact(text: str) -> float:
    """1 without replacement characters, control characters and mojibake; 0 from 5 % of them on."""
    return max(0.0, 1 - len(_BROKEN.findall(text)) / max(1, len(text)) / 0.05)


def _ending(text: str) -> float:
    """1 where an answer ends as a sentence does, 0.5 where it stops in the middle."""
    return 1.0 if _END.search(text.rstrip()) else _FLOOR
