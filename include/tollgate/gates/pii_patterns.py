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
from collections.abc import Callable, Iterator, Sequence

from tollgate.gates import pii_accounts, pii_addresses, pii_checksums
from tollgate.gates.pii_kinds import KINDS, LABELS, Finding, Kind

LONG_NUMBER, LETTER_NUMBER, DOTTED, EMAIL, PLATE, ADDRESS, BRACKET, MAYBE_STRUCTURED = (1 << bit for bit in range(8))
"""What a text may hold, as bits; :mod:`tollgate.gates.pii_kernels` finds them in a column."""

ANY = LONG_NUMBER | LETTER_NUMBER | DOTTED | EMAIL | PLATE | ADDRESS

_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_DASHES = dict.fromkeys(map(ord, "‐‑‒–—―−﹣ㅡ"), "-")
_DOTS = dict.fromkeys(map(ord, "・ㆍ∙"), "·")
_SPACES = dict.fromkeys([*map(ord, "\t\u00a0\u202f\u3000"), *range(0x2000, 0x200E)], " ")
_STARS = dict.fromkeys(map(ord, "●○•∗＊"), "*")
_TO_ASCII: dict[int, int | str] = {**_WIDE, **_DASHES, **_SPACES, **_STARS, **_DOTS}
_LABEL = re.compile(r"\[(?:" + "|".join(re.escape(label[1:-1]) for label in LABELS.values()) + r")[0-9]*\]")

_FOREIGN = re.compile("[" + "".join(map(chr, sorted(_TO_ASCII))) + "]")
_STARTS = re.compile(r"[0-9(+](?:(?<=[0-9])[0-9]+)?")
_START = r"(?<![0-9])(?<![0-9]-)"
_STOP = r"(?![0-9])(?!-[0-9])"

