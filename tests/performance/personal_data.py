"""How well personal data is found, and how fast: on a generated labelled set, on clean text, beside presidio.

Generated: every kind but names, in the ways people write them (dashes, spaces, full-width digits, particles
attached, with and without a word that says what it is). Clean: 10,000 texts that hold no personal data, from the data
folder beside the project, a third of them with a number that looks like it (amounts, dates, kilometre posts, order
numbers, laws).
"""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa

from tollgate.gates import pii, pii_checksums

DATA = Path(__file__).parents[3] / "shared" / "data"
EACH = 1_000
CLEAN = 10_000
LEAST_RECALL = 0.99
MOST_FALSE_ALARMS = 0.001
LEAST_SPEED = 50.0
SPEED_ROWS = 200_000
ROW_CHARACTERS = 116

_WIDE = str.maketrans({chr(code): chr(code + 0xFEE0) for code in range(0x21, 0x7F)})
_DASHES = ("–", "—", "‐", "−", "－")
_COPULAS = ("입니다", "이에요", "인데요", "이고요", "예요", "이요", "인데", "이라고 합니다")
_PARTICLES = ("로", "으로", "을", "를", "은", "는", "이", "가", "에", "도", "만", "까지", "에서", "의", "와", "하고")
_ENDS = ("", ".", " ", ", ", "!", ")", "\n", '"', "~", " 입니다.")


@dataclass(frozen=True)
class Labelled:
    """A text and where its one value is."""

    text: str
    start: int
    end: int
    kind: pii.Kind


