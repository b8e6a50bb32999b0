"""Rows of ``training_checkpoints`` while a job writes its checkpoints, on a real PostgreSQL."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.unit.plugins.jobs.job_contract import wait_until
from tests.unit.training.example_checkpoint import write_checkpoint

from jobs import checkpoint_recorder
from jobs.checkpoint_recorder import CheckpointRecorder
from tollgate.settings import settings
from tollgate.store.session import engine, transaction
from tollgate.store.tables import FinetuningJob
from tollgate.training.checkpoints import checkpoints_of

pytestmark = pytest.mark.usefixtures("postgres_url")


class Log:
    """A task's log."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, text: str, *values: Any) -> None:
        self.lines.append(text % values)


@pytest.fixture
def job_id(tmp_path: Path) -> int:
    given = {"base_model": "/base", "method": "lora", "hyperparameters": {}, "created_by": "kim"}
    with transaction() as session:
        row = FinetuningJob(job_name="router-1", output_dir=str(tmp_path), **given)
        session.add(row)
        session.flush()
        return row.id


def names(job_id: int) -> list[str]:
    with transaction() as session:
        return [row.name for row in checkpoints_of(session, job_id)]


def test_a_row_comes_while_the_job_runs_and_outlives_its_checkpoint(tmp_path: Path, job_id: int) -> None:
    log: Any = Log()
    with CheckpointRecorder(tmp_path, log):
        first = write_checkpoint(tmp_path / "checkpoints", 10)
        wait_until(lambda: names(job_id) == ["checkpoint-10"])
        shutil.rmtree(first)
        write_checkpoint(tmp_path / "checkpoints", 20)
        wait_until(lambda: names(job_id) == ["checkpoint-10", "checkpoint-20"])
        write_checkpoint(tmp_path / "checkpoints", 30)
    assert names(job_id) == ["checkpoint-10", "checkpoint-20", "checkpoint-30"], "the last look is at the end"
    assert log.lines == []


def test_a_database_that_is_away_is_told_once_and_tried_again(
    tmp_path: Path, job_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_recorder, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(checkpoint_recorder, "PAUSE_SECONDS", 0.01)
    there = settings().tollgate_database
    log: Any = Log()
    with monkeypatch.context() as away:
        away.setenv("TOLLGATE_DATABASE_URL", f"postgresql+psycopg2://nobody@/none?host={tmp_path}")
        settings.cache_clear()
        engine.cache_clear()
        recorder = CheckpointRecorder(tmp_path, log)
        recorder.__enter__()
        write_checkpoint(tmp_path / "checkpoints", 10)
        wait_until(lambda: log.lines)
    settings.cache_clear()
    engine.cache_clear()
    assert settings().tollgate_database == there
    wait_until(lambda: names(job_id) == ["checkpoint-10"])
    recorder.__exit__(None, None, None)
    assert len(log.lines) == 1


def test_a_folder_without_a_job_is_passed_over(tmp_path: Path, job_id: int) -> None:
    other = tmp_path / "other"
    log: Any = Log()
    with CheckpointRecorder(other, log):
        write_checkpoint(other / "checkpoints", 10)
    assert names(job_id) == []
    assert log.lines == []
