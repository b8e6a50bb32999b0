"""Bank accounts: how each Korean bank writes them, and the words that make a number one.

Layouts (digits per group between dashes): 금융결제원, 참가기관별 CMS 계좌번호체계, and how banks print them. Accounts
have no public check digit, so that a layout alone is a weak sign; a bank's name or a word such as 계좌 makes it sure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tollgate.gates.pii_kinds import Finding

LAYOUTS: dict[str, tuple[str, ...]] = {
    "국민|KB": ("6-2-6", "3-2-4-3", "4-2-6", "4-2-8", "3-4-4", "3-3-6"),
    "신한|조흥": ("3-3-6", "3-2-6", "3-2-8", "3-3-8", "3-8"),
    "우리": ("4-3-6", "3-6-2-3", "3-2-6", "3-2-7", "4-2-6"),
    "하나|외환|KEB": ("3-6-5", "3-6-3", "3-2-5-1", "3-8-3", "3-6-2-3"),
    "기업|IBK": ("3-6-2-3", "3-2-7", "3-2-6-1", "3-8", "8-2"),
    "농협|NH": ("3-4-4-2", "3-4-4-3", "3-2-6", "4-2-6", "6-2-6"),
    "산업|KDB": ("3-2-6", "3-8-3"),
    "수협": ("4-4-4", "3-2-5-1", "3-2-8-1", "3-2-6"),
    "SC제일|제일|SC": ("3-2-6", "3-2-9"),
    "씨티|한미": ("3-5-3-2", "3-6-3", "3-5-3", "2-2-6", "1-6-3", "1-6-3-2"),
    "대구|아이엠|iM": ("3-2-7", "3-2-6-1", "2-11", "3-2-6-3"),
    "부산|BNK": ("3-3-6", "4-3-7", "3-4-4-2", "3-2-7"),
    "경남": ("3-2-7", "3-2-8", "3-4-4-2"),
    "광주": ("3-2-7", "3-3-7", "3-3-6"),
    "전북|JB": ("3-2-7", "3-2-8", "4-2-7"),
    "제주": ("3-2-7", "3-2-6", "2-2-6"),
    "케이|케뱅|K": ("3-3-6", "3-4-5", "4-4-4"),
    "카카오|카뱅": ("4-2-7",),
    "토스": ("4-4-4", "3-4-5"),
    "우체국": ("6-2-6", "3-2-7", "3-9", "3-4-5"),
    "새마을금고|새마을|MG": ("4-4-4-1", "4-2-6-1", "4-3-6-1", "3-2-6-1", "3-2-7"),
    "신협|신용협동조합": ("3-3-7", "3-3-6", "5-2-6", "4-3-6"),
    "저축": ("3-2-2-7", "3-2-6-1", "2-2-6-1", "3-2-8-1"),
    "산림조합": ("3-2-7", "4-2-6"),
}
"""Name of a bank, as a regular expression, and the layouts of its accounts."""

_BANKS = tuple(LAYOUTS)
_KNOWN_LAYOUTS = frozenset(layout for layouts in LAYOUTS.values() for layout in layouts)
_CERTAIN_DIGITS = 11
_VAGUE_LAYOUTS = frozenset({"4-4-4", "3-4-4", "3-8", "8-2", "3-9", "2-11", "2-2-6", "1-6-3"})
"""Layouts that other numbers have too (order numbers, parts, serial numbers): never enough alone."""

NUMBER = re.compile(
    r"(?<![0-9A-Za-z])(?<![0-9][-.,:/])(?:"
    r"[0-9]{10,14}|[0-9]{1,8}(?: ?- ?[0-9*]{1,11}){1,4}|[0-9]{2,6}(?: [0-9]{2,9}){1,3}"
    r")(?![0-9A-Za-z*%])(?![-.,:/][0-9])"
)
"""A number that may be an account."""

_GROUP = re.compile(r"[0-9*]+")
_FULL_NAME = re.compile(
    "|".join(f"(?P<bank{index}>(?:{bank}) ?(?:은행|뱅크|금고))" for index, bank in enumerate(_BANKS))
    + "|(?P<only>우체국|새마을금고|신협|농협|수협|카뱅|케뱅|산림조합|저축은행)",
    re.IGNORECASE,
)
_SHORT_NAME_BEFORE = re.compile(
    "(?<![가-힣A-Za-z])(?:"
    + "|".join(f"(?P<bank{index}>{bank})" for index, bank in enumerate(_BANKS))
    + r")[ :(]{0,2}$",
    re.IGNORECASE,
)
_SHORT_NAME_AFTER = re.compile(
    r"^[ ,/(]{1,2}(?:"
    + "|".join(f"(?P<bank{index}>{bank})" for index, bank in enumerate(_BANKS))
    + r")(?![가-힣A-Za-z])",
    re.IGNORECASE,
)
_WORD = re.compile(r"계좌|입금|송금|이체|통장|예금주|예금|환급받을|account", re.IGNORECASE)
_CONTEXT = tuple(
    {word.lower() for pattern in (*_BANKS, "은행|뱅크|조합", _WORD.pattern) for word in pattern.split("|")} - {"k"}
)
"""What stands beside every account that is more than a layout; looked for first, as it is quick."""

_BEFORE, _AFTER = 25, 15


def find(text: str, numbers: Iterable[re.Match[str]], is_labelled_otherwise: re.Pattern[str]) -> Iterator[Finding]:
    """Find bank accounts.

    Args:
        text: Text in ASCII digits and dashes.
        numbers: Matches of :data:`NUMBER` in it.
        is_labelled_otherwise: Matches before a number that says of itself to be another one ("주문번호 ").

    Yields:
        Numbers of 10 to 14 digits: confidence .97 with a bank's name and one of its layouts, .95 without dashes but
        with as many digits, .85 with a word for accounts beside it, .5 for a layout that few other numbers have.
    """
    for match in numbers:
        groups = _GROUP.findall(match.group())
        if not 10 <= sum(map(len, groups)) <= 14 or _is_date(groups) or _is_mobile(groups):
            continue
        before = text[max(0, match.start() - _BEFORE) : match.start()]
        after = text[match.end() : match.end() + _AFTER]
        confidence = _confidence(match.group(), groups, before, after)
        if confidence and not is_labelled_otherwise.search(before):
            yield Finding("bank_account", match.start(), match.end(), confidence)


def _confidence(number: str, groups: list[str], before: str, after: str) -> float:
    layout = "-".join(str(len(group)) for group in groups)
    is_spaced = " " in number and "-" not in number
    if is_spaced and layout not in _KNOWN_LAYOUTS:
        return 0.0
    beside = f"{before} {after}".lower()
    if any(word in beside for word in _CONTEXT):
        layouts = {one for bank in _banks(before, after) for one in LAYOUTS[bank]}
        if layout in layouts:
            return 0.97
        if len(groups) == 1 and len(groups[0]) in {_digits(one) for one in layouts}:
            return 0.95
        if _FULL_NAME.search(before) or _WORD.search(before) or _WORD.search(after):
            return 0.85
    if "-" not in number or "*" in number or layout in _VAGUE_LAYOUTS or layout not in _KNOWN_LAYOUTS:
        return 0.0
    is_year = len(groups[0]) == 4 and groups[0][:2] in {"19", "20"}
    return 0.5 if sum(map(len, groups)) >= _CERTAIN_DIGITS and not is_year else 0.0


def _digits(layout: str) -> int:
    return sum(map(int, layout.split("-")))


def _banks(before: str, after: str) -> list[str]:
    matches = (
        *_FULL_NAME.finditer(before),
        _SHORT_NAME_BEFORE.search(before),
        *_FULL_NAME.finditer(after),
        _SHORT_NAME_AFTER.search(after),
    )
    found = []
    for match in matches:
        if match is None or match.lastgroup is None:
            continue
        if match.lastgroup == "only":
            found += [bank for bank in _BANKS if match.group() in bank.split("|")]
        else:
            found.append(_BANKS[int(match.lastgroup.removeprefix("bank"))])
    return found


def _is_date(groups: list[str]) -> bool:
    """2024-01-15 and what follows it: an account has no group of four digits before two groups of one or two."""
    return len(groups) > 2 and len(groups[0]) == 4 and len(groups[1]) <= 2 and len(groups[2]) <= 2


def _is_mobile(groups: list[str]) -> bool:
    digits = "".join(groups)
    return len(digits) == 11 and digits[:3] == "010"
