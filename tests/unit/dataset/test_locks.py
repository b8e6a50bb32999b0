"""A folder that a killed process left is known as such, however far it had come."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tollgate.dataset.locks import delete, is_left, owned


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


def _used(folder: Path) -> Path:
    """A work folder with four files besides its lock."""
    folder.mkdir()
    with owned(folder):
        assert not is_left(folder)
        (folder / "docs").mkdir()
        for name in ("ingest.arrow", "ingest.result.json", "split.arrow", "docs/index.html"):
            (folder / name).write_text("010-1234-5678", encoding="utf-8")
    return folder


def test_a_folder_is_left_once_its_owner_is_gone(tmp_path: Path) -> None:
    folder = _used(tmp_path / "work")
    assert is_left(folder)
    delete(folder)
    assert list(tmp_path.iterdir()) == []
    delete(folder)
    assert not is_left(folder)


@pytest.mark.parametrize("deleted", range(5))
def test_a_deletion_that_was_killed_can_be_taken_up(tmp_path: Path, monkeypatch: Any, deleted: int) -> None:
    folder = _used(tmp_path / "work")
    unlink = os.unlink
    calls: list[Any] = []

    def unlink_until_killed(*args: Any, **kwargs: Any) -> None:
        if len(calls) == deleted:
            raise Killed
        calls.append(args)
        unlink(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "unlink", unlink_until_killed)
        delete(folder)
    assert sum(path.is_file() for path in folder.rglob("*")) == 5 - deleted
    assert is_left(folder)
    delete(folder)
    assert not folder.exists()
