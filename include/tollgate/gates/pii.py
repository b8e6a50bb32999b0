"""Personal data: finding it in Korean text and masking it, for example ``[주민등록번호]``.

Numbers, addresses and plates are found by format (:mod:`tollgate.gates.pii_patterns`): masked on their format, while a
checksum, a possible date or a word beside them raises the confidence. Names of persons: :mod:`tollgate.gates.names`.

Columns of texts are read as bytes first (:mod:`tollgate.gates.pii_kernels`), so that only texts that may hold something
become Python strings. Masking a masked text changes nothing: a text is searched again until nothing is found.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tollgate.gates import names, pii_patterns
from tollgate.gates.pii_kinds import KINDS, LABELS, NUMBERS, Finding, Findings, Kind

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

__all__ = [
    "KINDS",
    "LABELS",
    "NUMBERS",
    "Finding",
    "Findings",
    "Kind",
    "Masked",
    "MaskedColumn",
    "PersonalDataSettings",
    "check_installed",
    "excerpt",
    "find",
    "find_column",
    "is_structured",
    "mask",
    "mask_column",
]

_EXCERPT = 24
_CHUNK = 50_000
_STRING_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"')
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)", re.DOTALL)

Search = Callable[[list[str]], list[list[Finding]]]


class PersonalDataSettings(BaseModel):
    """What counts as personal data, and what stands in its place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: tuple[Kind, ...] = Field(KINDS, description="Kinds of personal data to look for.")
    allow: tuple[str, ...] = Field(
        (),
        repr=False,
        description="Texts that are no personal data, such as the company's own number; "
        "compared without spaces and dashes.",
    )
    names: Literal["fast", "accurate", "off"] = Field("fast", description="How names of persons are looked for.")
    pseudonyms: bool = Field(
        False, description="Number the labels: within a dialogue, the same value has the same label, such as [이름1]."
    )


@dataclass(frozen=True)
class Masked:
    """A text without what was found in it, and how much of each kind that was."""

    text: str
    counts: dict[Kind, int]


@dataclass(frozen=True, eq=False)
class MaskedColumn:
    """A column of texts without what was found in them, and the findings with positions in the texts given."""

    texts: pa.LargeStringArray
    findings: Findings


def check_installed(settings: PersonalDataSettings) -> None:
    """Check that what the search needs is installed, before any text is read.

    Raises:
        BadInputError: Names are to be found accurately, and the analyser for that isn't installed.
    """
    if "name" in settings.kinds and settings.names == "accurate":
        names.check_accurate()


def find(
    text: str, kinds: Collection[Kind] = KINDS, allow: Collection[str] = (), accurate: bool = False
) -> list[Finding]:
    """Find personal data in a text, from left to right and without overlaps.

    Args:
        text: The text; structured text (a JSON object or array) is searched inside its strings only, and for
            numbers only, so that masking can't change its structure or its labels.
        kinds: What to look for.
        allow: Texts that are no personal data, such as the company's own number; compared without spaces and dashes.
        accurate: Whether names are looked for by the accurate model.

    Returns:
        Findings with positions in ``text``.
    """
    return _settled_text(text, kinds, allow, accurate).findings


def mask(text: str, kinds: Collection[Kind] = KINDS, allow: Collection[str] = (), accurate: bool = False) -> Masked:
    """Replace what :func:`find` finds by labels such as ``[이름]``; masking a masked text changes nothing."""
    settled = _settled_text(text, kinds, allow, accurate)
    return Masked(settled.text, dict(Counter(one.kind for one in settled.findings)))


def find_column(texts: pa.Array | pa.ChunkedArray | list[str], settings: PersonalDataSettings) -> Findings:
    """Find personal data in a column of texts: what :func:`find` finds in each."""
    return mask_column(texts, settings.model_copy(update={"pseudonyms": False})).findings


