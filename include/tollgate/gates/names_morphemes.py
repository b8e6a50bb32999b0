"""What the morphological analyser kiwipiepy says of characters, as numbers of features for the accurate mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from tollgate.gates.names_kernels import BITS

if TYPE_CHECKING:
    import numpy.typing as npt

FEATURES = 11
"""Features of a character."""

_NUMBERS = (1 << BITS) - 1
_CONTENT = frozenset("NVXM")  # first letters of the tags of nouns, verbs, roots and adverbs
_LONGEST = 5


@cache
def _analyser() -> Any:
    from kiwipiepy import Kiwi

    return Kiwi(num_workers=1)


def features(texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    """Analyse texts.

    Args:
        texts: Texts.

    Returns:
        Where the characters of each text begin (one more than there are texts), and the numbers of the features of
        each character, shape (characters, FEATURES); those of characters in no morpheme are 0.
    """
    starts = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    numbers = np.zeros((int(starts[-1]), FEATURES), np.uint32)
    for start, text, tokens in zip(starts.tolist(), texts, _analyser().tokenize(iter(texts)), strict=False):
        for place, row in _text_features(text, tokens):
            numbers[start + place] = row
    return starts, numbers


def _text_features(text: str, tokens: Sequence[Any]) -> Iterator[tuple[int, list[int]]]:
    """Features of each character in a morpheme: its form and tag, and those before and after it."""
    contents = _next_contents(tokens)
    form_before = tag_before = content_before = "^"
    for index, token in enumerate(tokens):
        rest = tokens[index + 1 : index + 3]
        tag_after, form_after = (rest[0].tag, rest[0].form) if rest else ("$", "$")
        joined = bool(rest) and rest[0].start == token.start + token.len
        second = rest[1].tag if len(rest) > 1 else "$"
        end = min(token.start + token.len, len(text))
        for place in range(token.start, end):
            part = _part(place - token.start, token.len)
            values = (
                (part, token.tag, min(token.len, _LONGEST)),
                (part, token.tag, tag_after, form_after, joined),
                (part, token.tag, tag_before, form_before),
                (part, token.form, token.tag),
                (part, tag_before, token.tag, tag_after),
                (part, token.tag, contents[index]),
                (part, token.tag, content_before),
                (part, token.tag, tag_after, second, joined),
                (part, form_before, token.tag, form_after),
                (form_after, contents[index], token.tag),
                (tag_before, token.tag, token.len, tag_after, part),
            )
            yield place, [_number(template, *value) for template, value in enumerate(values, 1)]
        form_before, tag_before = token.form, token.tag
        if token.tag[0] in _CONTENT:
            content_before = token.form


def _next_contents(tokens: Sequence[Any]) -> list[str]:
    """The form of the next noun, verb, root or adverb after each token."""
    forms, last = [], "$"
    for token in reversed(tokens):
        forms.append(last)
        if token.tag[0] in _CONTENT:
            last = token.form
    return forms[::-1]


def _part(place: int, length: int) -> str:
    if length == 1:
        return "S"
    return "B" if place == 0 else "E" if place == length - 1 else "I"


def _number(*value: object) -> int:
    return crc32("\1".join(map(str, value)).encode()) & _NUMBERS
