"""Asking a job to stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tollgate.errors import BadInputError
from tollgate.settings import settings
from tollgate.training.stopping import STOP_REQUEST, stop_job


def write_job(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text("{}")
    return folder


def test_a_job_is_asked_by_its_name_or_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path))
    settings.cache_clear()
    folder = write_job(tmp_path / "jobs" / "router-1")
    assert stop_job("router-1", "wrong data", "kim") == folder
    assert stop_job(folder, "wrong data, really", "lee") == folder
    request = json.loads((folder / STOP_REQUEST).read_text())
    assert (request["reason"], request["by"]) == ("lee: wrong data, really", "lee")
    assert sorted(path.name for path in folder.iterdir()) == ["spec.json", STOP_REQUEST]


def test_what_is_no_job_or_is_done_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="There is no such job"):
        stop_job(tmp_path, "x", "kim")
    folder = write_job(tmp_path / "job")
    (folder / "result.json").write_text("{}")
    with pytest.raises(BadInputError, match="a job that is not done yet"):
        stop_job(folder, "x", "kim")
    assert not (folder / STOP_REQUEST).exists()
