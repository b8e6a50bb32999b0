"""What is said about versions stands beside them; the versions never change."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.unit.dataset.example_version import write_version

from tollgate.dataset import lifecycle, versions
from tollgate.dataset.versions import DatasetVersion
from tollgate.errors import BadInputError


@pytest.fixture
def two(tmp_path: Path) -> tuple[DatasetVersion, DatasetVersion]:
    return write_version(tmp_path), write_version(tmp_path, test_questions=["other"])


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_tags_find_versions_and_move_only_when_told(two: tuple[DatasetVersion, DatasetVersion], tmp_path: Path) -> None:
    first, second = two
    before = _bytes(first.folder)
    assert lifecycle.tag(first, "golden", "kim").tags == ("golden",)
    lifecycle.tag(first, "golden", "kim")
    assert versions.resolve("highway@golden", tmp_path).number == 1
    with pytest.raises(BadInputError, match="'golden' on highway@v1"):
        lifecycle.tag(second, "golden", "lee")
    lifecycle.tag(second, "golden", "lee", move=True)
    assert versions.resolve("highway@golden", tmp_path).number == 2
    with pytest.raises(BadInputError, match="doesn't bear this tag"):
        lifecycle.untag(first, "golden", "kim")
    lifecycle.untag(second, "golden", "lee")
    with pytest.raises(BadInputError, match="no such version"):
        versions.resolve("highway@golden", tmp_path)
    history = lifecycle.read(first.folder.parent)
    assert [(event.action, event.version, event.by) for event in history.events] == [
        ("tag", 1, "kim"),
        ("tag", 2, "lee"),
        ("untag", 2, "lee"),
    ]
    assert _bytes(first.folder) == before


@pytest.mark.parametrize("name", ["latest", "v3", "v3-old", "", "Gold", "a b", "x" * 51])
def test_what_could_be_taken_for_something_else_is_no_tag(
    two: tuple[DatasetVersion, DatasetVersion], name: str
) -> None:
    with pytest.raises(BadInputError, match="tag can't be used"):
        lifecycle.tag(two[0], name, "kim")


def test_latest_is_the_newest_active_version(two: tuple[DatasetVersion, DatasetVersion], tmp_path: Path) -> None:
    first, second = two
    assert versions.resolve("highway@latest", tmp_path).number == 2
    now = lifecycle.change(second, "deprecate", "kim", " labels of May are wrong ")
    assert (now.state, now.reason, now.by) == ("deprecated", "labels of May are wrong", "kim")
    assert versions.resolve("highway@latest", tmp_path).number == 1
    assert versions.resolve("highway@v2", tmp_path).number == 2
    lifecycle.check_usable(second)
    lifecycle.change(first, "archive", "kim", "too small")
    with pytest.raises(BadInputError, match="No version of the dataset is active"):
        versions.resolve("highway@latest", tmp_path)
    with pytest.raises(BadInputError, match=r"highway@v1, archived by kim on .*: too small"):
        lifecycle.check_usable(first)
    assert lifecycle.change(first, "restore", "lee", "needed again").state == "active"
    lifecycle.check_usable(first)
    assert versions.resolve("highway@latest", tmp_path).number == 1


def test_a_repeated_change_keeps_the_first_reason(two: tuple[DatasetVersion, DatasetVersion]) -> None:
    lifecycle.change(two[0], "archive", "kim", "first")
    assert lifecycle.change(two[0], "archive", "lee", "second").reason == "first"
    assert len(lifecycle.read(two[0].folder.parent).of(1)) == 1


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (lambda one: lifecycle.change(one, "archive", "kim", "  "), "reason is needed"),
        (lambda one: lifecycle.change(one, "archive", "kim", "x" * 501), "1 to 500 characters"),
        (
            lambda one: (
                lifecycle.change(one, "archive", "kim", "old"),
                lifecycle.change(one, "deprecate", "kim", "old"),
            ),
            "deprecate of a version archived, expected restore",
        ),
    ],
)
def test_refused_changes_leave_nothing(
    two: tuple[DatasetVersion, DatasetVersion], attempt: Callable[[DatasetVersion], object], said: str
) -> None:
    with pytest.raises(BadInputError, match=said):
        attempt(two[1])
    assert all(event.action == "archive" for event in lifecycle.read(two[1].folder.parent).events)


def test_a_broken_history_is_named(two: tuple[DatasetVersion, DatasetVersion], tmp_path: Path) -> None:
    path = two[0].folder.parent / lifecycle.FILE
    path.write_text("{")
    with pytest.raises(BadInputError, match=r"lifecycle\.json"):
        versions.resolve("highway@latest", tmp_path)


def test_writers_at_once_lose_no_event(two: tuple[DatasetVersion, DatasetVersion]) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: lifecycle.tag(two[number % 2], f"t{number}", "kim"), range(12)))
    assert len(lifecycle.read(two[0].folder.parent).tags()) == 12
