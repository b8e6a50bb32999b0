"""What is personal is found however it is written; what only looks like it stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.performance.personal_data import Values, labelled, recall

from tollgate.gates import pii

NUMBERS_ONLY = pii.PersonalDataSettings(names="off")
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
        ("카드 9490-12**-****-9012", "카드 [카드번호]"),
        ("번호는 900101-●●●●●●●", "번호는 [주민등록번호]"),
        ("문의(031-123-4567)", "문의([전화번호])"),
        ("연락처 010-****-5678, 0223456789", "연락처 [전화번호], [전화번호]"),
        ("법인등록번호는 110111-0006249이고", "법인등록번호는 [법인등록번호]이고"),
        ("사업자 １２３－４５－６７８９０", "사업자 [사업자등록번호]"),
        ("여권은 M12345678, M123A4567입니다", "여권은 [여권번호], [여권번호]입니다"),
        ("면허는 11-12-345678-90, 서울-12-345678-90", "면허는 [운전면허번호], [운전면허번호]"),
        ("국민은행 123456-04-123456으로", "국민은행 [계좌번호]으로"),
        ("신한 110123456789로 보내 주세요", "신한 [계좌번호]로 보내 주세요"),
        ("계좌는 농협 9011234427375예요", "계좌는 농협 [계좌번호]예요"),
        ("계좌 110-02-123456-78", "계좌 [계좌번호]"),
        ("계좌 문의는 02-123-4567로", "계좌 문의는 [전화번호]로"),
        ("차는 서울 12가 3456, 123가4568입니다", "차는 [차량번호], [차량번호]입니다"),
        ("접속 IP는 192.168.0.10이고 fe80::1c2d", "접속 IP는 [IP주소]이고 [IP주소]"),
        ("주소는 서울특별시 강남구 테헤란로 152, 1203호 (역삼동)에요", "주소는 [주소]에요"),
        ("집은서울 은평구 응암로34길 16-1이에요", "집은[주소]이에요"),
        ("경기 양평군 서종면 문호리 산 12-3번지로", "[주소]로"),
        ("한빛아파트 101동 1203호로 보내 주세요", "[주소]로 보내 주세요"),
        ("900101/1234567, 010_1234_5678", "[주민등록번호], [전화번호]"),
        ("강남대로 396 (역삼동), 수지구 죽전로 152번길 12, 101-1203호", "[주소], [주소]"),
        ("주소는 무학로 12길 34입니다", "주소는 [주소]입니다"),
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
        "제12조제3항, 2023가단123456, 대법원 98다1234 판결",
        "주문번호 20240115123456, 송장: 123456789012, 승인번호 12345678",
        "15조 2000만 명, 12조 3456억, 30도 2000원, 5주 2024년",
        "경부고속도로 143km 서울 방향 3차로, 서울 강남대로 3차선, 올림픽대로 12km 정체",
        "서울 방향 12번 출구, 부산으로 3시간, 망향휴게소 3번 주유기",
        "버전 10.0.1.2, 3.1.4.1 항, 12:30:45",
        "상품코드 M20240115, 모델명 SM-G991N",
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
        "신청인 A씨는 B씨를 만났고, 김 씨와 이 대리가 함께 갔습니다",
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
    assert pii.mask("계좌로 010-1111-2222", kinds=["bank_account"]).text == "계좌로 010-1111-2222"


def test_a_bank_or_a_word_makes_an_account_certain() -> None:
    def confidence(text: str) -> float:
        (found,) = pii.find(text, kinds=["bank_account"])
        return found.confidence

    number = "110-123-456789"
    assert confidence(number) < 0.6 < confidence(f"계좌는 {number}") < confidence(f"신한은행 {number}")
    assert pii.find("110123456789", kinds=["bank_account"]) == []


def test_masking_json_with_escapes_keeps_it_json() -> None:
    text = json.dumps({"계좌번호": "110123456789", "답": "메일\nhong@example.com", "길": "서울 중구 정동길 3"})
    masked = json.loads(pii.mask(text).text)
    assert list(masked.values()) == ["110123456789", "메일\n[이메일]", "서울 중구 정동길 3"]


def test_a_column_is_searched_like_each_of_its_texts() -> None:
    values = Values(7)
    texts = [one.text for one in labelled(each=20, seed=7)] + ["", "그냥 글", '{"연락처": "010-1234-5678"}']
    texts += [f"{values.email()} {values.phone()}" for _ in range(20)]
    column = pii.mask_column(pa.chunked_array([texts[:9], texts[9:]]), NUMBERS_ONLY)
    kinds = [kind for kind in pii.KINDS if kind != "name"]
    assert column.texts.to_pylist() == [pii.mask(text, kinds).text for text in texts]
    singly = [(row, one.start, one.end, one.kind) for row, text in enumerate(texts) for one in pii.find(text, kinds)]
    found = column.findings
    codes = [pii.KINDS[code] for code in found.kind]
    assert list(zip(found.row, found.start, found.end, codes, strict=True)) == singly
    assert len(pii.find_column(column.texts, NUMBERS_ONLY)) == 0


def test_a_column_with_names() -> None:
    chosen = pii.PersonalDataSettings(allow=("02-123-4567",))
    texts = ["김민수 고객님 02-123-4567", '{"이름": "김민수 고객님"}', None]
    masked = pii.mask_column(pa.array(texts), chosen)
    assert masked.texts.to_pylist() == ["[이름] 고객님 02-123-4567", texts[1], ""]
    assert masked.findings.counts() == {"name": 1}


def test_pseudonyms_stay_the_same_within_a_dialogue() -> None:
    chosen = pii.PersonalDataSettings(pseudonyms=True)
    texts = [
        "010-1111-2222와 010-3333-4444",
        "０１０ １１１１ ２２２２로",
        "010-3333-4444로",
        "[전화번호4] 또는 010-1111-2222",
    ]
    masked = pii.mask_column(texts, chosen, groups=np.array([1, 1, 2, 3]))
    assert masked.texts.to_pylist() == [
        "[전화번호1]와 [전화번호2]",
        "[전화번호1]로",
        "[전화번호1]로",
        "[전화번호4] 또는 [전화번호5]",
    ]
    assert len(pii.mask_column(masked.texts, chosen).findings) == 0
    known = pii.find_column(texts, chosen)
    assert pii.mask_column(texts, chosen, known, np.array([1, 1, 2, 3])).texts.equals(masked.texts)


def test_nothing_shows_a_value() -> None:
    chosen = pii.PersonalDataSettings(allow=("010-9999-8888",))
    column = pii.mask_column(["전화 010-1234-5678"], chosen)
    shown = repr([chosen, column.findings, pii.find("전화 010-1234-5678")])
    assert "1234" not in shown
    assert "9999" not in shown


def test_generated_values_are_found() -> None:
    examples = list(labelled(each=100, seed=3))
    shares = recall(pii.find_column([one.text for one in examples], NUMBERS_ONLY), examples)
    assert set(shares) == set(pii.KINDS) - {"name"}
    assert min(shares.values()) >= 0.97
    assert sum(shares.values()) / len(shares) >= 0.99


@settings(deadline=None, max_examples=60)  # the first call compiles
@given(
    st.lists(
        st.text(alphabet='0123456789９－- .:()+*x가로길동서울구번지계좌차M@a.com[]"{}\t–●', max_size=40),
        min_size=1,
        max_size=5,
    )
)
def test_the_look_at_the_bytes_misses_nothing(texts: list[str]) -> None:
    kinds = [kind for kind in pii.KINDS if kind != "name"]
    assert pii.mask_column(texts, NUMBERS_ONLY).texts.to_pylist() == [pii.mask(text, kinds).text for text in texts]


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
