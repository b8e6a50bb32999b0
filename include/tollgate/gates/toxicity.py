"""Toxicity of Korean text, its grade, and bias: a compiled linear scorer, and beside it a small lexicon of plain abuse.

A text is graded none, offensive or hate, by two scores: toxicity tells offensive and hateful texts from clean ones,
hate tells hateful ones from clean ones. Both, and bias, come from one pass over the text.

The scorer is a linear regression over hashed character n-grams, trained on Korean news comments that people judged
(``training/train_toxicity.py``; ``models/NOTICE.toxicity``), with clean messages, dialogue and prose beside them, so
that what is merely no news comment is not toxic to it. It knows what people mean by context. The lexicon knows
swearing, insults, slurs and threats also where they are spaced out or have signs between, which training data holds
too seldom. A text's score is the greater of the two; a long text is as toxic as its worst passage.

The lexicon is narrow on purpose: "시 발전소", "다시 발급", "불이 꺼져 있어요", "영향을 미친" and "고라니 새끼" are
clean. Its score is the chance that at least one hit is meant: 1 - (1 - w1)(1 - w2)… over the weights of its hits.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

from tollgate.gates.text_buffers import buffers, text_column
from tollgate.gates.threads import in_parts

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Scores = npt.NDArray[np.float32]

Target = Literal["toxicity", "hate", "bias"]
Grade = Literal["none", "offensive", "hate"]

MODEL: Final = Path(__file__).parent / "models" / "toxicity.npz"
"""The scorer's weights, written by ``training/train_toxicity.py``."""

HATE: Final = 0.7
"""Hate score from which on a text's grade is hate, not offensive: by cross-validation of the macro F1 of three grades.

From 0.5 on a text is nearer to hate than to a clean one, but many offensive texts are, too.
"""

_GRADES: Final[tuple[Grade, ...]] = ("none", "offensive", "hate")
_UNLIKENESS_SLOPE = 0.5
_ALIKE = 1.0  # log odds from which on a passage is like a comment

_GAP = r"[\s.,·*!@~^\-_/1]{0,3}"
_PERSON = "(?:놈|년|새끼|새키|쉐끼|것들|인간|자식)"
_ANIMAL = r"(?:고양이|강아지|돼지|멧돼지|고라니|노루|너구리|손가락|발가락|줄|꼬리|오리|새)"


class _Entry(NamedTuple):
    """What one kind of plain abuse looks like.

    Attributes:
        pattern: Finds it.
        weight: Chance that a hit is meant, 0 to 1.
        pairs: Every hit holds one of these pairs of characters, side by side or with a few signs between, or one of
            these single ones: only texts that do are searched.
    """

    pattern: re.Pattern[str]
    weight: float
    pairs: tuple[str, ...]


def _entry(weight: float, pairs: str, pattern: str) -> _Entry:
    return _Entry(re.compile(pattern), weight, tuple(pairs.split()))