_OTHER_NUMBER = re.compile(
    r"(?:주문|접수|예약|송장|운송장|등기|승인|관리|사건|상품|모델|제품|시리얼|일련|참조|거래|영수증|문서|티켓|쿠폰|바코드|고객|회원|품목|"
    r"증권|신고|민원|공고|허가|특허|출원|처리|이벤트|물품|재고|단말기|기기|버전|version|ISBN)"
    r"(?: ?(?:번호|코드|no\.?))?(?:[은는이가])? ?[:#]? ?$",
    re.IGNORECASE,
)
_RESIDENT = re.compile(
    rf"{_START}(?P<birth>[0-9]{{6}})(?P<gap> {{0,2}}[-/_]? {{0,2}})(?P<rest>[0-9][0-9*xX]{{6}}|[*xX]{{7}})"
    r"(?![0-9*])(?!-[0-9])"
)
_RESIDENT_WORD = re.compile(r"주민|외국인|거소|생년")
_CORPORATION = re.compile(r"법인")
_CARD = re.compile(
    rf"{_START}(?:[0-9]{{4}}(?P<gap> ?-? ?)[0-9*xX]{{4}}(?P=gap)[0-9*xX]{{4}}(?P=gap)[0-9*xX]{{4}}"
    rf"|3[47][0-9]{{2}}[ -]?[0-9*xX]{{6}}[ -]?[0-9]{{5}}|3[068][0-9]{{2}}[ -][0-9*xX]{{6}}[ -][0-9]{{4}})(?![*]){_STOP}"
)
_CARD_WORD = re.compile(r"카드|card|비자|마스터|결제", re.IGNORECASE)
_COUNTRY = r"(?:\(?(?:\+|00) ?82\)?[ .-]?\(?0?\)?|\(?82[ .-]\(?0?\)?|\(?0)"
_PHONE = re.compile(
    rf"{_START}(?:"
    rf"{_COUNTRY}1[016789]\)?[ ./_·-]{{0,3}}(?:[0-9]{{3,4}}|[*xX]{{3,4}}|[0-9]{{2}}[*xX]{{2}})[ ./_·-]{{0,3}}"
    r"(?:[0-9]{4}|[0-9]{2}[*xX]{2}|[*xX]{4})"
    rf"|{_COUNTRY}(?:2|[3-6][1-5]|70|50[0-9])(?:\) {{0,2}}| ?[-./] ?| )(?:[0-9]{{3,4}}|[*xX]{{3,4}})"
    r"(?: ?[-./] ?| )[0-9]{4}"
    rf"|(?P<bare>0(?:2|[3-6][1-5]|70|50[0-9])[2-9][0-9]{{2,3}}[0-9]{{4}})"
    rf")(?![*]){_STOP}"
)
_EMAIL = re.compile(
    r"[A-Za-z0-9](?<![A-Za-z0-9._%+-].)[A-Za-z0-9._%+-]{0,63} ?@ ?"
    r"(?:[A-Za-z0-9-]{1,63}\.){1,5}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
_BUSINESS = re.compile(rf"{_START}(?:[0-9]{{3}}(?P<gap> ?- ?| )[0-9]{{2}}(?P=gap)[0-9]{{5}}|[0-9]{{10}}){_STOP}")
_BUSINESS_WORD = re.compile(r"사업자|사업장")
_PASSPORT = re.compile(
    r"(?P<letter>[MSRODGmsrodg])(?<![A-Za-z0-9].)(?P<gap>[ -]?)(?P<digits>[0-9]{8}|[0-9]{3}[A-Za-z][0-9]{4})"
    r"(?![A-Za-z0-9*%])(?!-[0-9])"
)
_PASSPORT_WORD = re.compile(r"여권|passport", re.IGNORECASE)
_PLACES = "서울|부산|대구|인천|광주|대전|울산|세종|경기|강원|충북|충남|전북|전남|경북|경남|제주"
_LICENCE = re.compile(
    rf"{_START}(?:(?:1[1-9]|2[0-8])(?P<gap> ?- ?| )[0-9]{{2}}(?P=gap)[0-9*xX]{{6}}(?P=gap)[0-9*xX]{{2}}"
    rf"|(?P<bare>(?:1[1-9]|2[0-8])[0-9]{{10}})|(?P<short>[0-9]{{2}} ?- ?[0-9]{{6}} ?- ?[0-9]{{2}})){_STOP}"
)
_PLACE_OF_LICENCE = re.compile(rf"(?:{_PLACES})[ -]{{0,2}}$")
_LICENCE_WORD = re.compile(r"면허")
PLATE_USES = "가나다라마거너더러머버서어저고노도로모보소오조구누두루무부수우주바사아자허하호배"
"""What a vehicle is used for: the syllable of its plate (자동차 등록번호판 등의 기준에 관한 고시)."""

_PLATE = re.compile(
    rf"(?<![0-9])(?P<class>[0-9]{{1,3}})(?P<inner> ?)(?P<use>[{PLATE_USES}])(?P<outer>[ -]?)(?P<serial>[0-9]{{4}})"
    r"(?![0-9A-Za-z㎡%]|[-.,:/][0-9]|만 ?[원명개건대톤평달]|[원억천조명개년월회평톤시분㎞배]|"
    r"대의| ?(?:km|킬로|미터|억))"
)
_PLACE_OF_PLATE = re.compile(rf"(?:{_PLACES})시? ?$")
_NO_PLATE_BEFORE = re.compile(r"(?:[0-9][.,:/-]|제 ?)$")
_CAR_WORD = re.compile(r"차|번호판|승용|트럭|버스|택시|렌터|운전|번판|흰색|은색|검은색|회색|검정")
_CASE_WORD = re.compile(r"판결|결정|선고|대법원|사건|법원")
_CASE = re.compile(r"^ ?(?:판결|전원합의체|결정|사건|판례)")
_IPV4 = re.compile(r"(?<![0-9.])(?<![0-9.][-,])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9]|\.[0-9])")
_IPV6 = re.compile(r"[0-9A-Fa-f:](?<![0-9A-Za-z:.].)[0-9A-Fa-f:]{2,38}(?![0-9A-Za-z:])")
_IP_WORD = re.compile(r"IP|아이피|주소|서버|접속|ping|host|호스트", re.IGNORECASE)
_VERSION = re.compile(r"(?:버전|버젼|version|ver\.?|펌웨어|제|v) ?$", re.IGNORECASE)
_LEFT, _RIGHT = 20, 12


def normalised(text: str) -> str:
    """The text with ASCII digits, punctuation and spaces, and with its labels blanked; as long as the text."""
    plain = text.translate(_TO_ASCII) if _FOREIGN.search(text) else text
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
    starts = [start.start() for start in _STARTS.finditer(plain)] if may_hold & ~EMAIL else []
    for bit, finders in _FINDERS:
        if bit & may_hold:
            for finder in finders:
                found += finder(plain, starts)
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


def _matches(pattern: re.Pattern[str], text: str, starts: Sequence[int]) -> Iterator[re.Match[str]]:
    """The matches of a pattern that begins where a number may begin: much faster than trying everywhere."""
    position = 0
    for start in starts:
        if start >= position and (match := pattern.match(text, start)):
            position = match.end()
            yield match


def _resident_numbers(text: str, starts: Sequence[int]) -> Iterator[Finding]:
    for match in _matches(_RESIDENT, text, starts):
        before, is_dashed = _before(text, match), "-" in match["gap"]
        is_corporation = bool(_CORPORATION.search(before))
        kind, is_right, dated = _registration(match["birth"], match["rest"], is_corporation)
        if kind == "corporate_number":
            if is_corporation or (is_right and is_dashed):
                yield Finding(kind, match.start(), match.end(), 0.98 if is_right else 0.9)
            continue
        if not dated and not (is_dashed and match["rest"][0].isdigit()):
            continue  # thirteen digits alone may be any number: only a possible date makes them personal
        if not is_dashed and not is_right and (_OTHER_NUMBER.search(before) or before.endswith(("/", "_", "="))):
            continue
        confidence = 0.76 + 0.1 * is_dashed + 0.08 * dated + 0.05 * is_right
        if dated and _RESIDENT_WORD.search(before):
            confidence = 0.98 + 0.01 * is_right
        yield Finding(kind, match.start(), match.end(), round(confidence, 2))


def _registration(birth: str, rest: str, is_corporation: bool) -> tuple[Kind, bool, bool]:
    """Which kind of registration thirteen digits are, whether the check digit is right, and whether the date is."""
    number = birth + rest
    century = rest[0] if rest[0].isdigit() else "1"
    dated = pii_checksums.is_birthday(birth, century) or pii_checksums.is_birthday(birth, "3")
    if not number.isdigit():
        return ("foreigner_number" if century in "5678" else "resident_number"), False, dated
    if is_corporation or century in "90" or (not dated and pii_checksums.corporate(number)):
        return "corporate_number", pii_checksums.corporate(number), dated
    if century in "5678":
        return "foreigner_number", pii_checksums.foreigner(number) or pii_checksums.resident(number), dated
    return "resident_number", pii_checksums.resident(number), dated


def _cards(text: str, starts: Sequence[int]) -> Iterator[Finding]:
    for match in _matches(_CARD, text, starts):
        number = match.group()
        digits = sum(one.isdigit() for one in number)
        is_right = number[-1].isdigit() and digits >= 14 and pii_checksums.luhn(number)
        if digits < 8 or (not is_right and number[:2] in {"19", "20"} and "-" not in number):
            continue
        has_word = _has_beside(_CARD_WORD, text, match)
        if not has_word and _is_labelled_otherwise(text, match):
            continue
        is_grouped = not number.isdigit()
        if is_right and (has_word or is_grouped or number[0] in "234569"):
            yield Finding("card", match.start(), match.end(), 0.95)
        elif has_word or is_grouped:
            yield Finding("card", match.start(), match.end(), 0.9 if has_word else 0.7)


def _phones(text: str, starts: Sequence[int]) -> Iterator[Finding]:
    for match in _matches(_PHONE, text, starts):
        if not match["bare"]:
            opens = match.group().startswith("(") and ")" not in match.group()  # (031-123-4567)
            yield Finding("phone", match.start() + opens, match.end(), 0.9)
        elif not _is_labelled_otherwise(text, match):
            yield Finding("phone", match.start(), match.end(), 0.7)


def _emails(text: str, _: Sequence[int]) -> Iterator[Finding]:
    for match in _EMAIL.finditer(text):
        yield Finding("email", match.start(), match.end(), 0.95)


def _accounts(text: str, starts: Sequence[int]) -> Iterator[Finding]:
    return pii_accounts.find(text, _matches(pii_accounts.NUMBER, text, starts), _OTHER_NUMBER)


def _business_numbers(text: str, starts: Sequence[int]) -> Iterator[Finding]:
    for match in _matches(_BUSINESS, text, starts):
        digits = re.sub(r"[^0-9]", "", match.group())
        is_right = pii_checksums.business(digits)
        if _has_beside(_BUSINESS_WORD, text, match):
            yield Finding("business_number", match.start(), match.end(), 0.98 if is_right else 0.92)
        elif "-" in match.group() and not _is_labelled_otherwise(text, match):
            yield Finding("business_number", match.start(), match.end(), 0.9 if is_right else 0.6)


def _passports(text: str, _: Sequence[int]) -> Iterator[Finding]:
    for match in _PASSPORT.finditer(text):
        digits = match["digits"]
        if _has_beside(_PASSPORT_WORD, text, match):
            yield Finding("passport", match.start(), match.end(), 0.97)
            continue
        is_day = digits.isdigit() and pii_checksums.is_date(int(digits[:4]) or 1, int(digits[4:6]), int(digits[6:]))
        if match["letter"] == "M" and not match["gap"] and not is_day and not _is_labelled_otherwise(text, match):
            yield Finding("passport", match.start(), match.end(), 0.7)


def _licences(text: str, starts: Sequence[int]) -> Iterator[Finding]:
    for match in _matches(_LICENCE, text, starts):
        start = match.start()
        has_word = _has_beside(_LICENCE_WORD, text, match)
        if match["short"]:
            place = _PLACE_OF_LICENCE.search(_before(text, match))
            if place is None:
                continue
            start -= len(place.group())
        elif not has_word and (match["bare"] or match["gap"] == " "):
            continue
        yield Finding("driver_licence", start, match.end(), 0.98 if has_word else 0.88)


def _plates(text: str, starts: Sequence[int]) -> Iterator[Finding]:
    for match in _matches(_PLATE, text, starts):
        before, after = _before(text, match), text[match.end() : match.end() + _RIGHT]
        if place := _PLACE_OF_PLATE.search(before):
            yield Finding("vehicle_plate", match.start() - len(place.group()), match.end(), 0.95)
            continue
        if len(match["class"]) == 1 or _NO_PLATE_BEFORE.search(before) or _CASE.match(after):
            continue
        has_word = _has_beside(_CAR_WORD, text, match)
        if match["use"] == "조" and after.startswith("만") and not has_word:
            continue  # 12조 3456만
        is_year = match["serial"][:2] in {"19", "20"} and bool(match["outer"])
        if has_word or not (is_year or match["inner"] or _has_beside(_CASE_WORD, text, match)):
            yield Finding("vehicle_plate", match.start(), match.end(), 0.95 if has_word else 0.8)


def _ip_addresses(text: str, starts: Sequence[int]) -> Iterator[Finding]:
    for match in _matches(_IPV4, text, starts):
        parts = match.group().split(".")
        if any(int(part) > 255 for part in parts) or _VERSION.search(_before(text, match)):
            continue
        has_word = _has_beside(_IP_WORD, text, match)
        if has_word or max(map(len, parts)) > 1:  # 4.1.2.3 is a heading
            yield Finding("ip_address", match.start(), match.end(), 0.95 if has_word else 0.8)
    if "::" in text or text.count(":") > 6:
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


_Finder = Callable[[str, Sequence[int]], Iterator[Finding]]
_FINDERS: tuple[tuple[int, tuple[_Finder, ...]], ...] = (
    (LONG_NUMBER, (_resident_numbers, _cards, _phones, _accounts, _business_numbers, _licences)),
    (LETTER_NUMBER, (_passports,)),
    (DOTTED, (_ip_addresses,)),
    (EMAIL, (_emails,)),
    (PLATE, (_plates,)),
)
