"""Copies are consistent in themselves, right in their particles, and the same for the same seed."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.unit.dataset.test_order_forms import dialogue

from tollgate.dataset import augmentation, readers
from tollgate.dataset.augmentation import KINDS, Kind, augment, final_sound
from tollgate.dataset.schema import Example
from tollgate.errors import BadInputError

NAMES: tuple[Kind, ...] = ("names",)
DATES: tuple[Kind, ...] = ("dates",)
ORDER = dialogue(
    "안녕하세요, 저는 김민수입니다. 5월 3일 저녁 7시 반에 서울 강남구 테헤란로 152로 보내 주세요.",
    "김민수님, 2025년 5월 3일에 보내겠습니다. "
    '{"name":"김민수","date":"2025-05-03","address":"서울 강남구 테헤란로 152"}',
)


def _copy(number: int = 1, seed: int = 7, kinds: Any = KINDS, of: Example = ORDER) -> list[str]:
    found = augment(of, kinds, seed, number)
    assert found is not None
    return [turn.content for turn in found.messages]


def test_a_copy_is_consistent_in_itself() -> None:
    for number in range(1, 12):
        asked, answered = _copy(number)
        state = json.loads(answered[answered.index("{") :])
        assert "김민수" not in asked + answered
        assert "테헤란로 152" not in asked + answered
        assert f"저는 {state['name']}입니다" in asked
        assert answered.startswith(f"{state['name']}님")
        assert state["address"] in asked
        day = dt.date.fromisoformat(state["date"])
        assert f"{day.month}월 {day.day}일 " in asked
        assert f"{day.year}년 {day.month}월 {day.day}일" in answered
        assert day.weekday() == dt.date(2025, 5, 3).weekday()
        assert day != dt.date(2025, 5, 3)


def test_particles_stay_right() -> None:
    spoken = dialogue("김민수가 박지훈과 서울 강남구 테헤란로 152로 갑니다.", "네, 김민수는 박지훈을 만납니다.")
    for number in range(1, 12):
        asked, answered = _copy(number, kinds=("names", "addresses"), of=spoken)
        first = re.match("(.+?)가 (.+?)과 ", asked)
        assert first, asked
        assert (final_sound(first[1]), final_sound(first[2])) == ("vowel", "consonant")
        assert answered == f"네, {first[1]}는 {first[2]}을 만납니다."
        address = re.search("과 (.+)로 갑니다", asked)
        assert address
        assert final_sound(address[1]) in {"vowel", "rieul"}


@pytest.mark.parametrize(
    ("text", "sound"),
    [
        ("민수", "vowel"),
        ("지훈", "consonant"),
        ("서울", "rieul"),
        ("152", "vowel"),
        ("13", "consonant"),
        ("7", "rieul"),
        ("", "vowel"),
    ],
)
def test_final_sounds(text: str, sound: str) -> None:
    assert final_sound(text) == sound


def test_times_are_reworded_and_stay_the_same_time() -> None:
    ways = {_copy(number, kinds=("dates",))[0] for number in range(1, 40)}
    times = {re.search("일 (.*)에 ", way)[1] for way in ways}  # type: ignore[index]
    assert times == {"저녁 7시 30분", "오후 7시 반", "오후 7시 30분", "19시 반", "19시 30분"}


@pytest.mark.parametrize("text", ["버전 3.15와 1/2", "13월 45일", "02-123-4567번", "2025-02-30", "저녁 25시"])
def test_what_is_no_date_stays(text: str) -> None:
    assert augment(dialogue(text, "네"), DATES, 0, 1) is None


def test_only_what_is_asked_for_is_changed() -> None:
    asked, _ = _copy(kinds=("addresses",))
    assert asked.startswith("안녕하세요, 저는 김민수입니다. 5월 3일 저녁 7시 반에 ")
    assert augment(dialogue("안녕하세요", "네"), KINDS, 0, 1) is None


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    chats = [
        {
            "customer_name": "김민수",
            "messages": [
                {"role": "user", "content": f"저는 김민수입니다. 발렌타인 디너 {number}개 주문합니다."},
                {"role": "assistant", "content": "네, 김민수님.", "order_state": {"dinner": "valentine"}},
            ],
        }
        for number in range(20)
    ]
    path = tmp_path / "chats.json"
    path.write_text(json.dumps([*chats, {"messages": []}], ensure_ascii=False), encoding="utf-8")
    return path


def test_a_run_is_recorded_and_repeats_itself(source: Path, tmp_path: Path) -> None:
    one, other, third = (tmp_path / f"{name}.jsonl" for name in "abc")
    done = augmentation.write(source, one, KINDS, 2, seed=5)
    augmentation.write(source, other, KINDS, 2, seed=5)
    augmentation.write(source, third, KINDS, 2, seed=6)
    assert one.read_bytes() == other.read_bytes() != third.read_bytes()
    rows = _rows(one)
    copies = [row["metadata"] for row in rows if "augmentation" in row["metadata"]]
    assert (done.originals, done.unreadable, done.copied, done.written) == (20, 1, len(copies), len(rows))
    assert done.parts == {"train": 16 + len(copies), "validation": 2, "test": 2}
    assert {copy["split"] for copy in copies} == {"train"}
    assert {copy["augmentation"]["seed"] for copy in copies} == {5}
    assert sum(copy["augmentation"]["changed"]["names"] for copy in copies) == done.changed["names"]
    kept = json.loads((tmp_path / "a.jsonl.augmentation.json").read_text())
    assert (kept["seed"], kept["sha256"]) == (5, readers.sha256(source))
    assert all(isinstance(outcome, Example) for _, outcome in readers.read(one))
    with pytest.raises(BadInputError, match="overwrite"):
        augmentation.write(source, one, KINDS, 2, seed=5)


def test_declared_parts_are_kept(source: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    augmentation.write(source, first, KINDS, 1, seed=5)
    again = augmentation.write(first, second, NAMES, 1, seed=9)
    held_out = [[row for row in _rows(path) if row["metadata"]["split"] != "train"] for path in (first, second)]
    assert held_out[0] == held_out[1]
    assert again.originals == len(_rows(first))


def test_a_file_without_dialogues_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    path.write_text('{"a": 1}\n')
    with pytest.raises(BadInputError, match="1 rows, all unreadable"):
        augmentation.write(path, tmp_path / "out.jsonl", KINDS, 1, 0)
    assert [one.name for one in tmp_path.iterdir()] == ["none.jsonl"]