_LEXICON = (
    # swearing
    _entry(
        0.9,
        "씨발 씨팔 씨벌 시발 시팔 시벌 쓰발 쓰팔 쓰벌",
        rf"(?<![가-힣])[씨시쓰]{_GAP}[발팔벌](?![가-힣])",
    ),
    _entry(
        0.95,
        "씨발 씨팔 시발",
        rf"(?<![가-힣])(?:씨{_GAP}발|씨{_GAP}팔|시{_GAP}발){_GAP}(?:{_PERSON}|아|것|련|럼|롬|들|이|진짜|뭐)(?![가-힣])",
    ),
    _entry(0.95, "씨발 씨팔 씨바 쓰발 쒸발 ㅅㅂ ㅆㅂ ㅆㅃ", r"씨발|씨팔|씨바(?:ㄹ|알)|쓰발|쒸발|ㅅㅂ|ㅆㅂ|ㅆㅃ"),
    _entry(0.95, "시발", rf"시발{_PERSON}"),
    _entry(0.8, "좆 좇 ㅈ같 존나", rf"(?<![가-힣])좆|좇(?:같|나|까)|ㅈ같|존{_GAP}나(?![가-힣])"),
    _entry(0.8, "지랄 ㅈㄹ", rf"지{_GAP}랄(?:하|이|도|을|들|떨|마|\b)|ㅈㄹ"),
    _entry(0.8, "엿먹", rf"엿{_GAP}먹어"),
    # insults
    _entry(
        0.9,
        "병신 ㅂㅅ ㅄ 븅신",
        rf"병{_GAP}신(?!년|용)(?:아|같|들|새|짓|이|\b|놈|년|력)|ㅂㅅ|ㅄ|븅신",
    ),
    _entry(
        0.9,
        "개새 개색 개쉐 개세 개자 개년 개놈 ㄱㅅ",
        rf"개{_GAP}(?:새{_GAP}끼|색{_GAP}끼|쉐{_GAP}끼|세{_GAP}끼)(?!손가락)|(?<![가-힣\d])개(?:자식|년|놈)|ㄱㅅㄲ",
    ),
    _entry(0.7, "새끼", rf"(?<![가-힣])(?:이|저|그|야)?\s?새끼(?:야|들(?:아|이)|가\s(?:뭘|어디))(?!\s?{_ANIMAL})"),
    _entry(0.8, "미친 또라 돌대 대가", rf"미친{_GAP}{_PERSON}|또라이|돌대가리|대가리에\s?똥"),
    _entry(
        0.7,
        "등신 머저 찐따 얼간 쓸모",
        r"등신(?!대|불)(?:아|같|들|새|\b)|머저리|찐따|얼간이|쓸모없는\s?(?:놈|년|것들|인간)",
    ),
    _entry(0.7, "멍청", r"멍청(?:한\s?(?:놈|년|것|새|인간|자식)|이들|아\b)"),
    _entry(0.8, "쓰레", r"인간\s?쓰레기|쓰레기\s?(?:같은|만도\s못한)\s?(?:놈|년|새끼|인간|자식|직원)"),
    _entry(
        0.7,
        "닥쳐 꺼져",
        r"닥쳐(?:라|!|$|\s?(?:이|제발|좀))|(?<![가-힣])꺼져\s?(?:이|버려|라)\b",
    ),
    _entry(
        0.95,
        "느금 니애 니에 니엄 애비 애미",
        rf"느금마|니\s?애미|니\s?에미|니\s?엄마\s?{_PERSON}|애비\s?없는|애미\s?없는",
    ),
    # threats
    _entry(
        0.8,
        "죽여 때려 찢어 칼로 뒤져 뒈져 뒤질 죽어",
        r"(?<![가-힣])(?:죽여\s?(?:버린|버릴|줄게|주마|버려)|때려\s?죽|찢어\s?죽|칼로\s?찔러|뒤져라|뒈져|뒤질래|죽어\s?버려라)",
    ),
    # slurs against groups
    _entry(
        0.85,
        "남충 치녀 장녀 맘충 틀딱 식충 짱깨 쪽발 깜둥 똥꼬 흑형 애년 새끼 지년 레년 창녀",
        r"한남충|김치녀|된장녀|맘충|틀딱|급식충|짱깨|쪽발이|깜둥이|똥꼬충|흑형충|장애년|애자\s?새끼|조선족\s?새끼|보지년|걸레년|창녀",
    ),
)
_EVERY_ENTRY = (1 << len(_LEXICON)) - 1


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear function of a passage: the sum of its features' weights over the root of their number, and a constant.

    Attributes:
        weights: Weight of each feature, as a small integer.
        scale: What one of those integers is worth.
        intercept: The constant.
    """

    weights: npt.NDArray[np.int8]
    scale: float
    intercept: float


@dataclass(frozen=True, eq=False)
class Scorer:
    """What looks for toxicity (or bias), how far a passage is like the comments it learned from, and the calibration.

    Comments are rude or friendly in their own words. A passage that is nothing like a comment is judged by words that
    were never judged by people, so the less it is like one, the more must speak against it.

    Attributes:
        target: What is looked for.
        likeness: Whether a passage is like a comment: log odds against clean texts of other kinds.
        slope: Slope of the calibration.
        centre: Score at which the calibrated one is 0.5.
    """

    target: Linear
    likeness: Linear
    slope: float = 1.0
    centre: float = 0.0

    def raw(self, texts: pa.LargeStringArray) -> Scores:
        """Score of each text's worst passage (n,), in log odds before calibration."""
        return _raw(texts, (self, self, self))[0]

    def calibrated(self, raw: Scores) -> Scores:
        """What raw scores (n,) are worth, 0 to 1: the logistic function of slope * (raw - centre)."""
        exponent = np.clip(-self.slope * (raw - self.centre), -80, 80)
        return (1 / (1 + np.exp(exponent))).astype(np.float32)

    def __call__(self, texts: pa.LargeStringArray) -> Scores:
        """Calibrated score of each text (n,), 0 to 1."""
        return self.calibrated(self.raw(texts))


