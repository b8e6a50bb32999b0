"""Texts come out as they stand in the file, with their lines; what is none is named before anything is done."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tollgate.dataset import text_lines
from tollgate.errors import BadInputError


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("가나\n\n다\n".encode(), ["가나", "", "다"]),
        ("가\r\n나".encode(), ["가", "나"]),
        ("\ufeff가 \n".encode(), ["가 "]),
        ("줄을 CP949로 썼습니다\n다음 줄".encode("cp949"), ["줄을 CP949로 썼습니다", "다음 줄"]),
        ("가\u2028나\u0085다\x0b라\n".encode(), ["가\u2028나\u0085다\x0b라"]),
        (b"\n", [""]),
    ],
)
def test_a_text_a_line(tmp_path: Path, content: bytes, texts: list[str]) -> None:
    plain, packed = _write(tmp_path / "a.txt", content), _write(tmp_path / "a.txt.gz", gzip.compress(content))
    for path in (plain, packed):
        (found,) = text_lines.read(path)
        assert found.text.to_pylist() == texts
        assert found.line.tolist() == list(range(1, len(texts) + 1))


def test_fields_of_json_lines(tmp_path: Path) -> None:
    rows = [{"q": "가", "m": [{"c": "나"}], "a.b": "다"}, {"q": "라\n라", "m": [{"c": ""}], "a.b": "마"}]
    path = _write(tmp_path / "a.jsonl", "\n\n".join(json.dumps(row) for row in rows).encode())
    found = text_lines.read(path, ["q", "m.0.c", "a.b"])
    assert [one.text.to_pylist() for one in found] == [["가", "라\n라"], ["나", ""], ["다", "마"]]
    assert [one.line.tolist() for one in found] == [[1, 3]] * 3


@pytest.mark.parametrize(
    ("name", "content", "fields", "said"),
    [
        ("a.txt", b"", [], "0 bytes"),
        ("a.jsonl", b'{"q": "x", "a": 1}\n', [], "one of: q, a"),
        ("a.jsonl", b'{"q": "x"}\n{"p": 1}\n', ["q"], "line 2, q: found nothing, expected text; the line has p"),
        ("a.jsonl", b'{"q": 1}\n{', ["q"], r"line 1, q: found int[\s\S]*line 2: found not JSON"),
        ("a.jsonl", b"[1]\n", ["q"], "line 1: found list"),
        ("a.jsonl", b'{"q": "\\ud800"}\n', ["q"], "line 1"),
        ("a.jsonl", b"\n\n", ["q"], "0 rows"),
        ("a.txt", "가나다라마\n가나다라마\n".encode() + b"\xff\xfe\n", [], "line 3"),
        ("a.bin", b"\x00\x01\x02" * 50, [], "a.bin"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, name: str, content: bytes, fields: list[str], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        text_lines.read(_write(tmp_path / name, content), fields)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="nothing there"):
        text_lines.read(tmp_path / "none.txt")
    with pytest.raises(BadInputError, match="a folder"):
        text_lines.read(tmp_path)