class Values:
    """Made-up values of each kind, no real person's."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)

    def digits(self, count: int) -> str:
        """Random digits."""
        return "".join(self.rng.choice("0123456789") for _ in range(count))

    def birthday(self) -> str:
        """A date as YYMMDD."""
        return f"{self.rng.randrange(100):02}{self.rng.randint(1, 12):02}{self.rng.randint(1, 28):02}"

    def registration(self, sevenths: str) -> str:
        """Thirteen digits, some with the check digit, some partly hidden."""
        head = self.birthday() + self.rng.choice(sevenths)
        fits = pii_checksums.resident if sevenths == "1234" else pii_checksums.foreigner
        body = head + self.digits(5)
        last = next(str(digit) for digit in range(10) if fits(body + str(digit)))
        number = body + (last if self.rng.random() < 0.5 else self.digits(1))
        if self.rng.random() < 0.15:
            number = number[:7] + self.rng.choice("*xX●") * 6
        return self.split(number, (6, 7), allow_none=number.isdigit())

    def split(self, number: str, sizes: Sequence[int], allow_none: bool = True) -> str:
        """A number in groups, with one of the ways to part them."""
        gaps = ["-", "-", "-", " - ", *_DASHES[:3], " "] + [""] * allow_none
        gap = self.rng.choice(gaps)
        ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
        return gap.join(number[end - size : end] for end, size in zip(ends, sizes, strict=True))

    def resident_number(self) -> str:
        """900101-1234567."""
        return self.registration("1234")

    def foreigner_number(self) -> str:
        """900101-5234567."""
        return self.registration("5678")

    def phone(self) -> str:
        """Mobile and land-line, with and without country code."""
        middle, last = self.digits(4), self.digits(4)
        mobile = self.rng.random() < 0.6
        head = self.rng.choice(("010", "010", "010", "011", "016", "019")) if mobile else ""
        if not mobile:
            head = self.rng.choice(("02", "031", "032", "042", "051", "053", "062", "064", "070"))
            middle = str(self.rng.randint(2, 9)) + self.digits(self.rng.choice((2, 3)))
        styles = ["-", "-", "-", " ", ".", *_DASHES[:2], ""]
        gap = self.rng.choice(styles)
        style = self.rng.random()
        if style < 0.12:
            return f"+82{self.rng.choice(' -')}{head[1:]}{gap or '-'}{middle}{gap or '-'}{last}"
        if style < 0.2:
            return f"({head}){self.rng.choice(('', ' '))}{middle}-{last}"
        if style < 0.25 and mobile:
            return f"{head}-****-{last}"
        if style < 0.3 and not mobile:
            return f"{head}) {middle}-{last}"
        return gap.join((head, middle, last))

    def email(self) -> str:
        """An address at a domain."""
        user = "".join(self.rng.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(self.rng.randint(2, 9)))
        user += self.rng.choice(("", "", ".kim", "_lee", "-01", "+news"))
        domain = self.rng.choice(("naver.com", "gmail.com", "daum.net", "ex.co.kr", "mail.example.or.kr", "kakao.com"))
        return f"{user}@{domain}" if self.rng.random() < 0.9 else f"{user} @ {domain}".upper()

    def card(self) -> str:
        """Sixteen digits, nine of ten with Luhn's check digit."""
        body = self.rng.choice(("4", "5", "9", "3", "6")) + self.digits(14)
        last = next(str(digit) for digit in range(10) if pii_checksums.luhn(body + str(digit)))
        number = body + last
        if self.rng.random() < 0.15:
            return f"{number[:4]}-{number[4:6]}**-****-{number[12:]}"
        return self.split(number, (4, 4, 4, 4))

    def bank_account(self) -> str:
        """A bank's name and an account, the account alone being the value; see :func:`labelled`."""
        bank, layout = self.rng.choice(_ACCOUNTS)
        number = "-".join(self.digits(int(size)) for size in layout.split("-"))
        if number[:2] in {"01", "00"}:
            number = "3" + number[1:]
        if self.rng.random() < 0.3:
            number = number.replace("-", "")
        return f"{bank}|{number}"

    def business_number(self) -> str:
        """Ten digits with their check digit, three of four times."""
        body = str(self.rng.randint(101, 799)) + self.digits(6)
        last = next(str(digit) for digit in range(10) if pii_checksums.business(body + str(digit)))
        number = body + (last if self.rng.random() < 0.75 else self.digits(1))
        gap = self.rng.choice(("-", "-", "-", " - ", "–", "－"))
        return gap.join((number[:3], number[3:5], number[5:]))

    def corporate_number(self) -> str:
        """Thirteen digits with their check digit."""
        body = self.rng.choice(("1101", "1201", "1301", "1601", "2301")) + self.rng.choice(("11", "21", "14"))
        body += self.rng.choice("0123") + self.digits(5)
        last = next(str(digit) for digit in range(10) if pii_checksums.corporate(body + str(digit)))
        return f"{body[:6]}{self.rng.choice(('-', '-', ' - ', '–'))}{body[6:]}{last}"

    def passport(self) -> str:
        """Of the old and of the new form."""
        letter = self.rng.choice("MMMMSR")
        if self.rng.random() < 0.5:
            return letter + self.digits(3) + self.rng.choice("ABCDEFGHJK") + self.digits(4)
        return letter + self.rng.choice("345678") + self.digits(7)

    def driver_licence(self) -> str:
        """With a region's code or, as once, its name."""
        tail = (f"{self.rng.randrange(100):02}", self.digits(6), self.digits(2))
        if self.rng.random() < 0.25:
            return f"{self.rng.choice(('서울', '경기', '부산', '제주'))}{self.rng.choice(' -')}{'-'.join(tail)}"
        return self.rng.choice(("-", "-", "–", " - ")).join((str(self.rng.randint(11, 26)), *tail))

    def vehicle_plate(self) -> str:
        """Old ("서울 12가 3456") and new ("123가 4568")."""
        use = self.rng.choice("가나다라마거너더러머버서어저고노도로모보소오조구누두루무부수우주바사아자하허호배")
        space = self.rng.choice(("", "", " "))
        if self.rng.random() < 0.3:
            region = self.rng.choice(("서울", "경기", "부산", "전남", "인천"))
            return f"{region}{self.rng.choice(('', ' '))}{self.rng.randint(10, 99)}{use}{space}{self.digits(4)}"
        return f"{self.rng.choice((self.rng.randint(10, 99), self.rng.randint(100, 699)))}{use}{space}{self.digits(4)}"

    def ip_address(self) -> str:
        """Of version 4 and 6."""
        if self.rng.random() < 0.25:
            groups = [f"{self.rng.randrange(0x1000, 0x10000):x}" for _ in range(8)]
            return self.rng.choice((":".join(groups), f"2001:db8::{groups[0]}", f"fe80::{':'.join(groups[:4])}"))
        return ".".join(str(self.rng.randint(1, 254)) for _ in range(4))

    def address(self) -> str:
        """By road name and by lot."""
        region = self.rng.choice(_PLACES)
        number = f"{self.rng.randint(1, 900)}{self.rng.choice(('', '', f'-{self.rng.randint(1, 40)}'))}"
        detail = self.rng.choice(
            (
                "",
                "",
                ", 3층",
                " 101동 1203호",
                ", 502호",
                " (역삼동)",
                ", 지하 1층",
                " 한빛아파트 103동 201호",
                " 2층 201호",
            )
        )
        if self.rng.random() < 0.3:
            town = self.rng.choice(("역삼동", "신사동", "문호리", "창신동", "구월동", "상대리", "우동", "둔산동"))
            hill = self.rng.choice(("", "", "", "산 "))
            return (
                f"{region} {town} {hill}{number}{self.rng.choice(('', '번지'))}{detail if '층' not in detail else ''}"
            )
        road = self.rng.choice(
            (
                "테헤란로",
                "세종대로",
                "중앙로",
                "판교역로",
                "가온길",
                "해오름1길",
                "무학로 12길",
                "강변북로",
                "대학로",
                "동서대로 123번길",
            )
        )
        return f"{region} {road} {number}{detail}"


