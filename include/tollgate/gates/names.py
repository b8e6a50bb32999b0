"""Names of persons by rules: a surname, a plausible given name, and something beside it that only a person has.

Three tiers, each with less evidence in the name and more beside it:

1. a surname and one of some 800 frequent given names, before a particle or a title ("홍길동의",
   "김민수 과장");
2. a surname and two syllables that given names are made of, before a title of persons ("오달샘 님"), or beside a word
   that introduces a name ("이름은 …", "…의 주민등록번호");
3. any two or three syllables after a field name ("성명: …", "예금주 …").

Tuned for precision: 이용자, 임대인, 배우자, 고속도로 and the like begin with a surname too and must stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_LEXICON = Path(__file__).with_name("lexicon")


def _words(name: str) -> frozenset[str]:
    lines = (_LEXICON / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


_ALL_SURNAMES = _words("surnames")
_SURNAMES = "".join(sorted(name for name in _ALL_SURNAMES if len(name) == 1))
_DOUBLE_SURNAMES = sorted(name for name in _ALL_SURNAMES if len(name) == 2)
_COMMON_SURNAMES = "김이박최정강조윤장임한오서신권황안송류유홍전고문양손배백허남심노하곽성차주우구민나진지엄"
_GIVEN = _words("given_names")
_NOT_NAMES = _words("not_names")
_FIRST = _words("first_syllables")
_SECOND = _words("second_syllables")
_ROLE_ENDINGS = "자인생원직객료금권법관장민층급부과처실용률량감"
_VERB_STEMS = ("하", "지나")  # 신청하는, 양도하는, 지지나는
_TITLES = (
    "씨|님|고객님|회원님|기사님|선생님|사장님|과장님|부장님|차장님|대리님|팀장님|실장님|소장님|주임님|"
    "상담사님|상담원님|어르신|여사|귀하"
)
_OFFICES = (
    "과장|부장|차장|대리|사원|주임|팀장|실장|소장|센터장|사장|대표|이사|상무|전무|교수|박사|기사|선생|변호사|판사|검사|의원|장관|"
    "주무관|사무관|상담사|상담원|고객|회원|군|양|할머니|할아버지|작가|기자|감독|선수|배우|가수"
)
_PARTICLES = (
    "의|은|는|이|가|을|를|와|과|도|만|에게|에게서|께|께서|한테|하고|랑|이랑|이며|이고|이나|이라고|라고|이라는|라는|이라|입니다|"
    "이에요|예요|이요|인데|인데요|이고요|이었|였|으로|로|이라서|이시|님"
)
_NAME = rf"(?P<name>(?:{'|'.join(_DOUBLE_SURNAMES)})[가-힣]{{2}}|[{_SURNAMES}][가-힣]{{2}})"
_SHORT_NAME = rf"(?P<name>[{_COMMON_SURNAMES}][가-힣])"
_END = r"(?![가-힣])"
_AFTER_TITLE = rf"(?:(?:{_PARTICLES}|에|께서는|께서도|에게는|의)?{_END})"

_WITH_TITLE = re.compile(rf"(?<![가-힣]){_NAME}(?= ?(?:{_TITLES}){_AFTER_TITLE})")
_WITH_OFFICE = re.compile(rf"(?<![가-힣]){_NAME}(?= (?:{_OFFICES})(?:님)?{_AFTER_TITLE})")
_SHORT_WITH_TITLE = re.compile(rf"(?<![가-힣]){_SHORT_NAME}(?= ?씨{_AFTER_TITLE})")
_WITH_PARTICLE = re.compile(rf"(?<![가-힣]){_NAME}(?=(?:{_PARTICLES}){_END})")
_PERSONAL = "주민등록번호|주민번호|전화번호|휴대폰|휴대전화|핸드폰|연락처|이메일|계좌번호|카드번호|생년월일"
_OWNS_PERSONAL = re.compile(rf"(?<![가-힣]){_NAME}(?=(?:님|씨)?의 ?(?:{_PERSONAL}))")
_BESIDE_PERSONAL = re.compile(rf"(?<![가-힣]){_NAME}(?=,? (?:{_PERSONAL}))")
_COPULA = "입니다|이에요|예요|이고|이라고|이며|인데|이요"
_AFTER_INTRODUCTION = re.compile(
    r"(?<![가-힣])(?:저는|제가|나는|본인은|신청인은|신청자는|담당자는|차주는|명의자는) "
    rf"{_NAME}(?= ?(?:{_COPULA})(?![가-힣]))"
)
_AFTER_NAME_WORD = re.compile(
    rf"(?<![가-힣])(?:이름|성함|성명)(?:은|이)? {_NAME}(?= ?(?:{_COPULA})(?![가-힣])|[\s.,!?)]|$)"
)
_AFTER_FIELD = re.compile(
    r"(?<![가-힣])(?:이름|성함|성명|예금주|신청인|고객명|명의자|담당자|수령인|차주|신고자|접수자|민원인)(?: ?: ?| ?= ?)"
    rf"(?P<name>[{_SURNAMES}][가-힣]{{1,3}}?)(?=(?:{_PARTICLES})?{_END})"
)


def find(text: str) -> Iterator[tuple[int, int, float]]:
    """Find names of persons.

    Args:
        text: Text whose spaces and punctuation are ASCII.

    Yields:
        Start, end and confidence (0 to 1) of each name, with its surname and without title and particle.
    """
    for pattern, accept, confidence in _RULES:
        for match in pattern.finditer(text):
            if accept(match["name"]):
                yield match.start("name"), match.end("name"), confidence


def _split(name: str) -> tuple[str, str]:
    length = 2 if len(name) == 4 and name[:2] in _DOUBLE_SURNAMES else 1
    return name[:length], name[length:]


def _is_frequent(name: str) -> bool:
    surname, given = _split(name)
    known = len(surname) == 2 or surname in _COMMON_SURNAMES
    return known and given in _GIVEN and name not in _NOT_NAMES


def _is_before_particle(name: str) -> bool:
    return _is_frequent(name) and not name.endswith(_VERB_STEMS)


def _is_plausible(name: str) -> bool:
    if _is_frequent(name):
        return True
    _, given = _split(name)
    syllables = given[0] in _FIRST and given[-1] in _SECOND and given[0] != given[-1]  # 부모모님: a typing slip
    return syllables and given[-1] not in _ROLE_ENDINGS and name not in _NOT_NAMES


def _is_short(name: str) -> bool:
    return name[1] in _SECOND and name[1] not in _ROLE_ENDINGS and name not in _NOT_NAMES


def _is_field_value(name: str) -> bool:
    return name not in _NOT_NAMES and name[-1] not in "자인"


_RULES = (
    (_WITH_TITLE, _is_plausible, 0.9),
    (_WITH_OFFICE, _is_frequent, 0.85),
    (_SHORT_WITH_TITLE, _is_short, 0.7),
    (_WITH_PARTICLE, _is_before_particle, 0.75),
    (_OWNS_PERSONAL, _is_plausible, 0.9),
    (_BESIDE_PERSONAL, _is_before_particle, 0.85),
    (_AFTER_INTRODUCTION, _is_plausible, 0.8),
    (_AFTER_NAME_WORD, _is_plausible, 0.8),
    (_AFTER_FIELD, _is_field_value, 0.85),
)
