"""What is personal is found however it is written; what only looks like it stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.gates import pii

EASYLAW = Path(__file__).parents[4] / "shared" / "data" / "easylaw" / "easylaw.json"


def test_the_requirements_sentence() -> None:
    masked = pii.mask("홍길동의 주민등록번호는 123456-1234567입니다.")
    assert masked.text == "[이름]의 주민등록번호는 [주민등록번호]입니다."
    assert masked.counts == {"name": 1, "resident_number": 1}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("번호는 900101-1234567이고", "번호는 [주민등록번호]이고"),
        ("번호는 900101 - 1234567.", "번호는 [주민등록번호]."),
        ("번호는 900101–1234567.", "번호는 [주민등록번호]."),
        ("번호는 ９００１０１－１２３４５６７입니다", "번호는 [주민등록번호]입니다"),
        ("번호는 9001011234567", "번호는 [주민등록번호]"),
        ("번호는 900101-1******", "번호는 [주민등록번호]"),
        ("외국인은 850505-5123456", "외국인은 [외국인등록번호]"),
        ("연락처는 010-1234-5678입니다", "연락처는 [전화번호]입니다"),
        ("연락처는 01012345678로", "연락처는 [전화번호]로"),
        ("연락처는 010 1234 5678", "연락처는 [전화번호]"),
        ("연락처는 +82 10-1234-5678", "연락처는 [전화번호]"),
        ("연락처는 ０１０－１２３４－５６７８", "연락처는 [전화번호]"),
        ("사무실 (02)123-4567, 031-123-4567", "사무실 [전화번호], [전화번호]"),
        ("메일은 hong.gil@example.co.kr입니다", "메일은 [이메일]입니다"),
        ("메일은ｈｏｎｇ＠example.com으로", "메일은[이메일]으로"),
        ("카드 4111-1111-1111-1111로", "카드 [카드번호]로"),
        ("카드 4111111111111111을", "카드 [카드번호]을"),
        ("카드 9490 1234 5678 9012", "카드 [카드번호]"),
    ],
)
def test_numbers_and_addresses(text: str, masked: str) -> None:
    assert pii.mask(text).text == masked


@pytest.mark.parametrize(
    "text",
    [
        "요금은 12,000원이고 접수번호는 20240115001입니다",
        "2024-01-15 14:30에 123.4km 지점에서",
        "제1588-2504호 문의는 1588-2504로",
        "송장 1234567890123입니다",  # thirteen digits, but no birthday
        "제12조제3항, 2023가단123456",
        "사용자@집 과 a@b",
    ],
)
def test_other_numbers_stay(text: str) -> None:
    assert pii.mask(text).text == text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("홍길동 고객님 안녕하세요", "[이름] 고객님 안녕하세요"),
        ("김민수님께서", "[이름]님께서"),
        ("저는 박서연입니다.", "저는 [이름]입니다."),
        ("제 이름은 오달샘이에요", "제 이름은 [이름]이에요"),
        ("성명: 남궁민수", "성명: [이름]"),
        ("이영희가 신고했습니다", "[이름]가 신고했습니다"),
        ("담당 최철수 과장", "담당 [이름] 과장"),
        ("황보지영 씨의 차", "[이름] 씨의 차"),
    ],
)
def test_names(text: str, masked: str) -> None:
    assert pii.mask(text).text == masked


@pytest.mark.parametrize(
    "text",
    [
        "고속도로는 이용하는 이용자의 안전을 위해 임대인과 임차인이",
        "배우자가 소유권을 양도하는 경우 상속인은 피해자에게",
        "저는 장애인입니다. 저는 임차인입니다. 저는 유공자인데요",
        "고객님, 기사님, 선생님, 사장님께 여쭤봅니다",
        "하이패스 단말기가 고장이 나서 주유소와 휴게소를",
        "제가 신청한 감면이 안 됐어요. 저는 경차입니다",
        "전화번호와 이메일이 바뀌었어요. 이름은 나중에 알려 드릴게요",
        "현재 지점 지지나는 중인데 부모모님 차입니다",
        "정보가 없는 공무원은 조정안을 안정은 중요합니다",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    assert pii.mask(text).text == text


def test_structured_text_keeps_labels_and_structure() -> None:
    label = '{"분류":"하이패스","노선":"경부고속도로","방향":null,"긴급":false}'
    assert pii.mask(label) == pii.Masked(label, {})
    named = '{"이름": "김민수가", "연락처": "010-1234-5678", "번호": 4111111111111111}'
    masked = pii.mask(named).text
    assert json.loads(masked) == {"이름": "김민수가", "연락처": "[전화번호]", "번호": 4111111111111111}


def test_a_checksum_or_a_date_raises_the_confidence() -> None:
    def confidence(text: str) -> float:
        (found,) = pii.find(text)
        return found.confidence

    assert confidence("123456-1234567") < confidence("900101-1234567") < confidence("900101-1234568")
    assert confidence("4111-1111-1111-1112") < confidence("4111-1111-1111-1111")


def test_kinds_and_allowed_texts() -> None:
    text = "02-1234-5678, 010-1111-2222"
    assert pii.mask(text, allow=["02 1234 5678"]).text == "02-1234-5678, [전화번호]"
    assert pii.mask(text, kinds=["email"]).text == text


@given(st.text(alphabet='홍길동김민수의는님씨01234-– @a.com{}[]":', max_size=60))
def test_masking_leaves_nothing_to_find(text: str) -> None:
    assert pii.find(pii.mask(text).text) == []


def test_an_excerpt_shows_the_label_and_little_else() -> None:
    masked = pii.mask("가" * 100 + " 010-1234-5678 " + "나" * 100).text
    excerpt = pii.excerpt(masked, "phone")
    assert "[전화번호]" in excerpt
    assert len(excerpt) < 70


@pytest.mark.real_data
@pytest.mark.skipif(not EASYLAW.is_file(), reason="the data folder is not beside the project")
def test_law_questions_hold_two_telephone_numbers_and_no_names() -> None:
    found: dict[str, int] = {}
    for row in json.loads(EASYLAW.read_text(encoding="utf-8")):
        for text in (row["instruction"], row["output"]):
            for kind, count in pii.mask(text).counts.items():
                found[kind] = found.get(kind, 0) + count
    assert found == {"phone": 2}
