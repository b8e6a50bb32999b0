"""Encodings are told by what most lines are in; what can't be read is marked, never guessed."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tollgate.dataset import encodings
from tollgate.dataset.encodings import detect_encoding, utf8_blocks
from tollgate.errors import BadInputError

LINE = "통행료는 얼마인가요? 하이패스 카드로 내셨다면 자동으로 할인됩니다."


@pytest.mark.parametrize("encoding", ["utf-8", "cp949", "utf-16"])
@pytest.mark.parametrize("end", ["\n", " "])
def test_some_broken_bytes_change_no_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, end: str
) -> None:
    monkeypatch.setattr(encodings, "_BLOCK", 100)  # a text without line ends is read in pieces that cut characters
    data = (LINE + end).encode(encoding) * 20
    at = len(data) // 2 // 2 * 2
    broken = b"\x00\xd8" if encoding == "utf-16" else b"\xff"
    path = tmp_path / "lines.txt.gz"
    path.write_bytes(gzip.compress(data[:at] + broken + data[at:]))
    assert detect_encoding(path) == encoding
    text = b"".join(utf8_blocks(path, encoding, 7))
    with pytest.raises(UnicodeDecodeError):
        text.decode()
    assert text.decode(errors="ignore").count(LINE) >= 18


def test_a_zero_byte_does_not_make_a_text_binary(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(f"{LINE}\n{LINE}\n{LINE}\0\n".encode())
    assert detect_encoding(path) == "utf-8"
    path.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(BadInputError, match=r"lines.txt, line 1: found a zero byte"):
        detect_encoding(path)


@pytest.mark.parametrize("tail", [1, 2, 3])
def test_a_text_cut_within_its_last_character_stays_what_it_is(tmp_path: Path, tail: int) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(f"{LINE}\n{LINE}\n{LINE}".encode()[:-tail])
    assert detect_encoding(path) == "utf-8"


@pytest.mark.parametrize("block", [1, 2, 3, 4, 5, 64])
@pytest.mark.parametrize("text", ["", "a", "통행료 é 😀\n네", "하" * 40])
def test_a_whole_text_is_known_for_utf8_however_its_blocks_cut_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, text: str
) -> None:
    monkeypatch.setattr(encodings, "_BLOCK", block)
    monkeypatch.setattr(encodings, "_encoding_of_lines", lambda _path: pytest.fail("looked at line by line"))
    path = tmp_path / "lines.txt"
    path.write_text(text, encoding="utf-8")
    assert detect_encoding(path) == "utf-8"
