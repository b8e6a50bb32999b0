"""What is said about a version is counted right, however many values there are."""

from __future__ import annotations

import polars as pl

from tollgate.dataset import statistics


def test_scores_fall_into_the_bin_that_begins_with_them() -> None:
    assert statistics.histogram(pl.Series([0.0, 0.7, 0.699, 1.0], dtype=pl.Float32)) == [1, 0, 0, 0, 0, 0, 1, 1, 0, 1]
    assert statistics.histogram(pl.Series([], dtype=pl.Float32)) == [0] * 10


def test_a_version_is_described() -> None:
    found = statistics.describe({"train": _rows(3), "validation": _rows(1), "test": _rows(0)})
    assert found["rows"] == {"train": 3, "validation": 1, "test": 0}
    assert found["question_characters"]["max"] == 4
    assert found["turns"] == {"2": 4}
    assert found["categories"] == {"train": {"a": 2, "": 1}, "validation": {"a": 1}, "test": {}}


def test_only_the_most_frequent_sources_are_named() -> None:
    many = _rows(500).with_columns(source=pl.Series([f"s{number:03d}" for number in range(499)] + ["s499"]))
    many = pl.concat([many, many.tail(1)])
    found = statistics.describe({"train": many, "validation": _rows(0), "test": _rows(0)})["sources"]
    assert list(found)[:2] == ["s499", "s000"]
    assert (len(found), found[statistics.OTHERS], sum(found.values())) == (statistics.MOST + 1, 300, 501)


def _rows(count: int) -> pl.DataFrame:
    turns = [
        {"role": "user", "content": "가"},
        {"role": "assistant", "content": "예"},
        {"role": "user", "content": "나다라"},
        {"role": "assistant", "content": "예"},
    ]
    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        "messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
        "category": pl.String,
        "source": pl.String,
        "quality_score": pl.Float64,
    }
    rows = [(turns, None if number == 2 else "a", "s", 0.8) for number in range(count)]
    return pl.DataFrame(rows, schema=schema, orient="row")
