"""Personal data: finding it in Korean text and masking it, for example ``[주민등록번호]``.

Found: resident and foreigner registration numbers, telephone numbers, e-mail addresses, card numbers, and names of
persons. Numbers are masked on their format; a checksum or a possible date only raises the confidence. Matching runs
on a copy of the text in which full-width characters, dashes and spaces are ASCII, character by character, so that
positions stay the same. Hangul counts as a word character in regular expressions, so numbers are delimited by what is
no digit, never by ``\\b``: a particle attached to a number or an address ("…co.kr입니다") doesn't hide it.

Names are found by rules alone, tuned for precision: see :mod:`tollgate.gates.names`.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from tollgate.gates import names

Kind = Literal["resident_number", "card", "phone", "email", "name"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LABELS: dict[Kind, str] = {
    "resident_number": "[주민등록번호]",
    "card": "[카드번호]",
    "phone": "[전화번호]",
    "email": "[이메일]",
    "name": "[이름]",
}
NUMBERS: tuple[Kind, ...] = ("resident_number", "card", "phone", "email")
"""The kinds that are no matter of language, and so are looked for in structured text too."""

_EXCERPT = 24

_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_DASHES = dict.fromkeys(map(ord, "‐‑‒–—―−﹣ㅡ"), "-")
_SPACES = dict.fromkeys(map(ord, "\u00a0\u2002\u2003\u2007\u2009\u202f\u3000\t"), " ")
_TO_ASCII: dict[int, int | str] = {**_WIDE, **_DASHES, **_SPACES}

_RESIDENT = re.compile(
    r"(?<!\d)(?<!\d-)(?P<birth>\d{6})(?P<gap> {0,2}-? {0,2})(?P<rest>[1-8](?:\d{6}|[*xX●○]{6}))(?!\d)(?!-\d)"
)
_CARD = re.compile(
    r"(?<!\d)(?<!\d-)"
    r"(?:\d{4}(?P<gap> ?-? ?)\d{4}(?P=gap)\d{4}(?P=gap)\d{4}|3[47]\d{2}[ -]?\d{6}[ -]?\d{5})"
    r"(?!\d)(?!-\d)"
)
_PHONE = re.compile(
    r"(?<!\d)(?<!\d-)(?:"
    r"(?:\+ ?82[ -]?\(?0?\)?|\(?0)1[016789]\)?[ .-]{0,3}\d{3,4}[ .-]{0,3}\d{4}"
    r"|(?:\+ ?82[ -]?\(?0?\)?|\(?0)(?:2|[3-6][1-5]|70|50\d)(?:\) {0,2}| ?[-.] ?| )\d{3,4}(?: ?[-.] ?| )\d{4}"
    r")(?!\d)(?!-\d)"
)
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63} ?@ ?"
    r"(?:[A-Za-z0-9-]{1,63}\.){1,5}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
_STRING_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True)
class Finding:
    """One piece of personal data: where in the text, of which kind, and how sure (0 to 1)."""

    kind: Kind
    start: int
    end: int
    confidence: float


@dataclass(frozen=True)
class Masked:
    """A text without what was found in it, and how much of each kind that was."""

    text: str
    counts: dict[Kind, int]


def find(text: str, kinds: Collection[Kind] = KINDS, allow: Collection[str] = ()) -> list[Finding]:
    """Find personal data in a text, from left to right and without overlaps.

    Args:
        text: The text; structured text (a JSON object or array) is searched inside its strings only, and for
            numbers and addresses only, so that masking can't change its structure or its labels.
        kinds: What to look for.
        allow: Texts that are no personal data, such as the company's own number; compared without spaces and dashes.

    Returns:
        Findings with positions in ``text``.
    """
    if not is_structured(text):
        return _find(text, kinds, allow)
    wanted = [kind for kind in kinds if kind in NUMBERS]
    found = []
    for literal in _STRING_LITERAL.finditer(text):
        inside = literal.group()[1:-1]
        offset = literal.start() + 1
        found += [
            Finding(one.kind, one.start + offset, one.end + offset, one.confidence)
            for one in _find(inside, wanted, allow)
        ]
    return found


def is_structured(text: str) -> bool:
    """Whether a text is a JSON object or array."""
    stripped = text.strip()
    if not stripped or stripped[0] not in "{[":
        return False
    import orjson

    try:
        orjson.loads(stripped)
    except orjson.JSONDecodeError:
        return False
    return True


def mask(text: str, kinds: Collection[Kind] = KINDS, allow: Collection[str] = ()) -> Masked:
    """Replace personal data by labels such as ``[이름]``.

    Masking a masked text changes nothing: the text is searched again until nothing is found.
    """
    counts: dict[Kind, int] = {}
    while found := find(text, kinds, allow):
        pieces, position = [], 0
        for one in found:
            pieces += [text[position : one.start], LABELS[one.kind]]
            position = one.end
            counts[one.kind] = counts.get(one.kind, 0) + 1
        text = "".join([*pieces, text[position:]])
    return Masked(text, counts)


def excerpt(masked: str, kind: Kind) -> str:
    """A few words around the first label of a kind in a masked text, for a report."""
    label = LABELS[kind]
    start = masked.find(label)
    if start < 0:
        return ""
    left, right = max(0, start - _EXCERPT), start + len(label) + _EXCERPT
    return ("…" if left else "") + masked[left:right].replace("\n", " ") + ("…" if right < len(masked) else "")


def _find(text: str, kinds: Collection[Kind], allow: Collection[str]) -> list[Finding]:
    plain = text.translate(_TO_ASCII)
    allowed = {_bare(one) for one in allow}
    found: list[Finding] = []
    for kind in KINDS:  # in order of how specific a format is: an earlier kind keeps what it has
        if kind not in kinds:
            continue
        for one in _FINDERS[kind](plain):
            overlaps = any(one.start < other.end and other.start < one.end for other in found)
            if not overlaps and _bare(plain[one.start : one.end]) not in allowed:
                found.append(one)
    return sorted(found, key=lambda one: one.start)


def _bare(text: str) -> str:
    return text.translate(_TO_ASCII).replace(" ", "").replace("-", "").lower()


def _resident_numbers(text: str) -> Iterable[Finding]:
    for match in _RESIDENT.finditer(text):
        birth, rest = match["birth"], match["rest"]
        dated = _is_birthday(birth, rest[0])
        if "-" not in match["gap"] and not dated:
            continue  # thirteen digits alone may be any number: only a possible date makes them personal
        confidence = 0.8 + 0.1 * dated + 0.09 * _resident_checksum(birth + rest)
        yield Finding("resident_number", match.start(), match.end(), round(confidence, 2))


def _is_birthday(birth: str, century: str) -> bool:
    year = (2000 if century in "3478" else 1900) + int(birth[:2])
    try:
        dt.date(year, int(birth[2:4]), int(birth[4:]))
    except ValueError:
        return False
    return True


def _resident_checksum(digits: str) -> bool:
    """Whether the last digit fits: weights 2-9, 2-5, modulo 11 (numbers given since October 2020 carry none)."""
    if not digits.isdigit():
        return False
    total = sum(
        int(digit) * weight for digit, weight in zip(digits, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), strict=False)
    )
    return (11 - total % 11) % 10 == int(digits[-1])


def _cards(text: str) -> Iterable[Finding]:
    for match in _CARD.finditer(text):
        confidence = 0.95 if _luhn(match.group()) else 0.7
        yield Finding("card", match.start(), match.end(), confidence)


def _luhn(number: str) -> bool:
    """Luhn's checksum (ISO/IEC 7812-1) over the digits of a number."""
    digits = [int(digit) for digit in number if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _phones(text: str) -> Iterable[Finding]:
    for match in _PHONE.finditer(text):
        yield Finding("phone", match.start(), match.end(), 0.9)


def _emails(text: str) -> Iterable[Finding]:
    for match in _EMAIL.finditer(text):
        yield Finding("email", match.start(), match.end(), 0.95)


def _names(text: str) -> Iterable[Finding]:
    for start, end, confidence in names.find(text):
        yield Finding("name", start, end, confidence)


_FINDERS: dict[Kind, Callable[[str], Iterable[Finding]]] = {
    "resident_number": _resident_numbers,
    "card": _cards,
    "phone": _phones,
    "email": _emails,
    "name": _names,
}