class Found(NamedTuple):
    """What many texts (n) are found to be, each score 0 to 1.

    Attributes:
        toxicity: Toxicity (n,), as :func:`score_column` finds it.
        hate: Hate (n,), as :func:`hate_column` finds it.
        bias: Bias (n,), as :func:`bias_column` finds it.
    """

    toxicity: Scores
    hate: Scores
    bias: Scores

    def grades(self, threshold: float = 0.5) -> list[Grade]:
        """Grade of each text.

        Args:
            threshold: Score from which on a text is offensive or worse, 0 to 1.
        """
        worse = np.where(self.hate >= max(threshold, HATE), 2, self.toxicity >= threshold)
        return [_GRADES[place] for place in worse.tolist()]


def _raw(texts: pa.LargeStringArray, scorers: tuple[Scorer, Scorer, Scorer]) -> Scores:
    """Raw scores (3, n) of scorers that know the same likeness: what a text's features are is found out once."""
    from tollgate.gates import toxicity_kernels as kernels

    scores = np.empty((len(scorers), len(texts)), np.float32)
    known = (*buffers(texts), _classes(), *_tables(scorers))
    in_parts(len(texts), lambda first, last: kernels.score(*known, first, last, scores))
    return scores


@functools.lru_cache(maxsize=4)
def _tables(scorers: tuple[Scorer, Scorer, Scorer]) -> tuple[npt.NDArray[np.uint32], Scores]:
    """Weights and terms of scorers as the kernel takes them."""
    from tollgate.gates.toxicity_kernels import packed

    parts = (*(one.target for one in scorers), scorers[0].likeness)
    terms = [term for part in parts for term in (part.scale, part.intercept)]
    weights = packed(np.column_stack([part.weights for part in parts]))
    return weights, np.array([*terms, _UNLIKENESS_SLOPE, _ALIKE], np.float32)


def score(text: str) -> float:
    """Score a text, 0 (clean) to 1, three decimals; from 0.5 on it counts as toxic."""
    return round(float(score_column([text])[0]), 3)


def worst(texts: Iterable[str]) -> float:
    """The highest score among several texts; 0 where there are none."""
    return max(map(score, texts), default=0.0)


def score_column(texts: pa.Array | pa.ChunkedArray | list[str]) -> Scores:
    """Score many texts.

    Args:
        texts: The texts (n).

    Returns:
        Scores (n,), 0 (clean) to 1; from 0.5 on a text counts as toxic.
    """
    column = text_column(texts)
    return np.maximum(load("toxicity")(column), lexicon_column(column))


def hate_column(texts: pa.Array | pa.ChunkedArray | list[str]) -> Scores:
    """How likely many texts are hateful rather than clean; what is merely offensive lies between.

    Args:
        texts: The texts (n).

    Returns:
        Scores (n,), 0 to 1; from 0.5 on a text is nearer to hate than to a clean one. Plain abuse that the lexicon
        knows counts as hateful.
    """
    column = text_column(texts)
    return np.maximum(load("hate")(column), lexicon_column(column))


