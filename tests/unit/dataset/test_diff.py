"""A difference accounts for every row of both versions, and shows no personal data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tollgate.dataset import diff, versions
from tollgate.dataset.versions import DatasetVersion, Source

_TYPES: dict[str, pl.DataType | type[pl.DataType]] = {
    "id": pl.String,
    "messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
    "category": pl.String,
    "source": pl.String,
    "quality_score": pl.Float64,
    "cluster": pl.Int64,
}
Row = tuple[str, str] | tuple[str, str, str]


def _rows(rows: Sequence[Row]) -> pl.DataFrame:
    records = [
        {
            "id": str(number),
            "messages": [{"role": "user", "content": one[0]}, {"role": "assistant", "content": one[1]}],
            "category": one[2] if len(one) > 2 else None,
            "source": "test",
            "quality_score": 0.9,
            "cluster": number,
        }
        for number, one in enumerate(rows)
    ]
    return pl.DataFrame(records, schema=_TYPES)


def _write(root: Path, train: Sequence[Row], test: Sequence[Row] = (), **settings: Any) -> DatasetVersion:
    parts = {"train": _rows(train), "validation": _rows([]), "test": _rows(test)}
    return versions.write(
        "calls",
        parts,  # type: ignore[arg-type]
        gate_settings={"seed": 0, **settings},
        sources=[Source(path="/data/a.jsonl", sha256=f"{len(train):064d}", size=1)],
        counts={},
        report={},
        root=root,
    )


def test_every_row_of_both_versions_is_accounted_for(tmp_path: Path) -> None:
    old = _write(
        tmp_path, [("가", "1", "x"), ("나", "2"), ("다", "3"), ("다", "4"), ("라", "5"), ("라", "5")], [("바", "7")]
    )
    new = _write(tmp_path, [("나", "2"), ("다", "4"), ("다", "9"), ("라", "5"), ("마", "6"), ("바", "7")], seed=1)
    found = diff.compare(old, new)
    assert (found.unchanged, found.changed, found.removed, found.added) == (4, 1, 2, 1)
    assert found.rows == (
        found.unchanged + found.changed + found.removed,
        found.unchanged + found.changed + found.added,
    )
    assert found.moved == {"test -> train": 1}
    assert [(one.question, one.before, one.after) for one in found.changed_samples] == [("다", "3", "9")]
    assert [one.question for one in found.removed_samples] == ["가", "라"]
    assert [one.question for one in found.added_samples] == ["마"]
    assert [(one.name, one.before, one.after) for one in found.settings] == [("seed", 0, 1)]
    assert [(one.name, one.before, one.after) for one in found.categories] == [("x", 1, 0)]
    assert not found.identical


def test_a_version_is_identical_to_itself(tmp_path: Path) -> None:
    version = _write(tmp_path, [("가", "1"), ("가", "1"), ("가", "2")])
    found = diff.compare(version, version)
    assert found.identical
    assert (found.unchanged, found.added, found.removed, found.changed, found.sources) == (3, 0, 0, 0, [])


def test_sources_are_told_apart_by_content(tmp_path: Path) -> None:
    old, new = _write(tmp_path, [("가", "1")]), _write(tmp_path, [("가", "1"), ("나", "2")])
    assert [(one.before, one.after) for one in diff.compare(old, new).sources] == [
        ("/data/a.jsonl", None),
        (None, "/data/a.jsonl"),
    ]


def test_samples_hold_no_personal_data_and_show_the_difference(tmp_path: Path) -> None:
    number, long = "010-2345-6789", "같은 말을 되풀이합니다. " * 20
    old = _write(tmp_path, [(f"제 번호는 {number}입니다", f"{long}서울입니다"), ("전화 010-9876-5432", "네")])
    new = _write(tmp_path, [(f"제 번호는 {number}입니다", f"{long}부산입니다"), ("메일 hong@example.com이요", "네")])
    found = diff.compare(old, new)
    shown = found.model_dump_json()
    for secret in (number, "010-9876-5432", "hong@example.com"):
        assert secret not in shown
    (changed,) = found.changed_samples
    assert "서울입니다" in changed.before
    assert "부산입니다" in changed.after


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}}, [("a.b", 1, 3)]),
        ({"a": 1}, {"b": None, "d": 0}, [("a", 1, None), ("d", None, 0)]),
    ],
)
def test_changes_of_settings(before: dict[str, Any], after: dict[str, Any], expected: list[Any]) -> None:
    assert [(one.name, one.before, one.after) for one in diff.changes(before, after)] == expected
