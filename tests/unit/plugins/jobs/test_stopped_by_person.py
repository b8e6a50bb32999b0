"""A stop that a person asked for ends the task for good; any other stop is tried again."""

from __future__ import annotations

import json
from pathlib import Path

from airflow.sdk.exceptions import AirflowFailException

from jobs.errors import JobStoppedByPersonError, JobStoppedError
from jobs.job_folder import JobFolder
from jobs.outcome import EXIT_STOPPED, error_of
from jobs.runtimes import JobState, JobStatus
from tollgate.training.stopping import STOP_REQUEST, stop_job

STOPPED = JobStatus(JobState.FAILED, EXIT_STOPPED)


def test_who_asked_decides_whether_it_is_tried_again(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    folder.mark_stop("the task was stopped")
    error = error_of(STOPPED, folder, [], "16g")
    assert type(error) is JobStoppedError
    assert not isinstance(error, AirflowFailException)
    (tmp_path / "spec.json").write_text("{}")
    stop_job(tmp_path, "wrong data", "kim")
    (tmp_path / STOP_REQUEST).replace(tmp_path / "stop.json")  # what the trainer does once it has saved
    error = error_of(STOPPED, folder, [], "16g")
    assert type(error) is JobStoppedByPersonError
    assert isinstance(error, AirflowFailException), "Airflow fails the task without a retry"
    assert "kim: wrong data" in str(error)


def test_a_request_survives_a_submission_and_leaves_with_a_finished_job(tmp_path: Path) -> None:
    """Asked before the job starts, it must not be lost; the next training of a finished job must not stop by it."""
    (tmp_path / "spec.json").write_text("{}")
    stop_job(tmp_path, "wrong data", "kim")
    folder = JobFolder(tmp_path)
    folder.prepare_for_submission()
    assert (tmp_path / STOP_REQUEST).exists()
    (tmp_path / "result.json").write_text(json.dumps({"status": "succeeded"}))
    folder.prepare_for_submission()
    assert not (tmp_path / STOP_REQUEST).exists()
    assert not folder.stopped_by_person