_ACCOUNTS_TEXT = (
    "국민은행 6-2-6|신한은행 3-3-6|우리은행 4-3-6|하나은행 3-6-5|기업은행 3-6-2-3|농협 3-4-4-2|카카오뱅크 4-2-7|"
    "토스뱅크 4-4-4|케이뱅크 3-3-6|새마을금고 4-4-4-1|우체국 6-2-6|SC제일은행 3-2-6|신협 3-3-7|수협 4-4-4|"
    "대구은행 3-2-7|부산은행 3-4-4-2|신한 3-3-6|국민 6-2-6|하나 3-6-5|농협은행 3-4-4-2|씨티은행 3-5-3-2|"
    "전북은행 3-2-7"
)
_ACCOUNTS = tuple(account.rsplit(" ", 1) for account in _ACCOUNTS_TEXT.split("|"))
_PLACES_TEXT = (
    "서울특별시 강남구|서울 종로구|서울시 마포구|경기도 성남시 분당구|경기 수원시 영통구|부산광역시 해운대구|"
    "대전 유성구|강원특별자치도 춘천시|전남 여수시 돌산읍|경북 포항시 북구|세종특별자치시|"
    "제주특별자치도 제주시 애월읍|충남 천안시 동남구|인천 남동구|광주광역시 서구|울산 울주군 온산읍|"
    "경남 창원시 의창구|전북 완주군 봉동읍|고양시 일산동구|김포시"
)
_PLACES = tuple(_PLACES_TEXT.split("|"))
_INTRODUCTIONS: dict[pii.Kind, tuple[str, ...]] = {
    "resident_number": ("주민등록번호는 ", "주민번호 ", "제 번호는 ", "본인 확인용 ", "", "주민:"),
    "foreigner_number": ("외국인등록번호는 ", "외국인 번호 ", "등록증에는 ", "", "번호:"),
    "phone": ("연락처는 ", "전화 ", "휴대폰", "Tel.", "", "문의 사항은 ", "☎ ", "번호는"),
    "email": ("메일은 ", "이메일:", "답변은 ", "", "메일주소", "회신처 "),
    "card": ("카드번호 ", "결제한 카드는 ", "카드 ", "", "번호는 "),
    "bank_account": ("{bank} ", "{bank} 계좌번호는 ", "환불 계좌: {bank} ", "계좌는 {bank} ", "{bank}:"),
    "business_number": ("사업자등록번호 ", "사업자번호는 ", "", "사업자:", "세금계산서용 "),
    "corporate_number": ("법인등록번호 ", "법인번호는 ", "법인 번호: "),
    "passport": ("여권번호 ", "여권은 ", "passport ", "여권: "),
    "driver_licence": ("면허번호는 ", "운전면허 ", "", "면허증 번호 "),
    "vehicle_plate": ("차량번호 ", "제 차는 ", "", "차번호는 ", "번호판 ", "흰색 "),
    "ip_address": ("IP는 ", "접속 주소 ", "", "아이피 ", "서버 "),
    "address": ("주소는 ", "배송지: ", "", "집이 ", "거주지 ", "보내실 곳은 "),
}
_LEADS = (
    "",
    "",
    "안녕하세요. ",
    "환불 부탁드립니다. ",
    "어제 14:30에 문의했는데요 ",
    "경부고속도로 143km 지점에서 사고가 났고 ",
    "제가요, ",
)
_TAILS = (
    "",
    " 확인해 주세요.",
    " 감사합니다",
    " 12,000원 환불이요",
    " 빨리 처리 바랍니다.",
    " 2024-01-15에 접수했어요",
)