def bias_column(texts: pa.Array | pa.ChunkedArray | list[str]) -> Scores:
    """How likely many texts are biased, against a gender or another group of people.

    Args:
        texts: The texts (n).

    Returns:
        Scores (n,), 0 to 1; from 0.5 on a text counts as biased. Rougher than toxicity: a hint, not a verdict.
    """
    return load("bias")(text_column(texts))


def score_columns(texts: pa.Array | pa.ChunkedArray | list[str]) -> Found:
    """Toxicity, hate and bias of many texts (n), in the time of one of them."""
    column, scorers = text_column(texts), (load("toxicity"), load("hate"), load("bias"))
    toxic, hateful, biased = (
        scorer.calibrated(raw) for scorer, raw in zip(scorers, _raw(column, scorers), strict=True)
    )
    abuse = lexicon_column(column)
    return Found(np.maximum(toxic, abuse), np.maximum(hateful, abuse), biased)


def lexicon_column(texts: pa.LargeStringArray) -> Scores:
    """The score of each text (n,) by the lexicon alone, as :func:`lexicon_score` finds it."""
    import pyarrow as pa

    scores = np.zeros(len(texts), np.float32)
    entries = _entries_to_search(texts)
    rows = np.flatnonzero(entries)
    found = texts.take(pa.array(rows)).to_pylist()
    scores[rows] = [lexicon_score(text, some) for text, some in zip(found, entries[rows].tolist(), strict=True)]
    return scores


def lexicon_score(text: str, entries: int = _EVERY_ENTRY) -> float:
    """Score a text by the lexicon alone, 0 (no hit) to 1.

    Args:
        text: The text.
        entries: A bit for each entry of the lexicon that the text may hold.
    """
    clean = 1.0
    for number, entry in enumerate(_LEXICON):
        if entries >> number & 1 and entry.pattern.search(text):
            clean *= 1 - entry.weight
    return 1 - clean


@functools.cache
def load(target: Target) -> Scorer:
    """The scorer that is shipped."""
    with np.load(MODEL) as stored:
        slope, centre = stored[f"{target}_calibration"].tolist()
        return Scorer(_linear(stored, target), _linear(stored, "likeness"), slope, centre)


def _linear(stored: Mapping[str, npt.NDArray[Any]], name: str) -> Linear:
    scale, intercept = stored[f"{name}_terms"].tolist()
    return Linear(stored[f"{name}_weights"], scale, intercept)


def _entries_to_search(texts: pa.LargeStringArray) -> npt.NDArray[np.uint32]:
    """For each text (n,) a bit for each entry of the lexicon of which it holds a pair."""
    from tollgate.gates import toxicity_kernels as kernels

    found = np.zeros(len(texts), np.uint32)
    known = (*buffers(texts), _classes(), *_pairs_looked_for())
    in_parts(len(texts), lambda first, last: kernels.entries_with_a_pair(*known, first, last, found))
    return found


@functools.cache
def _classes() -> npt.NDArray[np.uint8]:
    from tollgate.gates.character_kernels import character_classes

    return character_classes()


@functools.cache
def _pairs_looked_for() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """A small number for each slot of pairs (0: for none of them), and the entries that each number stands for."""
    from tollgate.gates import toxicity_kernels as kernels

    entries: dict[int, int] = {}
    for number, entry in enumerate(_LEXICON):
        for pair in entry.pairs:
            slot = int(kernels.slot_of_pair(ord(pair[0]), ord(pair[-1])))
            entries[slot] = entries.get(slot, 0) | 1 << number
    numbers = np.zeros(1 << kernels.PAIR_BITS, np.uint8)
    numbers[list(entries)] = np.arange(1, len(entries) + 1)
    return numbers, np.array([0, *entries.values()], np.uint32)
