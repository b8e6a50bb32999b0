"""Made-up Korean service dialogues in any number, with planted faults: what the gates' speed is measured on.

Sentences are drawn from a grammar of nouns, particles, adverbs and verbs wide enough that two of them are hardly ever
alike by chance, so that every near-duplicate is one that was planted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import orjson


def _words(text: str) -> list[str]:
    return text.split("|")


NOUNS = _words(
    "요금|영수증|단말기|카드|차량|번호판|고속도로|휴게소|화장실|주차장|충전기|전광판|"
    "표지판|노면|포장|차선|갓길|터널|교량|나들목|분기점|톨게이트|하이패스|통행권|현금|"
    "환불|할인|감면|고지서|계좌|이체|명세서|신청서|접수증|확인서|증명서|면허증|보험|사고|"
    "정체|공사|우회로|안내판|방송|라디오|날씨|안개|폭설|제설차|결빙|타이어|연료|주유소|"
    "식당|음식|커피|자판기|편의점|쓰레기통|벤치|가로등|소음|방음벽|펜스|낙하물|동물|사체|"
    "구급차|견인차|경찰|상담원|전화|문자|홈페이지|앱|비밀번호|로그인|인증|오류|화면|버튼|"
    "지도|경로|거리|시간|예약|취소|변경|연장|갱신|등록|해지|분실물|지갑|가방|우산|열쇠|"
    "아이|노인|장애인|임산부|버스|화물차|승용차|오토바이|직원|관리자|담당자|부서|본사|"
    "지사|영업소|사무실|민원|건의|칭찬|불만|조사|결과|답변|절차|기준|규정|법률|조항|"
    "서류|원본|사본"
)
PARTICLES = {
    True: _words("이|을|은|과|으로|에|에서|도|만|부터|까지"),
    False: _words("가|를|는|와|로|에|에서|도|만|부터|까지"),
}
"""Particles by whether the noun before them ends in a consonant."""

STEMS = _words(
    "나오지 않았|작동하지 않았|확인되지 않았|보이지 않았|열리지 않았|끊어졌|부서졌|막혔|"
    "젖었|사라졌|늦어졌|바뀌었|줄었|늘었|멈췄|넘어졌|흔들렸|떨어졌|고장 났|잘못 찍혔|"
    "두 번 빠져나갔|청구되었|취소되었|접수되었|처리되었|안내받았|신청했|제출했|기다렸|"
    "문의했|받지 못했|찾지 못했|내지 못했|알지 못했|들었|보았|지나갔|돌아왔|세워졌|"
    "설치되었|수리되었"
)
ENDINGS = _words("습니다|어요|는데요|네요|더라고요|다고 합니다|는지 궁금합니다")
OPENINGS = _words("안녕하세요|문의드립니다|알려 주세요|확인 부탁드립니다|도와주세요|신고합니다|건의합니다|궁금합니다")
CLOSINGS = _words("감사합니다|죄송합니다|양해 부탁드립니다|확인해 드리겠습니다|처리해 드리겠습니다|도와드리겠습니다")
CATEGORIES = _words("통행료|환불|하이패스|노면|휴게소|분실물|사고|정체|공사|시설|직원|기타")
SURNAMES = "김이박최정강조윤장임한오서신권황안송류홍"
GIVEN = _words("민서|지훈|서연|도윤|하은|예준|수빈|현우|지민|은지|준호|유진|성민|혜진|동현|미경|영수|순자|철수|영희")
SYSTEM = "당신은 고속도로 고객센터의 상담원입니다. 친절하게 답하세요."


ADVERBS = _words(
    "어제|오늘|아침에|저녁에|주말에|지난달|방금|갑자기|계속|여럿이|자주|가끔|전혀|아직|"
    "이미|정말|너무|조금|많이|빨리|천천히|다시|함께|따로|먼저|나중에|매번|항상|거의|"
    "특히"
)
NOUN_PHRASES = [noun + particle for noun in NOUNS for particle in PARTICLES[(ord(noun[-1]) - ord("가")) % 28 > 0]]
"""Every noun with every particle that fits it (a final ㄹ takes 으로 too, as careless writers have it)."""


@dataclass
class Planted:
    """What a made file holds, to hold the gates' counts against."""

    rows: int = 0
    bytes: int = 0
    faults: Counter[str] = field(default_factory=Counter)


