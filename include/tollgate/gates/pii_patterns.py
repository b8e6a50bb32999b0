"""How personal numbers and addresses are written in Korean text, and what makes one certain.

All patterns run on a copy of the text in which full-width characters, dashes and spaces are ASCII, character by
character, so that positions stay the same (:func:`normalised`). Hangul counts as a word character in regular
expressions, so numbers are delimited by what is no digit, never by ``\\b``: a particle attached to a number or an
address ("…co.kr입니다") doesn't hide it.

Every kind takes part, wanted or not, and the surest finding keeps its place: what is a telephone number is no account,
even if only accounts are looked for.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

from tollgate.gates import pii_accounts, pii_addresses, pii_checksums
from tollgate.gates.pii_kinds import KINDS, LABELS, Finding, Kind

LONG_NUMBER, LETTER_NUMBER, DOTTED, EMAIL, PLATE, ADDRESS, BRACKET, MAYBE_STRUCTURED = (1 << bit for bit in range(8))
"""What a text may hold, as bits; :mod:`tollgate.gates.pii_kernels` finds them in a column."""

ANY = LONG_NUMBER | LETTER_NUMBER | DOTTED | EMAIL | PLATE | ADDRESS

_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_DASHES = dict.fromkeys(map(ord, "‐‑‒–—―−﹣ㅡ"), "-")
_SPACES = dict.fromkeys([*map(ord, "\t\u00a0\u202f\u3000"), *range(0x2000, 0x200E)], " ")
_STARS = dict.fromkeys(map(ord, "●○•∗＊"), "*")
_TO_ASCII: dict[int, int | str] = {**_WIDE, **_DASHES, **_SPACES, **_STARS}
_LABEL = re.compile(r"\[(?:" + "|".join(re.escape(label[1:-1]) for label in LABELS.values()) + r")[0-9]*\]")

_START = r"(?<![0-9])(?<![0-9]-)"
_STOP = r"(?![0-9])(?!-[0-9])"
_SURE = 0.85

_OTHER_NUMBER = re.compile(
    r"(?:주문|접수|예약|송장|운송장|등기|승인|관리|사건|상품|모델|제품|시리얼|일련|참조|거래|영수증|문서|티켓|쿠폰|바코드|고객|회원|품목|증권|"
    r"신고|민원|공고|허가|특허|출원|처리|이벤트|물품|재고|단말기|기기|카드사|버전|version)"
    r"(?: ?(?:번호|코드|no\.?))?(?:[은는이가])? ?[:#]? ?$",
    re.IGNORECASE,
)
_RESIDENT = re.compile(
    rf"{_START}(?P<birth>[0-9]{{6}})(?P<gap> {{0,2}}-? {{0,2}})(?P<rest>[0-9][0-9*xX]{{6}}|[*xX]{{7}})"
    r"(?![0-9*])(?!-[0-9])"
)
_CORPORATION = re.compile(r"법인")
_CARD = re.compile(
    rf"{_START}(?:[0-9]{{4}}(?P<gap> ?-? ?)[0-9*xX]{{4}}(?P=gap)[0-9*xX]{{4}}(?P=gap)[0-9*xX]{{4}}"
    rf"|3[47][0-9]{{2}}[ -]?[0-9*xX]{{6}}[ -]?[0-9]{{5}}|3[068][0-9]{{2}}[ -][0-9*xX]{{6}}[ -][0-9]{{4}})(?![*]){_STOP}"
)
_CARD_WORD = re.compile(r"카드|card|비자|마스터|결제", re.IGNORECASE)
_COUNTRY = r"(?:\(?(?:\+|00) ?82\)?[ .-]?\(?0?\)?|\(?82[ .-]\(?0?\)?|\(?0)"
_PHONE = re.compile(
    rf"{_START}(?:"
    rf"{_COUNTRY}1[016789]\)?[ ./-]{{0,3}}(?:[0-9]{{3,4}}|[*xX]{{3,4}}|[0-9]{{2}}[*xX]{{2}})[ ./-]{{0,3}}"
    r"(?:[0-9]{4}|[0-9]{2}[*xX]{2}|[*xX]{4})"
    rf"|{_COUNTRY}(?:2|[3-6][1-5]|70|50[0-9])(?:\) {{0,2}}| ?[-./] ?| )(?:[0-9]{{3,4}}|[*xX]{{3,4}})"
    r"(?: ?[-./] ?| )[0-9]{4}"
    rf"|(?P<bare>0(?:2|[3-6][1-5]|70|50[0-9])[2-9][0-9]{{2,3}}[0-9]{{4}})"
    rf")(?![*]){_STOP}"
)
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63} ?@ ?"
    r"(?:[A-Za-z0-9-]{1,63}\.){1,5}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
_BUSINESS = re.compile(rf"{_START}(?:[0-9]{{3}}(?P<gap> ?- ?| )[0-9]{{2}}(?P=gap)[0-9]{{5}}|[0-9]{{10}}){_STOP}")
_BUSINESS_WORD = re.compile(r"사업자|사업장")
_PASSPORT = re.compile(
    r"(?<![A-Za-z0-9])(?P<letter>[MSRODGmsrodg])(?P<gap>[ -]?)(?P<digits>[0-9]{8}|[0-9]{3}[A-Za-z][0-9]{4})"
    r"(?![A-Za-z0-9*%])(?!-[0-9])"
)
_PASSPORT_WORD = re.compile(r"여권|passport", re.IGNORECASE)
_PLACES = "서울|부산|대구|인천|광주|대전|울산|세종|경기|강원|충북|충남|전북|전남|경북|경남|제주"
_LICENCE = re.compile(
    rf"{_START}(?:(?P<code>1[1-9]|2[0-8])(?P<gap> ?- ?| )[0-9]{{2}}(?P=gap)[0-9*xX]{{6}}(?P=gap)[0-9*xX]{{2}}"
    rf"|(?P<bare>(?:1[1-9]|2[0-8])[0-9]{{10}})){_STOP}"
    rf"|(?P<place>{_PLACES})[ -]{{0,2}}[0-9]{{2}} ?- ?[0-9]{{6}} ?- ?[0-9]{{2}}{_STOP}"
)
_LICENCE_WORD = re.compile(r"면허")
PLATE_USES = "가나다라마거너더러머버서어저고노도로모보소오조구누두루무부수우주바사아자허하호배"
"""What a vehicle is used for: the syllable of its plate (자동차 등록번호판 등의 기준에 관한 고시)."""

_PLATE = re.compile(
    rf"(?:(?P<region>{_PLACES})(?:시)? ?[0-9]{{1,3}}|(?<![0-9])(?<![0-9][.,:/-])(?<!제)(?<!제 )[0-9]{{2,3}})"
    rf"(?P<inner> ?)[{PLATE_USES}](?P<outer> ?)(?P<serial>[0-9]{{4}})"
    r"(?![0-9A-Za-z㎡%]|[-.,:/][0-9]|원|만|억|천|조|명|개|년|월|회|평|톤|시|분|대의| ?(?:km|킬로|미터|만 ?원|억))"
)
_CAR_WORD = re.compile(r"차|번호판|승용|트럭|버스|택시|렌터|운전|주차|번판")
_CASE_WORD = re.compile(r"판결|결정|선고|대법원|사건|법원")
_IPV4 = re.compile(r"(?<![0-9.])(?<![0-9.][-,])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9]|\.[0-9])")
_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![0-9A-Za-z:])")
_IP_WORD = re.compile(r"IP|아이피|주소|서버|접속|ping|host|호스트", re.IGNORECASE)
_VERSION = re.compile(r"(?:버전|버젼|version|ver\.?|펌웨어|제|v) ?$", re.IGNORECASE)
_LEFT, _RIGHT = 20, 12


def normalised(text: str) -> str:
    """The text with ASCII digits, punctuation and spaces, and with its labels blanked; as long as the text."""
    plain = text.translate(_TO_ASCII)
    return _LABEL.sub(lambda label: "\0" * len(label.group()), plain) if "[" in plain else plain


def labels(text: str) -> list[tuple[int, int]]:
    """Where a masked text holds labels, as (start, end)."""
    return [label.span() for label in _LABEL.finditer(text)] if "[" in text else []


def find(plain: str, may_hold: int = ANY, with_addresses: bool = True) -> list[Finding]:
    """Find everything but names, from left to right and without overlaps.

    Args:
        plain: A text from :func:`normalised`.
        may_hold: What the text may hold, as bits; a finder whose bit isn't set isn't run.
        with_addresses: Whether to look for postal addresses.

    Returns:
        Findings with positions in ``plain``.
    """
    found: list[Finding] = []
    for bit, finders in _FINDERS:
        if bit & may_hold:
            for finder in finders:
                found += finder(plain)
    if with_addresses and ADDRESS & may_hold:
        found += pii_addresses.find(plain)
    return without_overlaps(found) if len(found) > 1 else found


def without_overlaps(found: list[Finding]) -> list[Finding]:
    """Of findings that overlap the surest, then the longest; from left to right. Names yield to everything else."""
    kept: list[Finding] = []
    for one in sorted(found, key=_rank):
        if not any(one.start < other.end and other.start < one.end for other in kept):
            kept.append(one)
    return sorted(kept, key=lambda one: one.start)


def _rank(one: Finding) -> tuple[bool, float, int, int]:
    return one.kind == "name", -one.confidence, one.start - one.end, KINDS.index(one.kind)


def _before(text: str, match: re.Match[str], width: int = _LEFT) -> str:
    return text[max(0, match.start() - width) : match.start()]


def _has_beside(word: re.Pattern[str], text: str, match: re.Match[str]) -> bool:
    """Whether a word stands shortly before or after a match."""
    return bool(word.search(_before(text, match)) or word.search(text[match.end() : match.end() + _RIGHT]))


def _is_labelled_otherwise(text: str, match: re.Match[str]) -> bool:
    return bool(_OTHER_NUMBER.search(_before(text, match)))


def _resident_numbers(text: str) -> Iterator[Finding]:
    for match in _RESIDENT.finditer(text):
        birth, rest = match["birth"], match["rest"]
        century = rest[0] if rest[0].isdigit() else "1"
        dated = pii_checksums.is_birthday(birth, century) or pii_checksums.is_birthday(birth, "3")
        kind, is_right = _registration(birth + rest, dated, bool(_CORPORATION.search(_before(text, match))))
        is_dashed = "-" in match["gap"]
        if kind == "corporate_number":
            if not is_right and (not is_dashed or not _CORPORATION.search(_before(text, match))):
                continue
            yield Finding(kind, match.start(), match.end(), 0.98 if is_right else 0.9)
            continue
        if not dated and (not is_dashed or not rest[0].isdigit()):
            continue  # thirteen digits alone may be any number: only a possible date makes them personal
        if not is_dashed and not is_right and _is_labelled_otherwise(text, match):
            continue
        yield Finding(kind, match.start(), match.end(), round(0.86 + 0.08 * dated + 0.05 * is_right, 2))


def _registration(number: str, dated: bool, is_corporation: bool) -> tuple[Kind, bool]:
    """Which kind of registration thirteen digits are, and whether the check digit is right."""
    if not number.isdigit():
        return ("foreigner_number" if number[6] in "5678" else "resident_number"), False
    if is_corporation or number[6] in "90" or (not dated and pii_checksums.corporate(number)):
        return "corporate_number", pii_checksums.corporate(number)
    if number[6] in "5678":
        return "foreigner_number", pii_checksums.foreigner(number) or pii_checksums.resident(number)
    return "resident_number", pii_checksums.resident(number)


def _cards(text: str) -> Iterator[Finding]:
    for match in _CARD.finditer(text):
        number = match.group()
        digits = sum(one.isdigit() for one in number)
        is_right = number[-1].isdigit() and digits >= 14 and pii_checksums.luhn(number)
        if digits < 8 or (not is_right and number[:2] in {"19", "20"} and "-" not in number):
            continue
        has_word = _has_beside(_CARD_WORD, text, match)
        if not has_word and _is_labelled_otherwise(text, match):
            continue
        is_grouped = not number.isdigit()
        if is_right and (has_word or is_grouped or number[0] in "23456"):
            yield Finding("card", match.start(), match.end(), 0.95)
        elif has_word or is_grouped:
            yield Finding("card", match.start(), match.end(), 0.9 if has_word else 0.7)


def _phones(text: str) -> Iterator[Finding]:
    for match in _PHONE.finditer(text):
        if not match["bare"]:
            yield Finding("phone", match.start(), match.end(), 0.9)
        elif not _is_labelled_otherwise(text, match):
            yield Finding("phone", match.start(), match.end(), 0.7)


def _emails(text: str) -> Iterator[Finding]:
    for match in _EMAIL.finditer(text):
        yield Finding("email", match.start(), match.end(), 0.95)


def _accounts(text: str) -> Iterator[Finding]:
    return pii_accounts.find(text, _OTHER_NUMBER)


def _business_numbers(text: str) -> Iterator[Finding]:
    for match in _BUSINESS.finditer(text):
        digits = re.sub(r"[^0-9]", "", match.group())
        is_right = pii_checksums.business(digits)
        has_word = _has_beside(_BUSINESS_WORD, text, match)
        is_dashed = "-" in match.group()
        if has_word:
            yield Finding("business_number", match.start(), match.end(), 0.98 if is_right else 0.92)
        elif is_dashed and not _is_labelled_otherwise(text, match):
            yield Finding("business_number", match.start(), match.end(), 0.9 if is_right else 0.6)


def _passports(text: str) -> Iterator[Finding]:
    for match in _PASSPORT.finditer(text):
        digits = match["digits"]
        if _has_beside(_PASSPORT_WORD, text, match):
            yield Finding("passport", match.start(), match.end(), 0.97)
            continue
        is_day = digits.isdigit() and pii_checksums.is_date(int(digits[:4]) or 1, int(digits[4:6]), int(digits[6:]))
        if match["letter"] == "M" and not match["gap"] and not is_day and not _is_labelled_otherwise(text, match):
            yield Finding("passport", match.start(), match.end(), 0.7)


def _licences(text: str) -> Iterator[Finding]:
    for match in _LICENCE.finditer(text):
        has_word = _has_beside(_LICENCE_WORD, text, match)
        if match["bare"] and not has_word:
            continue
        if match["gap"] == " " and not has_word:
            continue
        yield Finding("driver_licence", match.start(), match.end(), 0.97 if has_word else 0.8)


def _plates(text: str) -> Iterator[Finding]:
    for match in _PLATE.finditer(text):
        if match["region"] or _has_beside(_CAR_WORD, text, match):
            yield Finding("vehicle_plate", match.start(), match.end(), 0.95)
            continue
        is_year = match["serial"][:2] in {"19", "20"} and bool(match["outer"])
        if is_year or match["inner"] or _has_beside(_CASE_WORD, text, match):
            continue
        yield Finding("vehicle_plate", match.start(), match.end(), 0.8)


def _ip_addresses(text: str) -> Iterator[Finding]:
    for match in _IPV4.finditer(text):
        parts = match.group().split(".")
        if any(int(part) > 255 for part in parts) or _VERSION.search(_before(text, match)):
            continue
        has_word = _has_beside(_IP_WORD, text, match)
        if has_word or max(map(len, parts)) > 1:  # 4.1.2.3 is a heading
            yield Finding("ip_address", match.start(), match.end(), 0.95 if has_word else 0.8)
    for match in _IPV6.finditer(text):
        if _is_ipv6(match.group()):
            yield Finding("ip_address", match.start(), match.end(), 0.95)


def _is_ipv6(number: str) -> bool:
    try:
        ipaddress.IPv6Address(number)
    except ValueError:
        return False
    groups = [group for group in number.split(":") if group]
    has_digit = any(one.isdigit() for one in number)
    return has_digit and (len(groups) > 2 or any(len(group) == 4 for group in groups))


_FINDERS: tuple[tuple[int, tuple[Callable[[str], Iterator[Finding]], ...]], ...] = (
    (LONG_NUMBER, (_resident_numbers, _cards, _phones, _accounts, _business_numbers, _licences)),
    (LETTER_NUMBER, (_passports,)),
    (DOTTED, (_ip_addresses,)),
    (EMAIL, (_emails,)),
    (PLATE, (_plates,)),
)
