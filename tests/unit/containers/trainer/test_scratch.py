"""Temporary files of a training lie in its job folder, each process's in a folder of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.scratch import SCRATCH, discard_scratch, scratch_folder, use_scratch


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    assert list(folder.iterdir()) == [], "something was left in the system's temporary folder"


def test_what_libraries_make_lies_in_the_job_folder_and_is_gone_at_the_end(tmp_path: Path) -> None:
    use_scratch(tmp_path / "job")
    made = Path(tempfile.mkdtemp(prefix="wandb-"))
    assert made.parent == scratch_folder(tmp_path / "job") == Path(os.environ["TMPDIR"])
    discard_scratch(tmp_path / "job")
    assert not made.exists()
    assert list((tmp_path / "job").iterdir()) == []


def test_what_a_kill_left_is_gone_when_the_next_attempt_begins(tmp_path: Path) -> None:
    use_scratch(tmp_path / "job")
    left = Path(tempfile.mkdtemp(prefix="axolotl-"))
    use_scratch(tmp_path / "job")
    assert not left.exists()
    assert list(scratch_folder(tmp_path / "job").iterdir()) == []


def test_a_process_takes_away_its_own_and_their_launcher_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        use_scratch(tmp_path / "job")
    discard_scratch(tmp_path / "job")
    assert [path.name for path in (tmp_path / "job" / SCRATCH).iterdir()] == ["rank-0"]
    monkeypatch.delenv("RANK")
    discard_scratch(tmp_path / "job")
    assert list((tmp_path / "job").iterdir()) == []
