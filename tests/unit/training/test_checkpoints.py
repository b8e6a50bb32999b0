"""Checkpoints as rows: recorded as they come, with figures and size, on a real PostgreSQL."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.unit.training.example_checkpoint import write_checkpoint

from tollgate.store.session import transaction
from tollgate.store.tables import FinetuningJob
from tollgate.training.checkpoint_files import DELETED, note_deleted
from tollgate.training.checkpoints import CheckpointRecord, checkpoints_of, record_checkpoints

pytestmark = pytest.mark.usefixtures("postgres_url")


@pytest.fixture
def job_id() -> int:
    with transaction() as session:
        row = FinetuningJob(
            job_name="router-1",
            base_model="/base",
            method="lora",
            hyperparameters={},
            output_dir="/x",
            created_by="kim",
        )
        session.add(row)
        session.flush()
        return row.id


def record(job_id: int, folder: Path) -> list[CheckpointRecord]:
    with transaction() as session:
        record_checkpoints(session, job_id, folder)
        return checkpoints_of(session, job_id)


def test_rows_come_with_the_checkpoints_and_stay_when_those_are_deleted(tmp_path: Path, job_id: int) -> None:
    own = tmp_path / "checkpoints"
    assert record(job_id, tmp_path) == []
    first = write_checkpoint(own, 10)
    [row] = record(job_id, tmp_path)
    assert (row.name, row.step, row.epoch, row.folder, row.is_there) == ("checkpoint-10", 10, 1.0, first, True)
    assert row.metrics == {"loss": 2.0, "eval_loss": 1.5, "learning_rate": 1e-4}
    assert row.size_gb == pytest.approx(sum(path.stat().st_size for path in first.iterdir()) / 1e9)
    half = write_checkpoint(own, 20)
    (half / "optimizer.pt").unlink()
    assert record(job_id, tmp_path) == [row], "a half one is none"
    shutil.rmtree(first)
    write_checkpoint(own, 30)
    assert [(row.name, row.is_there) for row in record(job_id, tmp_path)] == [
        ("checkpoint-10", False),
        ("checkpoint-30", True),
    ]


def test_one_that_was_deleted_before_anybody_looked_has_left_its_description(tmp_path: Path, job_id: int) -> None:
    own = tmp_path / "checkpoints"
    gone = write_checkpoint(own, 10)
    note_deleted(gone)
    size = sum(path.stat().st_size for path in gone.iterdir())
    shutil.rmtree(gone)
    with (own / DELETED).open("a") as file:
        file.write('{"checkpoint_name": "torn')
    write_checkpoint(own, 20)
    first, second = record(job_id, tmp_path)
    assert (first.name, first.step, first.is_there, second.name) == ("checkpoint-10", 10, False, "checkpoint-20")
    assert first.metrics == {"loss": 2.0, "eval_loss": 1.5, "learning_rate": 1e-4}
    assert first.size_gb == pytest.approx(size / 1e9)


def test_one_that_was_written_again_is_recorded_with_its_new_figures(tmp_path: Path, job_id: int) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoints", 10, manifest=False)
    before = record(job_id, tmp_path)
    assert record(job_id, tmp_path) == before
    state = checkpoint / "trainer_state.json"
    state.write_text(state.read_text().replace("1.5", "0.75"))
    [row] = record(job_id, tmp_path)
    assert row.metrics["eval_loss"] == 0.75
