"""More dialogues from few: copies with other names, dates, wordings of times, and addresses.

Within a copy everything stays consistent: a name or an address is replaced by the same other one in all turns, and all
dates move by the same whole number of weeks, so that days of the week stay right. Replacements end in the same kind of
sound as what they replace, so that the particles behind them stay right ("김민수가" never becomes "박지훈가"). What is
changed follows from the seed, the dialogue's content and the number of the copy alone.

Copies are made of the training part only, and every row declares its part: no copy of a test dialogue is trained on.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field

from tollgate import __version__
from tollgate.dataset import readers, split
from tollgate.dataset.layouts import FieldMapping
from tollgate.dataset.locks import sync
from tollgate.dataset.schema import Example, Message, RowProblem
from tollgate.errors import BadInputError, Problem
from tollgate.gates import pii

Kind = Literal["names", "dates", "addresses"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_SURNAMES = "김이박최정강조윤장임한오서신권황안송류홍"
_GIVEN_NAMES = (
    "민수서연지후도윤하은예준지우시우수아주원하율지호윤서준서채원지민은서현우서진가영동현나래성호미경재훈은지태경소라"
    "영희철수정숙광수보람슬기한결가을이슬새별하늘한별"
)
"""Of two syllables each."""

_PLACES = (
    ("서울특별시", "서울", "강남구", "테헤란로", "역삼동"),
    ("서울특별시", "서울", "마포구", "월드컵북로", "상암동"),
    ("서울특별시", "서울", "송파구", "올림픽로", "잠실동"),
    ("부산광역시", "부산", "해운대구", "센텀중앙로", "우동"),
    ("대구광역시", "대구", "수성구", "달구벌대로", "범어동"),
    ("인천광역시", "인천", "연수구", "컨벤시아대로", "송도동"),
    ("광주광역시", "광주", "서구", "상무중앙로", "치평동"),
    ("대전광역시", "대전", "유성구", "대덕대로", "도룡동"),
    ("경기도", "경기", "성남시 분당구", "판교역로", "삼평동"),
    ("경기도", "경기", "수원시 영통구", "광교중앙로", "이의동"),
    ("강원특별자치도", "강원", "춘천시", "중앙로", "효자동"),
    ("전북특별자치도", "전북", "전주시 완산구", "홍산로", "효자동"),
)
_PARTS_OF_DAY = {"새벽": (0, 6), "아침": (6, 11), "오전": (0, 12), "오후": (12, 24), "저녁": (17, 22), "밤": (20, 24)}
_DATE = re.compile(
    r"(?<!\d)(?:(?P<year>\d{4})(?P<after_year>년 ?|[-./]))?(?P<month>\d{1,2})(?P<after_month>월 ?|[-./])"
    r"(?P<day>\d{1,2})(?P<end>일)?(?!\d)"
)
_TIME = re.compile(
    r"(?<![가-힣])(?P<part>새벽|아침|오전|오후|저녁|밤) ?(?P<hour>\d{1,2})시"
    r"(?: ?(?P<half>반)(?![가-힣]{2})| ?(?P<minute>\d{1,2})분)?"
)
_COMMON_YEAR = 2025  # for dates without a year: no 29th of February comes of them
_MOST_WEEKS = 26
_FINAL_OF_DIGIT = dict(
    zip("0123456789", (21, 8, 0, 16, 0, 0, 1, 8, 8, 0), strict=True)
)  # 영 일 이 삼 사 오 육 칠 팔 구
_RIEUL = 8
_TRIES = 40


class Augmentation(BaseModel):
    """What a run did, as kept beside its output."""

    model_config = ConfigDict(frozen=True)

    source: str
    sha256: str = Field(description="SHA-256 of the source's bytes, in hexadecimal.")
    seed: int
    copies: int = Field(description="Most copies of each training dialogue.")
    kinds: tuple[Kind, ...]
    originals: int
    written: int = Field(description="Originals and copies.")
    copied: int = Field(description="Copies.")
    without_copy: int = Field(description="Training dialogues that hold nothing to change.")
    unreadable: int = Field(description="Rows of the source that are no dialogue.")
    changed: dict[Kind, int] = Field(description="Pieces changed in the copies, by kind.")
    parts: dict[str, int] = Field(description="Rows of each part, copies included.")
    code_version: str


@dataclass(frozen=True)
class _Copy:
    messages: tuple[Message, ...]
    changed: Counter[Kind]


def augment(dialogue: Example, kinds: Collection[Kind], seed: int, number: int) -> Example | None:
    """One copy of a dialogue with other names, dates and addresses.

    Args:
        dialogue: The dialogue.
        kinds: What to change.
        seed: Another seed, another copy.
        number: Which copy, from 1.

    Returns:
        The copy, or None where there is nothing to change.
    """
    copy = _copy(dialogue, kinds, seed, number)
    return Example(messages=copy.messages, metadata=dialogue.metadata) if copy else None


def write(source: Path, target: Path, kinds: Collection[Kind], copies: int, seed: int) -> Augmentation:
    """Write the dialogues of a file and copies of its training part as JSON lines, whole or not at all.

    Each row says in its metadata its part, and each copy from which line it comes, with which seed, and what was
    changed. What was done stands beside it, in ``<target>.augmentation.json``. Rows that declare their parts keep them;
    else a tenth each becomes validation and test.

    Raises:
        BadInputError: The source can't be read or holds no dialogue, or the target is there already.
    """
    note = target.with_name(f"{target.name}.augmentation.json")
    for path in (target, note):
        if path.exists():
            raise BadInputError("The output would overwrite something", [Problem("target", str(path), "a new file")])
    found, unreadable = _read(source)
    parts = _parts([dialogue for _, dialogue in found], seed)
    counts: Counter[str] = Counter()
    changed: Counter[Kind] = Counter()
    temporary = target.with_name(f".{target.name}.writing")
    with temporary.open("wb") as file:
        for (line, dialogue), part in zip(found, parts, strict=True):
            file.write(_row(dialogue, part))
            counts[part] += 1
            if part != "train":
                continue
            made = list(_copies(dialogue, kinds, copies, seed))
            counts["without_copy"] += not made
            for number, copy in made:
                origin = {"line": line, "copy": number, "seed": seed, "changed": dict(sorted(copy.changed.items()))}
                file.write(_row(Example(messages=copy.messages, metadata=dialogue.metadata), part, origin))
                counts[part] += 1
                counts["copied"] += 1
                changed.update(copy.changed)
    summary = Augmentation(
        source=str(source),
        sha256=readers.sha256(source),
        seed=seed,
        copies=copies,
        kinds=tuple(kind for kind in KINDS if kind in kinds),
        originals=len(found),
        written=len(found) + counts["copied"],
        copied=counts["copied"],
        without_copy=counts["without_copy"],
        unreadable=unreadable,
        changed=dict(sorted(changed.items())),
        parts={part: counts[part] for part in ("train", "validation", "test")},
        code_version=__version__,
    )
    note.write_text(summary.model_dump_json(indent=2), encoding="utf-8")
    sync(temporary)
    temporary.rename(target)
    return summary


def _read(source: Path) -> tuple[list[tuple[int, Example]], int]:
    found, unreadable = [], 0
    for line, outcome in readers.read(source, FieldMapping(order_state="every")):
        if isinstance(outcome, RowProblem):
            unreadable += 1
        else:
            found.append((line, outcome))
    if not found:
        problem = Problem(str(source), f"{unreadable} rows, all unreadable", "at least one dialogue")
        raise BadInputError("The source holds no dialogue", [problem])
    return found, unreadable


def _parts(dialogues: Sequence[Example], seed: int) -> list[str]:
    declared = [dialogue.metadata.split for dialogue in dialogues]
    if all(part is not None for part in declared):
        return [str(part) for part in declared]
    keys = np.array([_key(dialogue) for dialogue in dialogues], np.uint64)
    _, clusters = np.unique(keys, return_inverse=True)
    categories = [dialogue.metadata.category for dialogue in dialogues]
    return split.assign(keys, clusters.astype(np.int64), categories, split.Shares(), seed).to_list()


def _key(dialogue: Example) -> int:
    content = orjson.dumps([[turn.role, turn.content] for turn in dialogue.messages])
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def _row(dialogue: Example, part: str, origin: Mapping[str, Any] | None = None) -> bytes:
    metadata: dict[str, Any] = {
        "source": dialogue.metadata.source,
        "category": dialogue.metadata.category,
        "split": part,
    }
    if origin is not None:
        metadata["augmentation"] = origin
    messages = [turn.model_dump() for turn in dialogue.messages]
    return orjson.dumps({"messages": messages, "metadata": metadata}, option=orjson.OPT_APPEND_NEWLINE)


def _copies(dialogue: Example, kinds: Collection[Kind], copies: int, seed: int) -> Iterator[tuple[int, _Copy]]:
    """Copies that differ from the original and from each other, with their numbers."""
    seen = {dialogue.messages}
    for number in range(1, copies + 1):
        copy = _copy(dialogue, kinds, seed, number)
        if copy is not None and copy.messages not in seen:
            seen.add(copy.messages)
            yield number, copy


def _copy(dialogue: Example, kinds: Collection[Kind], seed: int, number: int) -> _Copy | None:
    random = np.random.default_rng([seed, number, _key(dialogue)])
    texts = [turn.content for turn in dialogue.messages]
    changed: Counter[Kind] = Counter()
    if "addresses" in kinds:  # before the names, for a place may be called as a person is
        texts = _replaced(texts, _surfaces(texts, "address"), _address, random, changed, "addresses")
    if "names" in kinds:
        texts = _replaced(texts, _surfaces(texts, "name"), _name, random, changed, "names")
    if "dates" in kinds:
        texts = _moved_dates(texts, random, changed)
        spoken = [turn.role == "user" for turn in dialogue.messages]
        texts = [
            _reworded(text, random, changed) if by_user else text for text, by_user in zip(texts, spoken, strict=True)
        ]
    if texts == [turn.content for turn in dialogue.messages]:
        return None
    turns = zip(dialogue.messages, texts, strict=True)
    return _Copy(tuple(Message(role=turn.role, content=text) for turn, text in turns), changed)


def _surfaces(texts: Sequence[str], kind: pii.Kind) -> list[str]:
    """What the search for personal data finds of a kind, each once, the longest first."""
    found = dict.fromkeys(text[one.start : one.end] for text in texts for one in pii.find(text, (kind,)))
    return sorted(found, key=lambda surface: (-len(surface), surface))


def _replaced(
    texts: Sequence[str],
    surfaces: Sequence[str],
    other: Callable[[str, np.random.Generator], str],
    random: np.random.Generator,
    changed: Counter[Kind],
    kind: Kind,
) -> list[str]:
    if not surfaces:
        return list(texts)
    instead = {surface: other(surface, random) for surface in surfaces}
    pattern = re.compile("(?<![가-힣A-Za-z0-9])(?:" + "|".join(map(re.escape, surfaces)) + ")")
    found = [pattern.subn(lambda match: instead[match.group()], text) for text in texts]
    changed[kind] += sum(count for _, count in found)
    return [text for text, _ in found]


def _name(surface: str, random: np.random.Generator) -> str:
    """Another name that ends in the same kind of sound: with a surname if this one has three syllables or more."""
    for _ in range(_TRIES):
        start = 2 * int(random.integers(len(_GIVEN_NAMES) // 2))
        given = _GIVEN_NAMES[start : start + 2]
        surname = _SURNAMES[int(random.integers(len(_SURNAMES)))]
        name = surname + given if len(surface) > 2 else given
        if name != surface and final_sound(name) == final_sound(surface):
            return name
    return surface


def _address(surface: str, random: np.random.Generator) -> str:
    """Another address, by road or by lot, in full or in short, with or without a flat."""
    for _ in range(_TRIES):
        full, short, district, road, quarter = _PLACES[int(random.integers(len(_PLACES)))]
        number = int(random.integers(1, 400))
        region = full if random.integers(2) else short
        if random.integers(3):
            address = f"{region} {district} {road} {number}"
        else:
            address = f"{region} {district} {quarter} {number}-{int(random.integers(1, 60))}"
        if random.integers(2):
            address += (
                f", {int(random.integers(101, 120))}동 {int(random.integers(1, 20))}0{int(random.integers(1, 6))}호"
            )
        if final_sound(address) == final_sound(surface):
            return address
    return surface


def final_sound(text: str) -> Literal["vowel", "rieul", "consonant"]:
    """How a text ends as far as a particle behind it minds; digits as they are read in Sino-Korean.

    From the syllable's place in Unicode's block: 28 finals follow each other, the first of them none.
    """
    last = text[-1:]
    final = _FINAL_OF_DIGIT.get(last, (ord(last) - ord("가")) % 28 if "가" <= last <= "힣" else 0)
    return "vowel" if final == 0 else "rieul" if final == _RIEUL else "consonant"


def _moved_dates(texts: Sequence[str], random: np.random.Generator, changed: Counter[Kind]) -> list[str]:
    """All dates moved by the same number of weeks; dates without a year lie in the first year that is named."""
    years = [int(match["year"]) for text in texts for match in _DATE.finditer(text) if match["year"]]
    year = years[0] if years else _COMMON_YEAR
    weeks = int(random.integers(1, _MOST_WEEKS + 1)) * (1 if random.integers(2) else -1)

    def moved(match: re.Match[str]) -> str:
        korean = match["after_month"].startswith("월")
        if korean != bool(match["end"]) or (not korean and not match["year"]):
            return match.group()  # 3-15 or 3.15 may be anything
        try:
            day = dt.date(int(match["year"] or year), int(match["month"]), int(match["day"])) + dt.timedelta(
                weeks=weeks
            )
        except (ValueError, OverflowError):
            return match.group()
        changed["dates"] += 1
        start = f"{day.year:04d}{match['after_year']}" if match["year"] else ""
        wide = 2 if not korean or match["month"].startswith("0") or match["day"].startswith("0") else 1
        return f"{start}{day.month:0{wide}d}{match['after_month']}{day.day:0{wide}d}{match['end'] or ''}"

    return [_DATE.sub(moved, text) for text in texts]


def _reworded(text: str, random: np.random.Generator, changed: Counter[Kind]) -> str:
    """The same times of the day in other words; the hour stays, and so does the sound at the end."""

    def reworded(match: re.Match[str]) -> str:
        hour = int(match["hour"])
        if match["part"] in {"오후", "저녁", "밤"} and hour < 12:
            hour += 12
        if not 0 < hour < 24 or (match["part"] in {"오전", "새벽", "아침"} and hour >= 12):
            return match.group()
        minute = 30 if match["half"] else int(match["minute"]) if match["minute"] else None
        hour_of_half = hour if hour <= 12 else hour - 12
        heads = [f"{part} {hour_of_half}시" for part, (start, end) in _PARTS_OF_DAY.items() if start <= hour < end]
        if hour > 12:
            heads.append(f"{hour}시")
        tails = [""] if minute is None else [" 반", " 30분"] if minute == 30 else [f" {minute}분"]
        ways = [way for head in heads for tail in tails if (way := head + tail) != match.group()]
        if not ways:
            return match.group()
        changed["dates"] += 1
        return ways[int(random.integers(len(ways)))]

    return _TIME.sub(reworded, text)
