"""Toxicity of Korean text by a small lexicon: swearing, insults, slurs, threats, also spaced out or with signs between.

The lexicon is narrow on purpose: "시 발전소", "다시 발급", "불이 꺼져 있어요", "영향을 미친" and "고라니 새끼" are
clean. A text's score is the chance that at least one hit is meant: 1 - (1 - w1)(1 - w2)… over the weights of its
hits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_GAP = r"[\s.,·*!@~^\-_/1]{0,3}"
_PERSON = "(?:놈|년|새끼|새키|쉐끼|것들|인간|자식)"
_ANIMAL = r"(?:고양이|강아지|돼지|멧돼지|고라니|노루|너구리|손가락|발가락|줄|꼬리|오리|새)"

_LEXICON: tuple[tuple[str, float], ...] = (
    # swearing
    (rf"(?<![가-힣])[씨시쓰]{_GAP}[발팔벌](?![가-힣])", 0.9),
    (
        rf"(?<![가-힣])(?:씨{_GAP}발|씨{_GAP}팔|시{_GAP}발){_GAP}(?:{_PERSON}|아|것|련|럼|롬|들|이|진짜|뭐)(?![가-힣])",
        0.95,
    ),
    (r"씨발|씨팔|씨바(?:ㄹ|알)|쓰발|쒸발|ㅅㅂ|ㅆㅂ|ㅆㅃ", 0.95),
    (rf"시발{_PERSON}", 0.95),
    (rf"(?<![가-힣])좆|좇(?:같|나|까)|ㅈ같|존{_GAP}나(?![가-힣])", 0.8),
    (rf"지{_GAP}랄(?:하|이|도|을|들|떨|마|\b)|ㅈㄹ", 0.8),
    (rf"엿{_GAP}먹어", 0.8),
    # insults
    (rf"병{_GAP}신(?!년|용)(?:아|같|들|새|짓|이|\b|놈|년|력)|ㅂㅅ|ㅄ|븅신", 0.9),
    (rf"개{_GAP}(?:새{_GAP}끼|색{_GAP}끼|쉐{_GAP}끼|세{_GAP}끼)(?!손가락)|(?<![가-힣\d])개(?:자식|년|놈)|ㄱㅅㄲ", 0.9),
    (rf"(?<![가-힣])(?:이|저|그|야)?\s?새끼(?:야|들(?:아|이)|가\s(?:뭘|어디))(?!\s?{_ANIMAL})", 0.7),
    (rf"미친{_GAP}{_PERSON}|또라이|돌대가리|대가리에\s?똥", 0.8),
    (r"등신(?!대|불)(?:아|같|들|새|\b)|머저리|찐따|얼간이|쓸모없는\s?(?:놈|년|것들|인간)", 0.7),
    (r"멍청(?:한\s?(?:놈|년|것|새|인간|자식)|이들|아\b)", 0.7),
    (r"인간\s?쓰레기|쓰레기\s?(?:같은|만도\s못한)\s?(?:놈|년|새끼|인간|자식|직원)", 0.8),
    (r"닥쳐(?:라|!|$|\s?(?:이|제발|좀))|(?<![가-힣])꺼져\s?(?:이|버려|라)\b", 0.7),
    (rf"느금마|니\s?애미|니\s?에미|니\s?엄마\s?{_PERSON}|애비\s?없는|애미\s?없는", 0.95),
    # threats
    (
        r"(?<![가-힣])(?:죽여\s?(?:버린|버릴|줄게|주마|버려)|때려\s?죽|찢어\s?죽|칼로\s?찔러|뒤져라|뒈져|뒤질래|죽어\s?버려라)",
        0.8,
    ),
    # slurs against groups
    (
        r"한남충|김치녀|된장녀|맘충|틀딱|급식충|짱깨|쪽발이|깜둥이|똥꼬충|흑형충|장애년|애자\s?새끼|조선족\s?새끼|보지년|걸레년|창녀",
        0.85,
    ),
)
_PATTERNS = tuple((re.compile(pattern), weight) for pattern, weight in _LEXICON)


def score(text: str) -> float:
    """Score a text, 0 (clean) to 1, three decimals."""
    clean = 1.0
    for pattern, weight in _PATTERNS:
        if pattern.search(text):
            clean *= 1 - weight
    return round(1 - clean, 3)


def worst(texts: Iterable[str]) -> float:
    """The highest score among several texts; 0 where there are none."""
    return max(map(score, texts), default=0.0)
