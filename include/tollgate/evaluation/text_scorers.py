"""Scorers for free text: how much of the right answer an answer shares.

Both are graded: an answer is right from ``minimum`` on. They count common pieces, not meaning; choose the threshold on
answers that people have judged.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TYPE_CHECKING, Literal

from tollgate.evaluation.scorers import Score, normalised, scorer

if TYPE_CHECKING:
    from sacrebleu.metrics.chrf import CHRF

Unit = Literal["word", "character"]


@scorer("rouge_l")
def rouge_l(answer: str, expected: str, *, unit: Unit = "word", minimum: float = 0.5) -> Score:
    """ROUGE-L: the F1 of the longest common subsequence (Lin 2004, with beta = 1).

    With ``a`` and ``e`` the numbers of units and ``l`` the length of the longest common subsequence it is
    ``2 l / (a + e)``. The subsequence is rapidfuzz's ``LCSseq``.

    Args:
        answer: The answer.
        expected: The right answer.
        unit: ``word``: what stands between spaces (eojeol), punctuation at its ends taken off; a Korean word with
            another particle is another word. ``character``: the characters without spaces, which forgives particles.
        minimum: The value from which an answer is right, in [0, 1].
    """
    from rapidfuzz.distance import LCSseq

    said, wanted = _units(answer, unit), _units(expected, unit)
    total = len(said) + len(wanted)
    value = 2 * int(LCSseq.similarity(said, wanted)) / total if total else 0.0
    return Score(correct=bool(said) and value >= minimum, value=value)


@scorer("chrf")
def chrf(answer: str, expected: str, *, words: int = 0, minimum: float = 0.5) -> Score:
    """chrF of sacrebleu (Popović 2015): F2 of character n-grams, n from 1 to 6, spaces left out, in [0, 1].

    Args:
        answer: The answer.
        expected: The right answer.
        words: 0: chrF; 2: chrF++, which counts words and pairs of words (by spaces and punctuation) too.
        minimum: The value from which an answer is right, in [0, 1].
    """
    value = _chrf(words).sentence_score(normalised(answer), [normalised(expected)]).score / 100
    return Score(correct=bool(answer.strip()) and value >= minimum, value=min(1.0, value))


@cache
def _chrf(words: int) -> CHRF:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(word_order=words)


def _units(text: str, unit: Unit) -> list[str]:
    words = [_bare(word) for word in normalised(text).split()]
    return [word for word in words if word] if unit == "word" else list("".join(words))


def _bare(word: str) -> str:
    """A word without the punctuation at its ends."""
    start, end = 0, len(word)
    while start < end and _is_punctuation(word[start]):
        start += 1
    while end > start and _is_punctuation(word[end - 1]):
        end -= 1
    return word[start:end]


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"
