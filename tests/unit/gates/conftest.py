"""A source with known faults, for the tests that run the gates one after the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

PLACES = ["경부", "영동", "서해안", "중부내륙", "남해", "호남", "중앙", "동해", "울산", "서울양양"]
TROUBLES = {
    "포트홀신고": ("노면에 큰 구멍이 생겨 차가 흔들렸습니다", "포장이 깨져 바퀴가 빠질 뻔했어요"),
    "휴게소불편": ("화장실 청소가 안 되어 냄새가 심합니다", "식당 음식이 식어서 나왔고 값도 비싸요"),
}

PLANTED = {
    "rows_in": 48,
    "quarantined": 2,
    "dropped": {"exact_duplicate": 1, "near_duplicate": 1, "toxic": 1, "low_quality": 1, "leak": 0},
    "masked": {"name": 1, "resident_number": 1, "phone": 1, "email": 1, "card": 1},
}


def row(question: str, category: str, **metadata: str) -> dict[str, Any]:
    """A row of the message router."""
    answer = json.dumps({"분류": category, "긴급": False}, ensure_ascii=False)
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "metadata": {"category": category, "source": "test", **metadata}}


def clean_rows() -> list[dict[str, Any]]:
    """Forty rows that no gate takes anything from."""
    return [
        row(f"{place}고속도로 {number * 7 + 3}킬로 지점입니다. {trouble}", category)
        for number, place in enumerate(PLACES)
        for category, troubles in TROUBLES.items()
        for trouble in troubles
    ]


def write(path: Path, rows: Sequence[Any]) -> Path:
    """Write rows as JSONL; a text stands for itself."""
    lines = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def clean_source(tmp_path: Path) -> Path:
    """A file of rows without fault."""
    return write(tmp_path / "clean.jsonl", clean_rows())


@pytest.fixture
def faulty_source(tmp_path: Path) -> Path:
    """A file with the faults counted in :data:`PLANTED`."""
    rows: list[Any] = clean_rows()
    first = rows[0]["messages"][0]["content"]
    rows += [
        row("  " + first.replace(" ", "  "), "포트홀신고"),
        row(first + "!", "포트홀신고"),
        row(
            "홍길동의 주민등록번호는 123456-1234567입니다. 카드 4111-1111-1111-1111로 낸 요금을 돌려주세요",
            "통행료환불",
        ),
        row("연락처는 010-1234-5678이고 메일은 a.b@example.co.kr입니다. 지갑을 잃어버렸어요", "분실물"),
        row("이 병신 같은 직원들아 단말기나 고쳐라", "하이패스"),
        row("ㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋ", "하이패스"),
        '{"messages": [{"role": "user", "content": "답이 없는 김민수의 질문"}]}',
        '{"messages": [{"role": "user"',
    ]
    return write(tmp_path / "faulty.jsonl", rows)
