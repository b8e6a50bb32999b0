"""Scorers for answers that are a number or one of some choices."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal

from tollgate.evaluation.scorers import Score, normalised, scorer

_SMALL = {"십": 10, "백": 100, "천": 1_000}
_LARGE = {"만": 10**4, "억": 10**8, "조": 10**12}
_PIECE = re.compile(
    r"(\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*([십백천]?)\s*([만억조]?)", re.IGNORECASE
)
_SIGN = re.compile(r"(?<![\w)])[-−]\s*$")


@scorer("numeric")
def numeric(
    answer: str,
    expected: str,
    *,
    tolerance: float = 0.0,
    relative: float = 0.0,
    which: Literal["only", "first", "last"] = "only",
) -> Score:
    """Right when the answer's number is the right one, give or take the larger of the two tolerances.

    Numbers may be written 12,000 or 1.2e4 or with Korean units (1만 2천, 3억 5,000만).

    Args:
        answer: The answer.
        expected: Text that holds one number.
        tolerance: Largest distance, in the number's own unit.
        relative: Largest distance as a share of the right number.
        which: Which number of an answer counts. ``only``: an answer with two different numbers is wrong.
    """
    wanted = list(numbers_in(expected))
    said = list(numbers_in(answer))
    if len(wanted) != 1:
        raise ValueError(f"the right answer must hold one number, not {len(wanted)}")
    if not said or (which == "only" and len(set(said)) > 1):
        return Score(correct=False)
    number = said[-1] if which == "last" else said[0]
    allowed = max(tolerance, relative * abs(wanted[0]))
    return Score(correct=abs(number - wanted[0]) <= allowed)


def numbers_in(text: str) -> Iterator[float]:
    """The numbers that a text holds, as written; parts with falling Korean units are one number."""
    flat = unicodedata.normalize("NFKC", text)
    total, smallest, end, sign = 0.0, 0.0, -1, 1
    for piece in _PIECE.finditer(flat):
        digits, small, large = piece.groups()
        unit = _SMALL.get(small, 1) * _LARGE.get(large, 1)
        if end >= 0 and (flat[end : piece.start()].strip() or unit >= smallest):
            yield sign * total
            total = 0.0
        if not total:
            sign = -1 if _SIGN.search(flat[: piece.start()]) else 1
        total += float(digits.replace(",", "")) * unit
        smallest, end = unit, piece.end()
    if end >= 0:
        yield sign * total


@scorer("choice")
def choice(answer: str, expected: str, *, choices: Sequence[str] = ()) -> Score:
    """Right when the answer names the right choice and no other one.

    A choice counts as named where it does not begin within a word; a longer choice hides a shorter one inside it.

    Args:
        answer: The answer.
        expected: One of the choices.
        choices: All of them; without any, the answer must be the right one but for its form.
    """
    wanted, rest = normalised(expected), normalised(answer)
    if not choices:
        return Score(correct=rest.strip(" .\"'()") == wanted)
    named = set()
    for option in sorted({normalised(one) for one in choices}, key=len, reverse=True):
        pattern = rf"(?<!\w){re.escape(option)}" + (r"(?![a-z0-9])" if option[-1:].isascii() else "")
        rest, found = re.subn(pattern, "\0", rest)
        if found:
            named.add(option)
    return Score(correct=named == {wanted})
