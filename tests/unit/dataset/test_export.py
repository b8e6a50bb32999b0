"""Exports hold every row in its order, and are there as a whole or not at all."""

from __future__ import annotations

import json

import polars as pl
import pytest

from tollgate.dataset import readers
from tollgate.dataset.export import export
from tollgate.dataset.schema import Split
from tollgate.dataset.versions import COLUMNS, DatasetVersion, write
from tollgate.errors import BadInputError


@pytest.fixture
def version(tmp_path) -> DatasetVersion:
    def part(name: str, rows: int) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "id": [f"{name}-{number}" for number in range(rows)],
                "messages": [
                    [{"role": "user", "content": f"질문 {number}"}, {"role": "assistant", "content": f"답 {number}"}]
                    for number in range(rows)
                ],
                "category": ["하이패스"] * rows,
                "source": ["test"] * rows,
                "quality_score": [1.0] * rows,
                "cluster": list(range(rows)),
            }
        )

    parts: dict[Split, pl.DataFrame] = {
        "train": part("train", 8),
        "validation": part("validation", 2),
        "test": part("test", 2),
    }
    return write("export", parts, gate_settings={}, sources=[], counts={}, report={}, root=tmp_path / "datasets")


def test_openai_has_a_dialogue_a_line(version, tmp_path):
    export(version, "openai", tmp_path / "out")
    lines = (tmp_path / "out" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == version.rows["train"]
    assert [json.loads(line)["messages"] for line in lines] == version.read("train")["messages"].to_list()


def test_hugging_face_opens_it_with_all_parts(version, tmp_path):
    from datasets import load_from_disk

    export(version, "hugging-face", tmp_path / "out")
    found = load_from_disk(str(tmp_path / "out"))
    assert {part: found[part].num_rows for part in found} == version.rows
    assert list(found["train"]["messages"]) == version.read("train")["messages"].to_list()
    assert found["train"].column_names == list(COLUMNS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["datasets", "out"]


def test_what_was_exported_is_read_back(version, tmp_path, monkeypatch):
    monkeypatch.setattr("tollgate.dataset.export._ROWS", 3)
    export(version, "openai", tmp_path / "out")
    rows = [row for _, row in readers.read(tmp_path / "out" / "train.jsonl")]
    assert [row.model_dump()["messages"][0] for row in rows] == [
        messages[0] for messages in version.read("train")["messages"].to_list()
    ]


def test_nothing_is_overwritten(version, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(BadInputError, match="a new folder"):
        export(version, "openai", tmp_path / "out")
