"""A new job takes over the checkpoint of one that stopped or failed, on a real PostgreSQL and real folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.unit.dataset.example_version import write_version
from tests.unit.training.example_base import write_base_model
from tests.unit.training.example_checkpoint import write_checkpoint

from tollgate.errors import BadInputError
from tollgate.settings import Settings
from tollgate.store.session import transaction
from tollgate.training import jobs
from tollgate.training.checkpoint_files import is_whole
from tollgate.training.jobs import Job, TrainingRequest

pytestmark = pytest.mark.usefixtures("postgres_url")


@pytest.fixture
def configuration(tmp_path: Path) -> Settings:
    write_version(tmp_path / "datasets")
    return Settings(home=tmp_path, base_model=write_base_model(tmp_path / "base"), max_lora_rank=32)


def create(configuration: Settings, run_id: str, resume_job: str | None = None, **hyperparameters: Any) -> Job:
    values = {
        "model_name": "router",
        "dataset": "highway@latest",
        "hyperparameters": {"lora_rank": 8} | hyperparameters,
    }
    with transaction() as session:
        request = TrainingRequest.model_validate({**values, "resume_job": resume_job})
        return jobs.create_job(session, request, run_id, "kim", configuration)


@pytest.fixture
def stopped(configuration: Settings) -> Job:
    """A job that failed after step 20, whose best step was 10."""
    job = create(configuration, "run 1")
    for step in (10, 20, 30):
        write_checkpoint(job.folder / "checkpoints", step, early_stopping={"best_step": 10})
    (job.folder / "checkpoints/checkpoint-30/optimizer.pt").unlink()
    with transaction() as session:
        jobs.finish_job(session, job.name, "failed")
    return job


def refused(configuration: Settings, *arguments: Any, **hyperparameters: Any) -> dict[str, tuple[str, str]]:
    with pytest.raises(BadInputError) as told:
        create(configuration, "run 2", *arguments, **hyperparameters)
    assert not (configuration.jobs / jobs.job_name("router", "run 2")).exists()
    return {problem.where: (problem.value, problem.expected) for problem in told.value.problems}


def test_it_takes_the_last_whole_checkpoint_and_the_best_one(configuration: Settings, stopped: Job) -> None:
    job = create(configuration, "run 2", stopped.name, epochs=5, save_steps=7)
    inherited = job.folder / "inherited"
    assert sorted(path.name for path in inherited.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-20"]
    assert all(map(is_whole, inherited.glob("checkpoint-*")))
    assert json.loads((inherited / "from.json").read_text()) == {"job": stopped.name, "checkpoint": "checkpoint-20"}
    weights = "checkpoint-20/adapter_model.safetensors"
    assert Path(inherited / weights).samefile(stopped.folder / "checkpoints" / weights), "no room taken twice"
    assert create(configuration, "run 2", stopped.name, epochs=5, save_steps=7) == job
    shutil.rmtree(stopped.folder / "checkpoints")
    assert is_whole(inherited / "checkpoint-20"), "the old job may be cleaned up"


def test_a_named_one_is_taken_and_can_be_handed_on(configuration: Settings, stopped: Job) -> None:
    second = create(configuration, "run 2", stopped.name, resume_from="checkpoint-10")
    assert [path.name for path in (second.folder / "inherited").glob("checkpoint-*")] == ["checkpoint-10"]
    with transaction() as session:
        jobs.finish_job(session, second.name, "failed")
    third = create(configuration, "run 3", second.name)
    assert is_whole(third.folder / "inherited" / "checkpoint-10")


def test_settings_that_a_checkpoint_restores_must_agree(configuration: Settings, stopped: Job) -> None:
    told = refused(configuration, stopped.name, lora_rank=4, learning_rate=1e-5, batch_size=2, max_steps=50)
    assert told == {
        "lora_rank": ("4", f"8, as in {stopped.name}"),
        "learning_rate": ("1e-05", f"0.0002, as in {stopped.name}"),
        "batch_size": ("2", f"4, as in {stopped.name}"),
    }


def test_what_cannot_be_gone_on_from_is_refused_with_what_there_is(configuration: Settings, stopped: Job) -> None:
    told = refused(configuration, stopped.name, resume_from="checkpoint-30")
    assert told["resume_from"] == ("checkpoint-30, which is not whole", "one of checkpoint-10, checkpoint-20")
    assert "resume_job" in refused(configuration, "router-000000000000")
    assert refused(configuration, stopped.name, resume_from="none")["resume_from"][0] == "none"
    assert "which a new job does not have" in refused(configuration, resume_from="checkpoint-10")["resume_from"][0]
    shutil.rmtree(stopped.folder / "checkpoints")
    assert "left no whole checkpoint" in refused(configuration, stopped.name)["resume_job"][0]


def test_a_job_that_runs_is_stopped_first(configuration: Settings, stopped: Job) -> None:
    with transaction() as session:
        jobs.start_job(session, stopped.id)
    value, expected = refused(configuration, stopped.name)["resume_job"]
    assert value == f"{stopped.name}, which is running"
    assert f"tollgate job stop {stopped.name}" in expected
