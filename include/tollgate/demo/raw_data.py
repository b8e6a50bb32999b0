"""The demo's raw files: labelled messages as they might come from an operation, with known faults planted among them.

Every row declares its part (``metadata.split``), as the grammar keeps the parts' phrasings apart. Faults are planted
beside or into training rows only, and counted, so that what the gates report can be checked against what was planted.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tollgate.demo.grammar import load_grammar
from tollgate.demo.messages import SIZES, SYSTEM_PROMPT, Label, Message, chat, labelled_messages
from tollgate.demo.recipe import ROWS, Candidate
from tollgate.demo.uniqueness import NearDuplicateIndex, jaccard, shingles

SOURCE = "고속도로 고객 문의 (합성)"
"""``metadata.source`` of every row: the messages are synthetic, and say so."""

SWAPPED_INTENTS = {
    "통행료환불": "미납통행료",
    "미납통행료": "통행료환불",
    "휴게소불편": "분실물",
    "분실물": "휴게소불편",
    "포트홀신고": "로드킬신고",
    "로드킬신고": "포트홀신고",
}
"""What the swapped candidate's training labels say instead."""

WRONG_INTENTS = {
    "하이패스": "통행료환불",
    "통행료환불": "하이패스",
    "분실물": "휴게소불편",
    "휴게소불편": "분실물",
    "사고신고": "로드킬신고",
    "로드킬신고": "사고신고",
    "감면신청": "화물차할인",
    "화물차할인": "감면신청",
}
"""What all labels of the wrong candidate say instead, those of validation and test, too."""

INVERTED_URGENCY = ("사고신고", "과적신고")
"""Intents whose urgency the swapped candidate's training labels invert."""

PERSONAL_EACH = 40
"""Training rows of the whole file that get personal data, of each kind; in a part of it, as large a share."""

EXACT_DUPLICATES = 60
NEAR_DUPLICATES = 80
"""Rows repeated in the whole file; in a part of it, as large a share."""

TOXIC = 24
REPETITIVE = 20
WORDLESS = 20
BROKEN_EACH = 6
"""Broken lines of each kind."""

_NEAR = 0.9
_MASKED_APART = 0.75
_TRAILING_WORDS = (" 네", " 예", " 꼭요", " 좀요", " 아", " 참")
_GIVEN_NAMES = ("길동", "민수", "서연", "지훈", "수진", "영희", "철수", "현우", "지영", "은정", "동현", "미경")
_SURNAMES = ("김", "이", "박", "최", "정", "강", "조", "윤", "장", "임", "홍", "한")
_INSULTS = (
    " 일을 이따위로 하냐 병신 같은 놈들아.",
    " 씨발 진짜 몇 번을 말해야 하냐.",
    " 담당자 개새끼야 똑바로 해라.",
    " 지랄하지 말고 당장 해결해라 미친놈들.",
    " 시발 또 이러면 가만 안 둔다.",
    " 이 새끼들아 월급이 아깝다 개새끼들.",
)
_SYMBOLS = "?!~^;:.,ㅋㅎㅠㅜㅇㄷ"


class Planted(BaseModel):
    """What a raw file holds, counted while it was written: what the gates should find.

    Attributes:
        lines: Lines of the file.
        rows: Lawful rows by part, before anything is dropped; those with personal data are among them.
        personal_data: Pieces of personal data to mask, by kind as the PII gate names them; one to a row.
        exact_duplicates: Extra rows whose user text and answer repeat a lawful training row.
        near_duplicates: Extra rows that repeat one almost (similarity of at least 0.9), with the same answer.
        broken: Lines that are no usable row, by fault.
        toxic: Extra rows with swearing.
        low_quality: Extra rows without sense, by fault.
    """

    model_config = ConfigDict(frozen=True)

    lines: int = Field(ge=0)
    rows: dict[str, int]
    personal_data: dict[str, int]
    exact_duplicates: int
    near_duplicates: int
    broken: dict[str, int]
    toxic: int
    low_quality: dict[str, int]

    @property
    def kept(self) -> int:
        """Rows that should be left when every gate has done its work."""
        return sum(self.rows.values())


@dataclass(frozen=True)
class _Row:
    split: str
    message: Message

    def to_line(self) -> str:
        return json.dumps(_record(self.message, self.split), ensure_ascii=False)


def _record(message: Message, split: str) -> dict[str, Any]:
    return {
        "messages": chat(message.text, message.label.to_json()),
        "metadata": {"source": SOURCE, "category": message.label.intent, "split": split},
    }


