"""Postal addresses: by road ("강남구 테헤란로 152, 3층"), by lot ("역삼동 737-32"), by flat ("○○빌라 101동 103호").

A road and a number alone are no address ("경부고속도로 143km", "강남대로 3차선"): one of Korea's regions must stand
before them, or a word such as 주소 beside them, and no unit of measure behind the number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tollgate.gates.pii_kinds import Finding


def _regions() -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for line in (Path(__file__).with_name("lexicon") / "regions.txt").read_text(encoding="utf-8").splitlines():
        if line.isascii() and not line.startswith("#"):
            current = groups.setdefault(line, [])
        elif not line.startswith("#"):
            current += line.split()
    return groups


_REGIONS = _regions()
_PROVINCE, _CITY, _DISTRICT, _COUNTY = (
    "(?:" + "|".join(sorted(_REGIONS[group], key=len, reverse=True)) + ")"
    for group in ("provinces", "cities", "districts", "counties")
)
_REGION = (
    rf"(?:{_PROVINCE} ?(?:{_CITY}(?:시 ?| ))?(?:{_DISTRICT}구 ?|{_COUNTY}군 ?){{0,2}}"
    rf"|{_CITY}(?:시 ?| (?={_DISTRICT}구))(?:{_DISTRICT}구 ?)?"
    rf"|{_DISTRICT}구 ?|{_COUNTY}군 ?)(?:[가-힣]{{1,4}}[읍면] ?)?"
)
_UNITS = (
    r"(?![0-9A-Za-z%㎞㎡㎏]|[-.,:~][0-9]|"
    r" ?(?:km|킬로|키로|㎞|미터|m(?![a-z])|차선|차로|번 ?출구|터널|톨게이트|나들목|분기점)|"
    r"번(?!지)|시|분|초|년|월|원|만 ?[원명개건대톤평달]|천|억|명|개|대|회|건|배|위|호선|호기|차|퍼|여|톤|곳|군데|"
    r"주(?!소)|살|세|급|단계|종|등|쪽|페이지|조|항|달러|평|층짜리|선|학년|반|인(?!데)|일(?!까|대)|점|팀|칸|마리|그램|리터|가구|공구)"
)
_BEGIN = rf"(?:(?<![가-힣])|(?<=[가는은이를에])(?={_PROVINCE}))"
_HOUSE = r"[0-9]{1,4}(?:-[0-9]{1,4})?"
_NUMBER = rf" ?(?:지하 ?)?{_HOUSE}(?:번지)?{_UNITS}"
_LOT_NUMBER = rf" ?(?![1-9]가)(?:산 ?)?{_HOUSE}(?P<lot>번지)?{_UNITS}"
_BRANCH = r"(?: ?[0-9]{1,4}(?:번|번가|[가나다라마바])?길)?"
_HOMES = (
    "아파트|빌라|오피스텔|맨션|타운|자이|래미안|푸르지오|힐스테이트|캐슬|더샵|아이파크|주공|편한세상|"
    "타워|빌딩|주택|하우스|원룸|센터|상가"
)
_HOME = rf"(?:[0-9A-Za-z가-힣]{{0,14}}(?:{_HOMES})(?: ?[0-9A-Za-z]{{1,2}}(?:단지|차|관))?)"
_DETAIL = (
    rf"(?:,? ?{_HOME}(?=[ ,0-9(]))?(?:,? ?[0-9A-Z]{{1,4}}동(?![가-힣]))?(?:,? ?(?:지하 ?|B)?[0-9]{{1,3}}층)?"
    r"(?P<flat>,? ?(?:지하 ?|B)?[0-9]{1,5}호(?!선|기|차|봉)|,? [0-9]{2,4}-[0-9]{3,4}호?(?![0-9-]))?"
    r"(?: ?\([가-힣A-Za-z0-9,. ]{2,30}\))?"
)
_BY_ROAD = re.compile(
    rf"{_BEGIN}(?P<region>{_REGION})?"
    rf"(?P<road>[가-힣][가-힣0-9·.]{{0,14}}?(?:로|길){_BRANCH}){_NUMBER}{_DETAIL}"
)
_BY_LOT = re.compile(
    rf"{_BEGIN}(?P<region>{_REGION})?"
    rf"[가-힣]{{1,5}}(?:[0-9]가|[0-9]?동|리)(?: [가-힣]{{1,5}}리)?{_LOT_NUMBER}{_DETAIL}"
)
_FLAT = re.compile(
    rf"(?<![가-힣A-Za-z0-9])(?P<home>{_HOME} ?)?[0-9]{{1,4}}동 ?(?:[0-9]{{1,3}}층 ?)?[0-9]{{1,4}}호(?!선|기|차|봉)"
)
_ROAD_END = re.compile(rf"(?<!으)(?<!도)(?:로|길){_BRANCH}{_NUMBER}")
_LOT_END = re.compile(rf"(?:[0-9]가|동|리){_LOT_NUMBER}")
_FLAT_END = re.compile(r"[0-9]동 ?(?:[0-9]{1,3}층 ?)?[0-9]{1,4}호")
"""What ends like an address: cheap to look for, and rare."""

_NO_ROAD = re.compile(
    r"(?:도로|으로|스스로|서로|바로|새로|별로|실제로|그대로|때로|따로|위로|아래로|뒤로|앞으로|호로|차로|철로|항로|경로|"
    r"통로|진로|활주로|대로로|갓길|빗길|눈길|출근길|퇴근길|귀갓길|골목길|샛길|고갯길|오르막길|내리막길|가는길|오는길|대체로|주로|제로|유로|미로|"
    r"킬로|헬로|달러로|날로|절로|홀로|억지로|함부로|저절로|터널로|톨게이트로|나들목으로|휴게소로|영업소로|출구로|입구로|방향로)$"
)
_WORD_BEFORE = re.compile(r"주소|거주|배송|배달|자택|택배|수령|사는 ?곳|본가|[^가-힣]집|우리집|저희집|사무실은|회사는")
_WORD_AFTER = re.compile(r"^ ?(?:에서?|에다가?|로|으로) ?(?:살|삽|사는|거주|보내|배송|배달|택배|찾아오|이사)")
_TOWN = re.compile(r"\([가-힣0-9]{1,6}[동가리][,)]")
_BEFORE, _AFTER = 20, 12


def find(text: str) -> Iterator[Finding]:
    """Find postal addresses.

    Args:
        text: Text in ASCII digits, dashes and spaces.

    Yields:
        Addresses from their region to the flat: confidence .95 with a region, .8 with a word such as 주소 beside a
        road, a lot or a flat.
    """
    if _ROAD_END.search(text):
        for match in _BY_ROAD.finditer(text):
            if _is_road(match["road"]) and (match["region"] or _is_detailed(match) or _is_introduced(text, match)):
                yield _address(match)
    if _LOT_END.search(text):
        for match in _BY_LOT.finditer(text):
            if match["region"] or match["lot"] or _is_introduced(text, match):
                yield _address(match)
    if _FLAT_END.search(text):
        for match in _FLAT.finditer(text):
            if match["home"] or _is_introduced(text, match):
                yield Finding("address", match.start(), match.end(), 0.8)


def _address(match: re.Match[str]) -> Finding:
    end = match.end() - (match.group()[-1] in " ,")
    return Finding("address", match.start(), end, 0.95 if match["region"] else 0.8)


def _is_road(road: str) -> bool:
    if _NO_ROAD.search(road):
        return False
    stem = road[:-1]
    return stem not in _REGIONS["provinces"] and not re.fullmatch(rf"(?:{_CITY}시?|{_DISTRICT}구|{_COUNTY}군)", stem)


def _is_detailed(match: re.Match[str]) -> bool:
    return bool(match["flat"] or _TOWN.search(match.group()))


def _is_introduced(text: str, match: re.Match[str]) -> bool:
    before = text[max(0, match.start() - _BEFORE) : match.start()]
    return bool(_WORD_BEFORE.search(before) or _WORD_AFTER.search(text[match.end() : match.end() + _AFTER]))
