"""Names beside titles and particles are found, words that look like names stay, and columns are read like texts."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tollgate.demo.grammar import load_grammar
from tollgate.demo.messages import MessageStream
from tollgate.errors import BadInputError
from tollgate.gates import names, pii, pipeline
from tollgate.gates import names_scan_kernels as kernels
from tollgate.gates.gate_settings import GateSettings
from tollgate.gates.names_kernels import BITS, folding
from tollgate.gates.names_tables import tables
from tollgate.gates.training import klue_ner, train_names
from tollgate.gates.training.klue_ner import Labelled
from tollgate.gates.training.name_generator import Messages, NameGenerator, ends_in_consonant, renamed
from tollgate.gates.training.name_material import Material, read_texts

DATA = Path(__file__).parents[4] / "shared" / "data"
KLUE = DATA / "klue-ner" / "klue-ner-v1.1_dev_first3000.tsv"
needs_data = pytest.mark.skipif(not KLUE.is_file(), reason="the data folder is not beside the project")


def found(text: str) -> list[str]:
    return [text[start:end] for start, end, _ in names.find(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("홍길동의 주민등록번호는 123456-1234567입니다.", ["홍길동"]),
        ("김철수 고객님 안녕하세요", ["김철수"]),
        ("담당자 박영희입니다", ["박영희"]),
        ("상담원 연결 후 이서준님께서 전화하셨어요", ["이서준"]),
        ("예금주는 최다은이고 국민은행입니다", ["최다은"]),
        ("어제 통화한 한지민 대리님이 된다고 했어요", ["한지민"]),
        ("차주 남궁민수 씨에게 연락해 주세요", ["남궁민수"]),
        ("정해인과 오세훈이 같이 탔습니다", ["정해인", "오세훈"]),
        ("１층에서 만난 김민재가 신고했어요 👍 이수진도요", ["김민재", "이수진"]),
    ],
)
def test_names_in_messages(text: str, expected: list[str]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "고객님, 경부선 하행선 정체가 심합니다",
        "이용자와 임차인은 배우자의 소유권을 양도하는 경우 신고해야 합니다",
        "서울양양고속도로 가평휴게소에서 하이패스 단말기가 고장났어요",
        "담당자에게 전달해 주세요. 상담사님 감사합니다",
        "민민원 접수합니다. 현현재는 괜찮고 심야야에 운행합니다",
        "",
        "   ",
        "12,345원 ABC !!!",
        "아스팔트 " * 13,
    ],
)
def test_no_names(text: str) -> None:
    assert found(text) == []


def test_a_column_is_read_like_its_texts() -> None:
    texts = ["홍길동 고객님", "", "없음", "긴 글 " * 2000 + "담당자 박영희입니다.\n성명: 김철수", "👍👍 김민수 씨"] * 3
    whole = names.find_column(pa.chunked_array([texts[:4], texts[4:]], pa.string()))
    alone = [(row, start, end) for row, text in enumerate(texts) for start, end, _ in names.find(text)]
    assert list(zip(*(column.tolist() for column in whole[:3]), strict=True)) == alone
    assert {texts[row][start:end] for row, start, end in alone} == {"홍길동", "박영희", "김철수", "김민수"}
    assert [column.dtype for column in whole] == [np.int64, np.int32, np.int32, np.float32]
    assert all(0 < one <= 1 for one in whole[3])
    sliced = names.find_column(pa.array(texts, pa.large_string()).slice(3, 2))
    assert sliced[0].tolist() == [row - 3 for row, _, _ in alone if row in {3, 4}]


def test_blocks_of_rows_join_up(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["홍길동 고객님", "안녕하세요", "", "김철수입니다. 저는 김철수입니다."] * 20
    expected = names.find_column(texts)
    monkeypatch.setattr(names, "_BLOCK", 64)
    assert [one.tolist() for one in names.find_column(texts)] == [one.tolist() for one in expected]


@pytest.mark.skipif(all(find_spec(one) for one in names.ANALYSER), reason="kiwipiepy is installed")
def test_the_accurate_mode_without_its_analyser_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="kiwipiepy"):
        names.find_column(["김철수 고객님"], accurate=True)
    chosen = pii.PersonalDataSettings(names="accurate")
    with pytest.raises(BadInputError, match="kiwipiepy"):
        pii.mask_column(["김철수 고객님"], chosen)
    source = tmp_path / "rows.jsonl"
    source.write_text("{}", encoding="utf-8")
    with pytest.raises(BadInputError, match="kiwipiepy"):
        pipeline.ingest(source, tmp_path / "work", GateSettings(personal_data_names="accurate"))
    assert not (tmp_path / "work").exists()


def test_the_weights_of_both_modes_are_shipped_and_small() -> None:
    folder = Path(names.__file__).with_name("models") / "names"
    assert (folder / "NOTICE").is_file()
    for mode, has_scan in (("fast", True), ("accurate", False)):
        assert (folder / f"{mode}.npz").stat().st_size < 3_000_000
        tagger = names.tagger(mode)
        assert tagger is names.tagger(mode)
        assert bool(len(tagger.scan)) == has_scan
        assert len(tagger.weights) == 1 << BITS


@pytest.mark.skipif(not all(find_spec(one) for one in names.ANALYSER), reason="kiwipiepy is not installed")
def test_the_accurate_mode_finds_names() -> None:
    texts = ["김철수 고객님 안녕하세요", "고속도로에서 사고가 났어요", "담당자 박영희입니다"]
    rows, starts, ends, _ = names.find_column(texts, accurate=True)
    assert [texts[row][start:end] for row, start, end in zip(rows, starts, ends, strict=True)] == ["김철수", "박영희"]


def without_scan(tagger: names.Tagger) -> names.Tagger:
    return replace(tagger, scan=np.empty(0, np.int8))


def spans(tagger: names.Tagger, texts: list[str]) -> set[tuple[int, int, int]]:
    rows, starts, ends, _ = tagger.find_column(pa.array(texts, pa.large_string()))
    return set(zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True))


def test_the_scan_leaves_out_most_words_and_no_long_one() -> None:
    tagger = names.tagger("fast")

    def marked(text: str) -> str:
        codes = folding()[np.array([ord(one) for one in text])].astype(np.int32)
        marks, room = np.empty(len(text), np.uint8), np.empty(kernels.FEATURES, np.uint32)
        known = tagger.tables
        there = kernels.mark_runs(
            codes, len(codes), known.kind, known.syllables, tagger.scan, tagger.least, room, marks
        )
        assert there == marks.any()
        return "".join(one if mark else "_" for one, mark in zip(text, marks, strict=True))

    assert marked("고속도로에서 사고가 났는데 김철수 기사님이 오셨어요").replace("_", "").startswith("김철수")
    assert set(marked("하이패스 단말기를 교체해 주세요. 12:30 OK")) == {"_"}
    assert marked("가나다라마바사아자차카타파하") == "가나다라마바사아자차카타파하"


def test_the_scan_changes_what_is_found_for_few_messages() -> None:
    generator = NameGenerator(["김연아", "박찬호", "소피마르소"], (), seed=5)
    texts = [message.text for message in Messages(generator).some(500)]
    whole, scanned = spans(without_scan(names.tagger("fast")), texts), spans(names.tagger("fast"), texts)
    assert len(whole) > 300
    assert len(whole & scanned) > 0.98 * len(whole)
    assert len(scanned - whole) < 0.02 * len(whole)


def test_names_can_be_left_alone() -> None:
    text = "김철수 고객님 010-1234-5678"
    (masked,) = pii.mask_column([text], pii.PersonalDataSettings(names="off")).texts.to_pylist()
    assert masked == "김철수 고객님 [전화번호]"


def test_names_of_demo_messages() -> None:
    stream = MessageStream(load_grammar(), "test", Random(3))
    messages = [message.text for message in islice(stream, 1000)]
    rows, *_ = names.find_column(messages)
    assert len(rows) <= len(messages) / 200


def test_generated_names_take_the_same_particles_and_are_never_banned() -> None:
    generator = NameGenerator(["김연아", "박찬호", "소피마르소", "톰 행크스"], {"김민수"}, seed=1)
    for name in ("김연아", "박찬호", "소피마르소", "톰 행크스", "이", "A"):
        made = {generator.like(name) for _ in range(30)}
        assert len(made) > 3
        assert "김민수" not in made
        assert {ends_in_consonant(one) for one in made} == {ends_in_consonant(name)}
    sentence = Labelled("김연아가 박찬호를, 김연아가", ((0, 3), (5, 8), (11, 14)))
    (other,) = renamed([sentence], generator, chance=1)
    first, second, third = other.strings()
    assert first == third != second
    assert other.text == f"{first}가 {second}를, {first}가"
    messages = list(Messages(generator).some(300))
    assert sum(bool(message.names) for message in messages) > 100
    assert not any("{" in message.text or "(는)" in message.text for message in messages)


def test_folds_share_no_name() -> None:
    sentences = [Labelled("가나와", ((0, 2),)), Labelled("다라가", ((0, 2),)), Labelled("가나다라", ((0, 2), (2, 4)))]
    sentences += [
        Labelled("마바", ((0, 2),)),
        Labelled("없다", ()),
        Labelled("김씨", ((0, 1),)),
        Labelled("김씨", ((0, 1),)),
    ]
    fold_of = klue_ner.folds(sentences, 2)
    assert len({fold_of[0], fold_of[1], fold_of[2]}) == 1
    assert set(fold_of) == {0, 1}


def test_a_broken_file_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.tsv"
    path.write_text("## first\n가\tB-PS\n나 O\n", encoding="utf-8")
    with pytest.raises(BadInputError) as refused:
        klue_ner.read(path)
    assert "broken.tsv:3" in str(refused.value)


def test_texts_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    text = "첫 문장입니다. 둘째 문장입니다."
    for name, content in (
        ("a.txt", f"{text}\nno Hangul here\n셋\n"),
        ("b.json", json.dumps([{"one": text, "two": "plain"}])),
        ("c.csv", f'1,"{text}"\n'),
        ("d.tsv", f"{text}\tnone\n"),
    ):
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert read_texts([tmp_path / name]) == ["첫 문장입니다.", "둘째 문장입니다."]
    pq.write_table(pa.table({"text": [text, None], "number": [1, 2]}), tmp_path / "e.parquet")
    assert read_texts([tmp_path / "e.parquet"], most=2) == ["첫 문장입니다.", "둘째 문장입니다."]
    assert len(read_texts([tmp_path / "e.parquet"], most=1)) == 1


def test_what_holds_a_banned_name_is_not_learnt_from() -> None:
    sentences = [Labelled("김연아 씨가 왔다", ((0, 3),)), Labelled("비가 왔다", ())]
    left = Material(sentences, ["김연아의 글", "다른 글"], ["글", "또 김연아"]).without({"김연아"})
    assert left == Material([sentences[1]], ["다른 글"], ["글"])


def test_training_is_deterministic_and_learns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (("COPIES", 0), ("MESSAGES", 200), ("DEMO_MESSAGES", 50), ("MODELS", {"fast": 1})):
        monkeypatch.setattr(train_names, name, value)
    sentences = [Labelled("김연아 씨가 왔다", ((0, 3),)), Labelled("오늘은 비가 왔다", ())] * 20
    material = Material(sentences, ["고속도로"])
    paths = [train_names.write(material, tmp_path / folder, 3, "fast") for folder in ("one", "two")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with np.load(paths[0]) as file:
        tagger = names.Tagger.of(dict(file), tables())
    assert train_names.score(tagger, sentences, "fast").f1 == 1


@needs_data
@pytest.mark.real_data
def test_the_shipped_weights_know_their_sentences() -> None:
    sentences = klue_ner.read(KLUE)
    assert train_names.score(names.tagger("fast"), sentences, "fast").f1 > 0.85


@needs_data
@pytest.mark.real_data
def test_law_answers_hardly_ever_alarm() -> None:
    rows = json.loads((DATA / "easylaw" / "easylaw.json").read_text(encoding="utf-8"))
    alarmed = names.find_column([f"{row['instruction']}\n{row['output']}" for row in rows])[0]
    assert len(np.unique(alarmed)) < 0.02 * len(rows)


@needs_data
@pytest.mark.real_data
def test_chat_hardly_ever_alarms() -> None:
    with (DATA / "songys-chatbot" / "ChatbotData.csv").open(encoding="utf-8", newline="") as file:
        texts = [text for row in csv.DictReader(file) for text in (row["Q"], row["A"])]
    alarmed = names.find_column(texts)[0]
    assert len(np.unique(alarmed)) < 0.01 * len(texts)


def test_road_names_are_no_names() -> None:
    places = load_grammar().places
    forms = [form.replace("{route}", route) for route in places.routes for form in places.route_forms]
    texts = [
        f"{form}{after}" for form in forms for after in ("에서 사고가 났어요", " 정체가 심합니다", "은 어디로 가나요?")
    ]
    assert len(names.find_column(texts)[0]) == 0