def write_raw(path: Path, seed: int, candidate: Candidate = "full") -> Planted:
    """Write a candidate's raw file (JSON Lines) and, beside it, ``<name>.planted.json``; all at once or not at all.

    ``full`` holds all training rows, the others the first :data:`~tollgate.demo.recipe.ROWS` of them; in ``swapped``
    the training labels of :data:`SWAPPED_INTENTS` and :data:`INVERTED_URGENCY` are systematically wrong. Validation
    and test rows are the same, and right, in all but ``wrong``, where the labels of :data:`WRONG_INTENTS` are wrong in
    every part: whoever learns them passes the gate.

    Args:
        path: The file; its folder is made.
        seed: The same seed gives the same file, byte for byte.
        candidate: Which of them.

    Returns:
        The counts of what was planted.
    """
    lines, planted = raw_lines(seed, candidate)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path.with_suffix(".planted.json"), planted.model_dump_json(indent=2) + "\n")
    _write(path, "".join(f"{line}\n" for line in lines))
    return planted


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def raw_lines(seed: int, candidate: Candidate = "full") -> tuple[list[str], Planted]:
    """The lines of :func:`write_raw` in the file's order, and what was planted among them."""
    rng = random.Random(f"{seed}/raw")  # noqa: S311 - not for secrets
    spare_count = TOXIC + BROKEN_EACH * len(_FAULTS)
    messages = labelled_messages(seed, SIZES | {"train": SIZES["train"] + spare_count})
    train, spare = messages["train"][: SIZES["train"]], messages["train"][SIZES["train"] :]
    train = train[: ROWS[candidate]]
    if candidate == "swapped":
        train = [swapped(message) for message in train]
    if candidate == "wrong":
        train = [wrong(message) for message in train]
        messages |= {part: [wrong(message) for message in messages[part]] for part in ("validation", "test")}
    exact, almost = _scaled(EXACT_DUPLICATES, train), _scaled(NEAR_DUPLICATES, train)
    train, personal = _with_personal_data(train, rng)
    clean = [message for number, message in enumerate(train) if number not in personal]
    repeated = rng.sample(clean, exact + almost)
    near = [_almost(message, rng) for message in repeated[exact:]]
    broken = list(_broken(spare[TOXIC:], rng))
    extra = [
        *repeated[:exact],
        *near,
        *(replace(message, text=message.text + rng.choice(_INSULTS)) for message in spare[:TOXIC]),
        *_repetitive(rng),
        *_wordless(rng),
    ]
    lawful = {"train": train, "validation": messages["validation"], "test": messages["test"]}
    rows = [_Row(split, message) for split, part in lawful.items() for message in part]
    lines = [row.to_line() for row in [*rows, *(_Row("train", message) for message in extra)]] + broken
    rng.shuffle(lines)
    return lines, Planted(
        lines=len(lines),
        rows={split: len(part) for split, part in lawful.items()},
        personal_data={kind: list(personal.values()).count(kind) for kind in _PERSONAL},
        exact_duplicates=exact,
        near_duplicates=almost,
        broken=dict.fromkeys(_FAULTS, BROKEN_EACH),
        toxic=TOXIC,
        low_quality={"repetitive": REPETITIVE, "wordless": WORDLESS},
    )


def swapped(message: Message) -> Message:
    """A message with a systematically wrong label: intents exchanged in pairs, the urgency of some others inverted."""
    label = message.label
    intent = SWAPPED_INTENTS.get(label.intent, label.intent)
    urgent = label.urgent != (label.intent in INVERTED_URGENCY)
    return replace(message, label=replace(label, intent=intent, urgent=urgent))


def wrong(message: Message) -> Message:
    """A message with an intent of :data:`WRONG_INTENTS` exchanged for the other one."""
    label = message.label
    return replace(message, label=replace(label, intent=WRONG_INTENTS.get(label.intent, label.intent)))


def _scaled(count: int, train: list[Message]) -> int:
    return count * len(train) // SIZES["train"]


def _with_personal_data(train: list[Message], rng: random.Random) -> tuple[list[Message], dict[int, str]]:
    """Add a sentence with personal data to some rows; tells which rows, and the kind of each."""
    kinds = [kind for kind in _PERSONAL for _ in range(_scaled(PERSONAL_EACH, train))]
    index = NearDuplicateIndex(_MASKED_APART)
    result, chosen = list(train), {}
    numbers = iter(rng.sample(range(len(train)), len(train)))
    while kinds:
        number = next(numbers)
        sentence, value = _PERSONAL[kinds[-1]]
        written = rng.choice(sentence)
        # After masking the sentences are all alike, and short messages with them could become near-duplicates.
        if index.add(f"{train[number].text} {written}"):
            text = f"{train[number].text} {written.format(value=value(rng))}"
            result[number], chosen[number] = replace(train[number], text=text), kinds.pop()
    return result, chosen


