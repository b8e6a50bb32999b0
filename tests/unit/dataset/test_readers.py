"""Every format gives the same rows; a broken row costs itself, a broken file is refused, nothing gets lost."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.dataset import readers
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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp949"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", list(TEXTS))
def test_text_formats_and_encodings(tmp_path: Path, name: str, packed: bool, encoding: str) -> None:
    data = TEXTS[name].encode(encoding)
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(data) if packed else data)
    assert _questions(path) == [row["question"] for row in ROWS]


def test_parquet(tmp_path: Path) -> None:
    chats = [
        [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}] for row in ROWS
    ]
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"messages": chats}).write_parquet(path)
    assert _questions(path) == [row["question"] for row in ROWS]


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


def test_a_table_row_with_too_few_fields_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('Q,A\n"여러\n줄",답\n하나뿐\n질문,답\n')
    assert [(line, isinstance(row, RowProblem)) for line, row in _read(path)] == [(2, False), (4, True), (5, False)]


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


@given(cut=st.integers(0, 400), garbage=st.binary(max_size=12), name=st.sampled_from(list(TEXTS)))
def test_a_spliced_file_never_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bytes, name: str
) -> None:
    data = TEXTS[name].encode()
    path = tmp_path_factory.mktemp("spliced") / name
    path.write_bytes(data[:cut] + garbage + data[cut:])
    try:
        rows = _read(path)
    except BadInputError:
        return
    assert all(isinstance(row, Example | RowProblem) for _, row in rows)


def test_lines_whose_first_is_a_broken_array_are_still_lines(tmp_path: Path) -> None:
    row = '{"messages": [{"role": "user", "content": "질문"}, {"role": "assistant", "content": "답"}]}'
    source = tmp_path / "rows.jsonl"
    source.write_text(f'["no row", 3]\n{row}\n{row}\n', encoding="utf-8")
    outcomes = [outcome for _, outcome in readers.read(source)]
    assert [isinstance(outcome, RowProblem) for outcome in outcomes] == [True, False, False]