def labelled(each: int = EACH, seed: int = 0) -> Iterator[Labelled]:
    """Texts with one value each, as many of each kind."""
    values = Values(seed)
    rng = values.rng
    for kind, introductions in _INTRODUCTIONS.items():
        make: Callable[[], str] = getattr(values, kind)
        for _ in range(each):
            value, introduction = make(), rng.choice(introductions)
            if kind == "bank_account":
                bank, value = value.split("|")
                introduction = introduction.format(bank=bank)
            if kind not in {"vehicle_plate", "address", "ip_address"} and rng.random() < 0.12:
                value = value.translate(_WIDE)
            lead = rng.choice(_LEADS) + introduction
            after = rng.choice((*_COPULAS, *_PARTICLES, *_ENDS))
            yield Labelled(lead + value + after + rng.choice(_TAILS), len(lead), len(lead) + len(value), kind)


def clean(count: int = CLEAN, seed: int = 0) -> list[str]:
    """Texts without personal data: from the data folder, every third with a number that looks like some.

    Raises:
        FileNotFoundError: The data folder isn't beside the project.
    """
    rng = Random(seed)
    texts = sorted(set(_public_texts()))
    rng.shuffle(texts)
    return [_with_tricky_number(text, rng) if index % 3 == 0 else text for index, text in enumerate(texts[:count])]


def _public_texts() -> Iterator[str]:
    import pyarrow.parquet as pq

    for row in json.loads((DATA / "easylaw" / "easylaw.json").read_text(encoding="utf-8")):
        yield row["instruction"]
        yield from (line for line in row["output"].split("\n") if "☎" not in line)
    with (DATA / "songys-chatbot" / "ChatbotData.csv").open(encoding="utf-8", newline="") as file:
        yield from chain.from_iterable((row["Q"], row["A"]) for row in islice(csv.DictReader(file), 2_000))
    reviews = pq.ParquetFile(DATA / "nsmc" / "nsmc_reviews_651k_unique.parquet")
    batch = next(reviews.iter_batches(batch_size=6_000))
    yield from (text for text in batch.column(batch.schema.names.index(_text_column(batch))).to_pylist() if text)


def _text_column(batch: pa.RecordBatch) -> str:
    return next(
        field.name for field in batch.schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    )


def _with_tricky_number(text: str, rng: Random) -> str:
    number = rng.choice(_TRICKY)
    filled = "".join(rng.choice("0123456789") if one == "#" else one for one in number)
    return rng.choice((f"{filled} {text}", f"{text} {filled}"))


_TRICKY_TEXT = (
    "요금은 ##,###원입니다|총 1#,###,###원이 청구됐어요|2024-0#-1# 14:3#에 접수|2023. 1#. 0#. 시행|"
    "20240#1#일자 접수건|경부고속도로 1##.#km 지점|영동고속도로 강릉방향 ##k|주문번호 20240115######|"
    "주문번호: ##############|송장 ############|접수번호 2024-######-##|승인번호 ########|제##조제#항제#호|"
    "도로교통법 제1##조의2제#항|2019가합1#####|98다#### 판결|대법원 2005. 3. 11. 선고 2004도#### 판결|"
    "1588-####로 문의|1544 - ####|국번없이 1#0|버전 10.0.#.#|v2.1.#.1 펌웨어|3.1.4.# 항 참고|오전 ##:0#:1#에|"
    "09:00~18:00|연 3.#5%|1#조 2000억|전년 대비 1#.#% 증가|(1##㎡, 3#평)|강남대로 3차선|올림픽대로 ##km 정체|"
    "서울 방향 ##번 출구|중부고속도로 하남 만남의광장 2층|망향휴게소 3번 주유기|국도 3#호선 ###번 지점|"
    "고객센터 080-###-####|ISBN 978-89-####-###-#|모델명 SM-G99#N|시리얼 R3CN#0A####|기온 -1#.#도|1:1 문의 #건|"
    "3대 #로 승리|좌표 37.#####, 127.#####|학번 2019######|사번 10####|상품코드 A########|정원 1##명 중 3#명|"
    "2024년 0#월 1#일 ##시|5#만 3000원|12조 3###억|5주 2024년|제12호 2024. 1. 1.|30#호 강의실|우편번호 0####"
)
_TRICKY = tuple(_TRICKY_TEXT.split("|"))


def recall(found: pii.Findings, examples: Sequence[Labelled]) -> dict[str, float]:
    """Share of the values of each kind that were found as such, from their first to their last character."""
    hits: Counter[str] = Counter()
    columns = (found.row, found.start, found.end, found.kind)
    for row, start, end, kind in zip(*(column.tolist() for column in columns), strict=True):
        one = examples[row]
        hits[one.kind] += pii.KINDS[kind] == one.kind and start <= one.start and one.end <= end
    totals = Counter(one.kind for one in examples)
    return {kind: hits[kind] / total for kind, total in totals.items()}