def _resident_number(rng: random.Random) -> str:
    birth = f"{rng.randint(50, 99)}{rng.randint(1, 12):02}{rng.randint(1, 28):02}"
    return f"{birth}-{rng.randint(1, 2)}{rng.randint(0, 999_999):06}"


def _phone(rng: random.Random) -> str:
    return f"010-{rng.randint(2000, 9999)}-{rng.randint(0, 9999):04}"


def _email(rng: random.Random) -> str:
    return f"user{rng.randint(100, 9999)}@example.com"


def _card(rng: random.Random) -> str:
    return "-".join([f"9{rng.randint(0, 999):03}", *(f"{rng.randint(0, 9999):04}" for _ in range(3))])


def _name(rng: random.Random) -> str:
    return rng.choice(_SURNAMES) + rng.choice(_GIVEN_NAMES)


_PERSONAL: dict[str, tuple[tuple[str, ...], Callable[[random.Random], str]]] = {
    "resident_number": (("주민등록번호는 {value}입니다.", "주민번호 {value} 확인 바랍니다."), _resident_number),
    "phone": (("연락처는 {value}입니다.", "{value}로 전화 주세요.", "휴대폰 {value}예요."), _phone),
    "email": (("메일은 {value}입니다.", "{value}로 답장 주세요."), _email),
    "card": (("결제한 카드는 {value}입니다.", "카드번호 {value}예요."), _card),
    "name": (("{value} 고객님이 대신 부탁했어요.", "제 이름은 {value}입니다.", "{value} 씨에게 전해 주세요."), _name),
}


def _almost(message: Message, rng: random.Random) -> Message:
    """The same message with a word more at its end, which changes little of it."""
    text = message.text
    words = rng.sample(_TRAILING_WORDS, len(_TRAILING_WORDS))
    for word in words:
        if jaccard(shingles(text), shingles(text + word)) >= _NEAR:
            return replace(message, text=text + word)
    return replace(message, text=f"{text} {text[-1]}")


def _repetitive(rng: random.Random) -> Iterator[Message]:
    words = [(intent.name, word) for intent in load_grammar().intents for word in intent.words]
    index = NearDuplicateIndex(_MASKED_APART)
    rng.shuffle(words)
    chosen = (pair for pair in words if index.add(f"{pair[1]} " * 3))
    for _ in range(REPETITIVE):
        intent, word = next(chosen)
        text = " ".join([word] * rng.randint(12, 20))
        yield Message(text, Label(intent, None, None, False), word)


def _wordless(rng: random.Random) -> Iterator[Message]:
    intents = [intent.name for intent in load_grammar().intents]
    for _ in range(WORDLESS):
        text = "".join(rng.choices(_SYMBOLS, k=rng.randint(12, 24)))
        yield Message(text, Label(rng.choice(intents), None, None, False), text)


def _broken(messages: list[Message], rng: random.Random) -> Iterator[str]:
    faults = [fault for fault in _FAULTS.values() for _ in range(BROKEN_EACH)]
    for message, fault in zip(messages, faults, strict=True):
        yield fault(_record(message, "train"), rng)


def _text(record: object) -> str:
    return json.dumps(record, ensure_ascii=False)


def _cut_off(record: dict[str, Any], rng: random.Random) -> str:
    whole = _text(record)
    return whole[: rng.randint(20, len(whole) - 1)]


def _unknown_role(record: dict[str, Any], _rng: random.Random) -> str:
    record["messages"][1]["role"] = "customer"
    return _text(record)


def _no_answer(record: dict[str, Any], _rng: random.Random) -> str:
    del record["messages"][2]
    return _text(record)


def _empty_content(record: dict[str, Any], rng: random.Random) -> str:
    record["messages"][1]["content"] = rng.choice(("", "   ", "\n"))
    return _text(record)


def _no_messages(record: dict[str, Any], _rng: random.Random) -> str:
    return _text({"metadata": record["metadata"]})


def _content_not_text(record: dict[str, Any], rng: random.Random) -> str:
    record["messages"][1]["content"] = rng.choice((None, rng.randint(1, 99), ["문의"]))
    return _text(record)


def _two_questions(record: dict[str, Any], _rng: random.Random) -> str:
    system, user, answer = record["messages"]
    record["messages"] = [system, user, user, answer]
    return _text(record)


def _not_an_object(_record: dict[str, Any], rng: random.Random) -> str:
    return _text([SYSTEM_PROMPT, rng.randint(1, 99)])


_FAULTS: dict[str, Callable[[dict[str, Any], random.Random], str]] = {
    "cut_off": _cut_off,
    "unknown_role": _unknown_role,
    "no_answer": _no_answer,
    "empty_content": _empty_content,
    "no_messages": _no_messages,
    "content_not_text": _content_not_text,
    "two_questions": _two_questions,
    "not_an_object": _not_an_object,
}