def sentence(draw: Random, words: int) -> str:
    """A sentence of so many noun phrases, an adverb and a verb."""
    nouns = [draw.choice(NOUN_PHRASES) for _ in range(words)]
    nouns.insert(draw.randrange(words), draw.choice(ADVERBS))
    return f"{' '.join(nouns)} {draw.choice(STEMS)}{draw.choice(ENDINGS)}."


def write_chats(path: Path, rows: int, characters: int = 78, seed: int = 0) -> Planted:
    """Write chats as JSONL.

    Of every thousand rows 50 repeat an earlier one exactly, 100 nearly, 30 hold personal data, 5 are toxic, 5 are
    laughter only and 1 is broken.

    Args:
        path: The file.
        rows: Number of lines.
        characters: Mean length of a row's question and answer together.
        seed: Another seed, another file.
    """
    draw = Random(seed)
    planted = Planted(rows=rows)
    recent: list[tuple[str, str, str]] = []
    with path.open("wb") as file:
        for _ in range(rows):
            fault = _fault(draw) if len(recent) > 100 else ""
            planted.faults[fault] += bool(fault)
            if fault == "broken":
                file.write(b'{"messages": [{"role": "user", "content": "' + b"\n")
                continue
            question, answer, category = _chat(draw, fault, recent, characters)
            if not fault:
                _remember(draw, recent, (question, answer, category))
            file.write(orjson.dumps(_row(draw, question, answer, category), option=orjson.OPT_APPEND_NEWLINE))
    planted.bytes = path.stat().st_size
    return planted


def _fault(draw: Random) -> str:
    value = draw.random()
    for share, name in (
        (0.05, "exact_duplicate"),
        (0.15, "near_duplicate"),
        (0.18, "personal_data"),
        (0.185, "toxic"),
        (0.19, "low_quality"),
        (0.191, "broken"),
    ):
        if value < share:
            return name
    return ""


def _chat(draw: Random, fault: str, recent: list[tuple[str, str, str]], characters: int) -> tuple[str, str, str]:
    if fault == "exact_duplicate":
        return draw.choice(recent)
    if fault == "near_duplicate":
        question, answer, category = draw.choice(recent)
        return question[:-1] + draw.choice(("!", "?", "..", " .", "요.")), answer, category
    category = draw.choice(CATEGORIES)
    if fault == "low_quality":
        return "ㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋ", "ㅎㅎㅎㅎㅎㅎㅎㅎㅎㅎ", category
    words = max(2, int(characters / 10.6 - 3.3 + draw.random()))
    question = f"{draw.choice(OPENINGS)}. {sentence(draw, words)}"
    answer = f"{sentence(draw, words)} {draw.choice(CLOSINGS)}."
    if fault == "toxic":
        question = f"이 병신 같은 직원들아 {question}"
    if fault == "personal_data":
        question = f"{question} {_personal(draw)}"
    return question, answer, category


def _personal(draw: Random) -> str:
    name = draw.choice(SURNAMES) + draw.choice(GIVEN)
    digits = [draw.randrange(1000, 10000) for _ in range(4)]
    return draw.choice(
        (
            f"제 이름은 {name}이고 연락처는 010-{digits[0]}-{digits[1]}입니다.",
            f"메일은 user{digits[0]}@example{digits[1]}.co.kr로 보내 주세요.",
            f"{name} 고객이며 주민등록번호는 {draw.randrange(60, 99)}0{draw.randrange(1, 10)}1{draw.randrange(0, 9)}"
            f"-1{digits[0]}{digits[1] % 90 + 10}입니다.",
            f"카드 {digits[0]}-{digits[1]}-{digits[2]}-{digits[3]}로 결제했습니다.",
        )
    )


def _remember(draw: Random, recent: list[tuple[str, str, str]], chat: tuple[str, str, str]) -> None:
    if len(recent) < 5000:
        recent.append(chat)
    elif draw.random() < 0.2:
        recent[draw.randrange(5000)] = chat


def _row(draw: Random, question: str, answer: str, category: str) -> dict[str, object]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    if draw.random() < 0.1:
        turns.insert(0, {"role": "system", "content": SYSTEM})
    return {"messages": turns, "metadata": {"category": category, "source": "center"}}