def measure(rows: int = SPEED_ROWS) -> list[dict[str, Any]]:
    """Measure recall, false alarms and speed.

    Args:
        rows: Rows of 116 characters for the speed.

    Returns:
        For each metric: metric, value, unit, peer, ratio (to the peer's value), must and ok.
    """
    settings = pii.PersonalDataSettings(names="off")
    examples = list(labelled())
    texts = [one.text for one in examples]
    by_kind = recall(pii.find_column(texts, settings), examples)
    peer = _presidio(examples)
    results = [
        _result(f"recall of {kind}", share, "share", LEAST_RECALL, share >= LEAST_RECALL, peer.get(kind))
        for kind, share in by_kind.items()
    ]
    total = sum(by_kind.values()) / len(by_kind)
    results.append(_result("recall of all kinds", total, "share", LEAST_RECALL, total >= LEAST_RECALL))
    if DATA.is_dir():
        negatives = clean()
        wrong = len(pii.find_column(negatives, settings).rows()) / len(negatives)
        results.append(
            _result("false alarms in clean texts", wrong, "share", MOST_FALSE_ALARMS, wrong <= MOST_FALSE_ALARMS)
        )
        results.append(_speed(negatives, settings, rows))
    return results


def _speed(texts: Sequence[str], settings: pii.PersonalDataSettings, rows: int) -> dict[str, Any]:
    """Megabytes of clean UTF-8 per CPU second."""
    joined = " ".join(texts)
    pieces = [joined[start : start + ROW_CHARACTERS] for start in range(0, len(joined), ROW_CHARACTERS)]
    column = pa.array((pieces * (rows // len(pieces) + 1))[:rows], pa.large_string())
    pii.mask_column(pieces[:10], settings)  # compiles the kernel
    begin = time.process_time()
    pii.mask_column(column, settings)
    speed = column.nbytes / 1e6 / (time.process_time() - begin)
    return _result("masking of mostly clean text", speed, "MB per CPU second", LEAST_SPEED, speed >= LEAST_SPEED)


def _result(metric: str, value: float, unit: str, must: float, ok: bool, peer: float | None = None) -> dict[str, Any]:
    return {
        "metric": f"personal data: {metric}",
        "value": round(value, 5),
        "unit": unit,
        "peer": None if peer is None else f"presidio {peer:.3f}",
        "ratio": None if not peer else round(value / peer, 3),
        "must": must,
        "ok": ok,
    }


_PRESIDIO_KINDS = {
    "KR_RRN": "resident_number",
    "KR_FRN": "foreigner_number",
    "KR_PASSPORT": "passport",
    "KR_DRIVER_LICENSE": "driver_licence",
    "KR_BRN": "business_number",
    "CREDIT_CARD": "card",
    "EMAIL_ADDRESS": "email",
    "PHONE_NUMBER": "phone",
    "IP_ADDRESS": "ip_address",
}


def _presidio(examples: Iterable[Labelled]) -> dict[str, float]:
    """Recall of presidio's recognizers for the kinds it knows; empty where presidio isn't installed."""
    try:
        recognizers = _recognizers()
    except ImportError:
        return {}
    hits: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for one in examples:
        totals[one.kind] += 1
        for recognizer in recognizers:
            if one.kind in {_PRESIDIO_KINDS.get(entity) for entity in recognizer.supported_entities}:
                found = recognizer.analyze(one.text, recognizer.supported_entities, None)
                if any(result.start <= one.start and one.end <= result.end for result in found):
                    hits[one.kind] += 1
                    break
    return {kind: hits[kind] / totals[kind] for kind in _PRESIDIO_KINDS.values() if totals[kind]}


def _recognizers() -> list[Any]:
    import tldextract
    from presidio_analyzer import predefined_recognizers as known

    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=())  # the e-mail recognizer would ask the network

    wanted = (
        "KrRrnRecognizer", "KrFrnRecognizer", "KrPassportRecognizer", "KrDriverLicenseRecognizer", "KrBrnRecognizer",
        "CreditCardRecognizer", "EmailRecognizer", "IpRecognizer",
    )  # fmt: skip
    made = [getattr(known, name)() for name in wanted if hasattr(known, name)]
    return [*made, known.PhoneRecognizer(supported_regions=("KR",))]


if __name__ == "__main__":
    for line in measure():
        print(line)
