"""Every format gives the same rows; a broken row costs itself, a broken file is refused, nothing gets lost."""

from __future__ import annotations

import csv
import gzip
import io
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tollgate.dataset import readers
from tollgate.dataset.layouts import FieldMapping
from tollgate.dataset.schema import Example, RowProblem
from tollgate.errors import BadInputError

ROWS = [
    {"question": f"{number}번 요금소의 통행료는 얼마인가요?", "answer": f"{number},000원입니다."}
    for number in (1, 2, 3)
]


def _as_json(rows: list[dict[str, str]]) -> str:
    return json.dumps(rows, ensure_ascii=False, indent=2)


def _as_lines(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _as_table(rows: list[dict[str, str]], delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


TEXTS = {
    "rows.json": _as_json(ROWS),
    "rows.jsonl": _as_lines(ROWS),
    "rows.csv": _as_table(ROWS, ","),
    "rows.tsv": _as_table(ROWS, "\t"),
}


def _read(path: Path) -> list[tuple[int, Example | RowProblem]]:
    return list(readers.read(path))


def _questions(path: Path) -> list[str]:
    return [row.messages[0].content if isinstance(row, Example) else f"! {row.reason}" for _, row in _read(path)]


def _as_parquet(rows: list[dict[str, str]]) -> bytes:
    chats = [
        [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}] for row in rows
    ]
    file = io.BytesIO()
    pl.DataFrame({"id": range(len(rows)), "messages": chats}).write_parquet(file)
    return file.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp949"])
@pytest.mark.parametrize("packed", list(PACKERS))
@pytest.mark.parametrize("name", list(TEXTS))
def test_text_formats_and_encodings(tmp_path: Path, name: str, packed: str, encoding: str) -> None:
    path = tmp_path / (name + packed)
    path.write_bytes(PACKERS[packed](TEXTS[name].encode(encoding)))
    assert _questions(path) == [row["question"] for row in ROWS]


@pytest.mark.parametrize("packed", list(PACKERS))
def test_parquet(tmp_path: Path, packed: str) -> None:
    path = tmp_path / f"rows.parquet{packed}"
    path.write_bytes(PACKERS[packed](_as_parquet(ROWS)))
    assert _questions(path) == [row["question"] for row in ROWS]


def test_batches_and_single_rows_agree(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    decomposed = [{key: unicodedata.normalize("NFD", text) for key, text in row.items()} for row in ROWS * 4]
    path.write_text(_as_table([*decomposed, {"question": "?", "answer": " "}], ",") + "하나뿐\n")
    batches = list(readers.read_batches(path, batch_rows=5))
    assert [(batch.rows.num_rows, len(batch.problems)) for batch in batches] == [(5, 0), (5, 0), (2, 2)]
    texts = [row["messages"][0]["content"] for batch in batches for row in batch.rows.to_pylist()]
    rows = _read(path)
    assert texts == [row["question"] for row in ROWS * 4] == _questions(path)[:12]
    assert batches[2].problems == [row for _, row in rows if isinstance(row, RowProblem)]


def test_a_mapped_table(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text("번호\t물음\t대답\t갈래\n1\t얼마인가요?\t천 원입니다.\t통행료\n")
    mapping = FieldMapping(question="물음", answer="대답", category="갈래")
    ((line, row),) = readers.read(path, mapping)
    assert isinstance(row, Example)
    assert (line, row.messages[0].content, row.metadata.category) == (2, "얼마인가요?", "통행료")


@pytest.mark.parametrize(("name", "text"), [("a.json", _as_lines(ROWS)), ("a.jsonl", _as_json(ROWS))])
def test_an_array_under_the_name_of_lines_and_the_other_way_round(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert _questions(tmp_path / name) == [row["question"] for row in ROWS]


def test_broken_lines_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    good = [line.encode() for line in _as_lines(ROWS).splitlines()]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b"\n".join([good[0], b'{"question": "cut', b"", b'{"question": "\xff\xfe", "answer": "x"}', good[1]])
    )
    rows = _read(path)
    assert [line for line, _ in rows] == [1, 2, 4, 5]
    assert [isinstance(row, RowProblem) for _, row in rows] == [False, True, True, False]
    assert isinstance(rows[2][1], RowProblem)
    assert "no valid text" in rows[2][1].reason


def test_a_broken_element_of_an_array_costs_itself(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(
        '[\n{"question": "가", "answer": "나"},\n{"question": oops},\n{"question": "다", "answer": "라"}\n]'
    )
    rows = _read(path)
    assert [(line, isinstance(row, RowProblem)) for line, row in rows] == [(2, False), (3, True), (4, False)]


@pytest.mark.parametrize(
    ("text", "places", "good"),
    [
        ('Q,A\n"여러\n줄",답\n하나뿐\n질문,답\n', [2, 4, 5], ["여러\n줄", "질문"]),
        ("Q;A\n질문;답\n", [2], ["질문"]),
        ("Q\tA\r\n질문\t답\r\n\r\n", [2], ["질문"]),
        ('Q,A\n"인용"은 이렇게,답\n질문,답\n', [2, 3], ['"인용"은 이렇게', "질문"]),
        ('Q,A\n가,"끝이 없다\n나,답\n"다","답"\n라,답\n', [2, 3, 4, 5], ["라"]),
        ('Q,A\n가,답\n나,"끝이 없다\n', [2, 3], ["가", "나"]),
        ('Q,A\n가,답\n나,"끝이 없다\n다,답', [2, 3, 4], ["가"]),
    ],
)
def test_tables(tmp_path: Path, text: str, places: list[int], good: list[str]) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text, newline="")
    assert [line for line, _ in _read(path)] == places
    assert [text for text in _questions(path) if not text.startswith("!")] == good


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl", b"", "empty"),
        ("a.docx", b"PK", "format is unknown"),
        ("a.jsonl", b"\x89PNG\x00\x01", "no text file"),
        (
            "a.csv",
            "질문,답\n".encode("shift_jis", "ignore") + "これは日本語です,はい\n".encode("euc_jp"),
            "encoding is unknown",
        ),
        ("a.jsonl.gz", gzip.compress(_as_lines(ROWS).encode())[:-12], "damaged"),
        ("a.json.gz", b"no gzip at all", "damaged"),
        ("a.parquet", b"PAR1 no parquet", "Parquet file can't be read"),
        ("a.jsonl.zst", zstandard.compress(_as_lines(ROWS).encode())[:-3], "damaged"),
        ("a.parquet.zst", b"no zstandard", "damaged"),
        ("a.parquet", _as_parquet(ROWS)[:-30], "Parquet file can't be read"),
        ("a.csv", b"title,text\n1,2\n", "of no known layout"),
        ("a.csv", b'"title,text\n1,2\n', "header can't be read"),
        ("a.json", _as_json(ROWS)[:-20].encode(), "cut off"),
        ("a.json", _as_json(ROWS).encode() + b"[]", "no JSON array"),
        ("a.csv", b"Q,A,Q\n1,2,3\n", "column stands twice"),
    ],
)
def test_an_unreadable_file_is_refused(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(BadInputError, match=said) as caught:
        _read(path)
    assert str(path) in str(caught.value)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.jsonl"):
        with pytest.raises(BadInputError, match="can't be read"):
            _read(path)


FILES = {**{name: text.encode() for name, text in TEXTS.items()}, "rows.parquet": _as_parquet(ROWS)}
DAMAGE = st.one_of(
    st.tuples(st.just("cut"), st.integers(1, 900), st.just(b"")),
    st.tuples(st.just("splice"), st.integers(0, 900), st.binary(min_size=1, max_size=12)),
    st.tuples(st.just("flip"), st.integers(0, 900), st.integers(0, 7).map(lambda bit: bytes([1 << bit]))),
)


def _damaged(data: bytes, damages: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, extra in damages:
        at = place % (len(data) + 1)
        if kind == "cut":
            data = data[:at]
        elif kind == "splice":
            data = data[:at] + extra + data[at:]
        elif at < len(data):
            data = data[:at] + bytes([data[at] ^ extra[0]]) + data[at + 1 :]
    return data


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(list(FILES)),
    encoding=st.sampled_from(["utf-8", "utf-16", "cp949"]),
    packed=st.sampled_from(list(PACKERS)),
    damages=st.lists(DAMAGE, min_size=1, max_size=3),
    inside=st.booleans(),
)
def test_a_damaged_file_never_ends_in_a_traceback(
    tmp_path: Path, name: str, encoding: str, packed: str, damages: list[tuple[str, int, bytes]], inside: bool
) -> None:
    data = FILES[name] if name.endswith("parquet") else FILES[name].decode().encode(encoding)
    pack = PACKERS[packed]
    path = tmp_path / (name + packed)
    path.write_bytes(pack(_damaged(data, damages)) if inside else _damaged(pack(data), damages))
    try:
        rows = _read(path)
    except BadInputError as error:
        assert str(path) in str(error)
        with pytest.raises(BadInputError):
            list(readers.read_batches(path))
        return
    assert all(isinstance(row, Example | RowProblem) for _, row in rows)
    batches = list(readers.read_batches(path))
    assert [row for _, row in rows if isinstance(row, RowProblem)] == [one for part in batches for one in part.problems]
    assert sum(part.rows.num_rows + len(part.problems) for part in batches) == len(rows)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line), min_size=1, max_size=5))
def test_every_line_is_accounted_for(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "rows.jsonl"
    good = _as_lines(ROWS * 5).encode()
    path.write_bytes(good + b"\n".join(lines))
    expected = [*range(1, 16), *(number for number, line in enumerate(lines, 16) if line.strip())]
    assert [line for line, _ in _read(path)] == expected


def test_lines_whose_first_is_a_broken_array_are_still_lines(tmp_path: Path) -> None:
    row = '{"messages": [{"role": "user", "content": "질문"}, {"role": "assistant", "content": "답"}]}'
    source = tmp_path / "rows.jsonl"
    source.write_text(f'["no row", 3]\n{row}\n{row}\n', encoding="utf-8")
    outcomes = [outcome for _, outcome in readers.read(source)]
    assert [isinstance(outcome, RowProblem) for outcome in outcomes] == [True, False, False]
