"""Versions are immutable, numbered, found by content, and there as a whole or not at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from tollgate.dataset import versions
from tollgate.dataset.schema import SPLITS, Split
from tollgate.dataset.versions import DatasetVersion, Source
from tollgate.errors import BadInputError

SOURCE = Source(path="/data/calls.jsonl", sha256="ab" * 32, size=10)


def _rows(*texts: str) -> pl.DataFrame:
    chats = [[{"role": "user", "content": text}, {"role": "assistant", "content": "네"}] for text in texts]
    columns = {"id": texts, "messages": chats, "category": [None] * len(texts), "source": ["calls"] * len(texts)}
    scores = pl.Series("quality_score", [0.5] * len(texts), dtype=pl.Float64)
    return pl.DataFrame(columns).with_columns(scores, pl.Series("cluster", range(len(texts)), dtype=pl.Int64))


def _write(root: Path, *texts: str, name: str = "calls", **changed: Any) -> DatasetVersion:
    arguments: dict[str, Any] = {
        "gate_settings": {"seed": 0},
        "sources": [SOURCE],
        "counts": {"rows_in": 9, "dropped": {}},
        "report": {"name": name},
        "root": root,
    }
    parts = {"train": _rows(*texts), "validation": _rows("검증"), "test": _rows("시험")}
    return versions.write(name, parts, **(arguments | changed))  # type: ignore[arg-type]


def test_a_version_holds_what_was_written(tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("kept")
    version = _write(tmp_path / "root", "가", "나", attachments=[note])
    assert (version.reference, version.created, version.rows) == (
        "calls@v1",
        True,
        {"train": 2, "validation": 1, "test": 1},
    )
    assert version.read("train").columns == list(versions.COLUMNS)
    assert version.read("train")["messages"][1].to_list()[0] == {"role": "user", "content": "나"}
    assert (version.folder / "note.txt").read_text() == "kept"
    assert version.report() == {"name": "calls", "version": version.manifest.model_dump(mode="json")}
    assert versions.resolve("calls@v1", tmp_path / "root").manifest == version.manifest


def test_the_same_content_is_the_same_version(tmp_path: Path) -> None:
    first = _write(tmp_path, "가")
    second = _write(tmp_path, "가", "나")
    again = _write(tmp_path, "가")
    assert (again.reference, again.created) == (first.reference, False)
    assert second.manifest.parent == "calls@v1"
    other_settings = _write(tmp_path, "가", gate_settings={"seed": 1})
    other_source = _write(tmp_path, "가", sources=[SOURCE.model_copy(update={"sha256": "cd" * 32})])
    assert [one.number for one in (other_settings, other_source)] == [3, 4]


def test_a_draft_becomes_the_same_version(tmp_path: Path) -> None:
    parts: dict[Split, pl.DataFrame] = {"train": _rows("가", "나"), "validation": _rows("검증"), "test": _rows("시험")}
    drafts = tmp_path / "drafts"
    drafts.mkdir()
    whole = _write(tmp_path / "at once", "가", "나")
    drafted = versions.draft(parts, {"seed": 0}, [SOURCE], drafts)
    version = _write(tmp_path / "drafted", "가", "나", drafted=drafted)
    assert version.manifest.content_hash == whole.manifest.content_hash
    for part in SPLITS:
        assert version.file(part).read_bytes() == whole.file(part).read_bytes()
    assert not list(drafts.iterdir())
    again = versions.draft(parts, {"seed": 0}, [SOURCE], drafts)
    assert _write(tmp_path / "drafted", "가", "나", drafted=again).reference == version.reference


@pytest.mark.parametrize(("rows", "groups"), [(0, []), (1, [1]), (3, [3]), (4, [3, 1]), (10, [3, 3, 3, 1])])
def test_files_are_written_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, groups: list[int]
) -> None:
    monkeypatch.setattr(versions, "_WRITTEN_ROWS", 3)
    train = pl.concat([_rows("가"), *[_rows(f"{number}번") for number in range(rows)]])[1:]
    parts: dict[Split, pl.DataFrame] = {"train": train, "validation": _rows("검증"), "test": _rows("시험")}
    file = versions.draft(parts, {}, [SOURCE], tmp_path).files["train"]
    assert pl.read_parquet(file).equals(train.select(versions.COLUMNS))
    metadata = pq.ParquetFile(file).metadata
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == groups


def test_what_a_killed_writer_left_is_no_version(tmp_path: Path) -> None:
    _write(tmp_path, "가")
    left = tmp_path / "calls" / ".writing"
    left.mkdir()
    (left / "train.parquet").write_bytes(b"half")
    assert [one.number for one in versions.list_versions("calls", tmp_path)] == [1]
    assert _write(tmp_path, "나").reference == "calls@v2"
    assert not left.exists()


def test_writers_at_once_get_a_number_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda number: _write(tmp_path, f"글 {number % 4}").number, range(8)))
    assert sorted(set(numbers)) == [1, 2, 3, 4]
    assert [one.number for one in versions.list_versions("calls", tmp_path)] == [1, 2, 3, 4]


def test_references(tmp_path: Path) -> None:
    _write(tmp_path, "가")
    _write(tmp_path, "나")
    assert versions.resolve("calls@latest", tmp_path).number == 2
    for reference, said in [
        ("calls@v3", "one of: calls@v1, calls@v2"),
        ("letters@latest", "one of: calls"),
        ("calls", "name@v3, name@tag or name@latest"),
        ("calls@v01", "name@v3, name@tag or name@latest"),
        ("../calls@v1", "small letters"),
    ]:
        with pytest.raises(BadInputError, match=said):
            versions.resolve(reference, tmp_path)


@pytest.mark.parametrize("name", ["", "../up", "Großes", "a/b", ".hidden", "a" * 101])
def test_a_name_that_can_be_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInputError, match="name can't be used"):
        _write(tmp_path, "가", name=name)
    assert list(tmp_path.iterdir()) == []