def mask_column(
    texts: pa.Array | pa.ChunkedArray | list[str],
    settings: PersonalDataSettings,
    findings: Findings | None = None,
    groups: npt.NDArray[np.int64] | None = None,
) -> MaskedColumn:
    """Replace personal data in a column of texts by labels.

    Args:
        texts: The texts; what is nothing becomes the empty text.
        settings: What to look for, and how labels are numbered.
        findings: What :func:`find_column` found in these texts with these settings, if it is known already.
        groups: The dialogue of each text, for pseudonyms that stay the same within it; without, each text is its own.

    Returns:
        The masked texts, and all findings with positions in ``texts``.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from tollgate.gates.text_buffers import text_column

    column = text_column(texts)
    first = _search_column(column, settings) if findings is None else findings
    if not len(first):
        return MaskedColumn(column, first)
    rows, by_row = first.rows(), _by_row(first)
    originals = column.take(pa.array(rows)).to_pylist()
    labels: _Labels = _Labels()
    if settings.pseudonyms:
        labels = _Pseudonyms(rows if groups is None else groups[rows], originals)
    settled = _settle(originals, by_row, _column_search(settings), labels)
    replaced = np.zeros(len(column), np.bool_)
    replaced[rows] = True
    masked = pc.replace_with_mask(
        column, pa.array(replaced), pa.array([one.text for one in settled], pa.large_string())
    )
    pairs = ((int(row), one) for row, text in zip(rows, settled, strict=True) for one in text.findings)
    return MaskedColumn(masked, Findings.of(pairs))


def excerpt(masked: str, kind: Kind) -> str:
    """A few words around the first label of a kind in a masked text, for a report."""
    label = re.search(rf"\[{re.escape(LABELS[kind][1:-1])}[0-9]*\]", masked)
    if label is None:
        return ""
    left, right = max(0, label.start() - _EXCERPT), label.end() + _EXCERPT
    return ("…" if left else "") + masked[left:right].replace("\n", " ") + ("…" if right < len(masked) else "")


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


class _Labels:
    """What stands in the place of a value."""

    def label(self, text: int, kind: Kind, value: str) -> str:
        """The label of a value in the text of that index."""
        return LABELS[kind]


class _Pseudonyms(_Labels):
    """Labels with a number for each value, counted within a group of texts; no number that is there is given again."""

    def __init__(self, groups: npt.NDArray[np.int64], texts: Sequence[str]) -> None:
        self._groups = groups.tolist()
        self._numbers: dict[tuple[int, Kind, str], int] = {}
        self._highest: Counter[tuple[int, str]] = Counter()
        for group, text in zip(self._groups, texts, strict=True):
            for start, end in pii_patterns.labels(text):
                name = text[start + 1 : end - 1].rstrip("0123456789")
                number = int(text[start + 1 + len(name) : end - 1] or 0)
                self._highest[group, name] = max(self._highest[group, name], number)

    def label(self, text: int, kind: Kind, value: str) -> str:
        group, name = self._groups[text], LABELS[kind][1:-1]
        key = (group, kind, _bare(value))
        if key not in self._numbers:
            self._highest[group, name] += 1
            self._numbers[key] = self._highest[group, name]
        return f"[{name}{self._numbers[key]}]"


@dataclass(frozen=True)
class _Settled:
    """A masked text and all that was found in the original, from left to right."""

    text: str
    findings: list[Finding]


class _Masking:
    """A text and what was found in it so far, with the label of each finding."""

    def __init__(self, original: str) -> None:
        self.original = original
        self.found: list[tuple[Finding, str]] = []

    def add(self, new: list[tuple[Finding, str]]) -> str:
        """Take note of findings in the original with their labels; returns the text with all labels."""
        self.found = sorted(self.found + new, key=lambda pair: pair[0].start) if self.found else new
        pieces, position = [], 0
        for one, label in self.found:
            pieces += [self.original[position : one.start], label]
            position = one.end
        return "".join([*pieces, self.original[position:]])

    def in_original(self, new: list[Finding]) -> list[Finding]:
        """Findings in the masked text, which lie beside all labels, with their positions in the original."""
        if not self.found:
            return new
        starts, shifts, shift = [0], [0], 0
        for known, label in self.found:
            shift += known.end - known.start - len(label)
            starts.append(known.end - shift)
            shifts.append(shift)
        moves = [shifts[bisect_right(starts, one.start) - 1] for one in new]
        return [
            Finding(one.kind, one.start + move, one.end + move, one.confidence)
            for one, move in zip(new, moves, strict=True)
        ]


def _settle(texts: Sequence[str], first: Sequence[list[Finding]], search: Search, labels: _Labels) -> list[_Settled]:
    """Mask what was found first, then search the masked texts again until nothing is found in any."""
    maskings = [_Masking(text) for text in texts]
    results = list(texts)
    found: Mapping[int, list[Finding]] = {index: new for index, new in enumerate(first) if new}
    while found:
        for index, new in found.items():
            masking = maskings[index]
            placed = masking.in_original(new)
            results[index] = masking.add(
                [(one, labels.label(index, one.kind, masking.original[one.start : one.end])) for one in placed]
            )
        again = search([results[index] for index in found])
        found = {index: new for index, new in zip(found, again, strict=True) if new}
    return [
        _Settled(result, [one for one, _ in masking.found]) for result, masking in zip(results, maskings, strict=True)
    ]


def _settled_text(text: str, kinds: Collection[Kind], allow: Collection[str], accurate: bool) -> _Settled:
    allowed = _allowed(allow)

    def search(texts: list[str]) -> list[list[Finding]]:
        return [_search(one, kinds, allowed, accurate) for one in texts]

    return _settle([text], search([text]), search, _Labels())[0]


def _search(text: str, kinds: Collection[Kind], allowed: frozenset[str], accurate: bool) -> list[Finding]:
    """Search a text once."""
    structured = is_structured(text)
    found = _numbers(text, pii_patterns.ANY, structured)
    if "name" in kinds and not structured:
        found = _with_names(text, found, [Finding("name", *one) for one in names.find(text, accurate)])
    return _wanted(text, found, kinds, allowed)


def _wanted(text: str, found: list[Finding], kinds: Collection[Kind], allowed: frozenset[str]) -> list[Finding]:
    return [one for one in found if one.kind in kinds and not (allowed and _bare(text[one.start : one.end]) in allowed)]


def _numbers(text: str, may_hold: int, structured: bool) -> list[Finding]:
    """Everything but names in a text, searched once."""
    if not structured:
        return pii_patterns.find(pii_patterns.normalised(text), may_hold)
    plain = pii_patterns.normalised(_ESCAPE.sub(lambda escape: "\0" * len(escape.group()), text))
    literals = [literal.span() for literal in _STRING_LITERAL.finditer(text)]
    return [
        one
        for one in pii_patterns.find(plain, may_hold, with_addresses=False)
        if any(start < one.start and one.end < end for start, end in literals)
    ]


def _with_names(text: str, found: list[Finding], people: list[Finding]) -> list[Finding]:
    """Add names, but none that overlaps a label or another finding, and no surname or letter alone (김 씨, A씨)."""
    labels = pii_patterns.labels(text)
    apart = [
        one
        for one in people
        if one.start + 1 < one.end and not any(one.start < end and start < one.end for start, end in labels)
    ]
    return pii_patterns.without_overlaps(found + apart) if apart else found


def _bare(text: str) -> str:
    return re.sub(r"[\s-]", "", pii_patterns.normalised(text)).lower()


def _allowed(allow: Collection[str]) -> frozenset[str]:
    return frozenset(_bare(one) for one in allow)


def _column_search(settings: PersonalDataSettings) -> Search:
    import pyarrow as pa

    def search(texts: list[str]) -> list[list[Finding]]:
        found: list[list[Finding]] = [[] for _ in texts]
        findings = _search_column(pa.array(texts, pa.large_string()), settings)
        for row, one in zip(findings.rows(), _by_row(findings), strict=True):
            found[row] = one
        return found

    return search


def _by_row(findings: Findings) -> list[list[Finding]]:
    """The findings of each row that has any, in the order of the rows."""
    by_row: dict[int, list[Finding]] = {}
    columns = (findings.row, findings.start, findings.end, findings.kind, findings.confidence)
    for row, start, end, kind, confidence in zip(*(column.tolist() for column in columns), strict=True):
        by_row.setdefault(row, []).append(Finding(KINDS[kind], start, end, round(confidence, 4)))
    return [by_row[row] for row in sorted(by_row)]


def _search_column(column: pa.LargeStringArray, settings: PersonalDataSettings) -> Findings:
    """Search each text of a column once."""
    import pyarrow as pa

    from tollgate.gates.pii_kernels import signals
    from tollgate.gates.text_buffers import buffers

    flags = signals(*buffers(column))
    people = _names(column, settings)
    rows = np.fromiter(people, np.int64, len(people))
    if set(settings.kinds) - {"name"}:
        rows = np.union1d(rows, np.flatnonzero(flags & pii_patterns.ANY))
    allowed = _allowed(settings.allow)
    found: list[tuple[int, Finding]] = []
    for chunk in np.array_split(rows, max(1, -(-len(rows) // _CHUNK))):
        texts = column.take(pa.array(chunk)).to_pylist()
        for row, text, may_hold in zip(chunk.tolist(), texts, flags[chunk].tolist(), strict=True):
            structured = bool(may_hold & pii_patterns.MAYBE_STRUCTURED) and is_structured(text)
            new = _numbers(text, may_hold, structured)
            if row in people and not structured:
                new = _with_names(text, new, people[row])
            found += [(row, one) for one in _wanted(text, new, settings.kinds, allowed)]
    return Findings.of(found)


def _names(column: pa.LargeStringArray, settings: PersonalDataSettings) -> dict[int, list[Finding]]:
    """The names in each text that has any."""
    people: dict[int, list[Finding]] = {}
    if "name" not in settings.kinds or settings.names == "off":
        return people
    found = names.find_column(column, accurate=settings.names == "accurate")
    for row, start, end, confidence in zip(*(one.tolist() for one in found), strict=True):
        people.setdefault(row, []).append(Finding("name", start, end, round(confidence, 4)))
    return people
