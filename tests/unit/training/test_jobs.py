"""A job from request to record, on a real PostgreSQL and real folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from tests.unit.dataset.example_version import write_version
from tests.unit.training.example_base import write_base_model

from tollgate.dataset import lifecycle
from tollgate.dataset.versions import resolve
from tollgate.errors import BadInputError, Problem
from tollgate.settings import Settings
from tollgate.store.session import transaction
from tollgate.store.tables import FinetuningJob, TrainingDataset
from tollgate.training import jobs
from tollgate.training.jobs import Job, TrainingRequest
from tollgate.training.parsing import parse_spec

pytestmark = pytest.mark.usefixtures("postgres_url")


@pytest.fixture
def configuration(tmp_path: Path) -> Settings:
    write_version(tmp_path / "datasets")
    return Settings(home=tmp_path, base_model=write_base_model(tmp_path / "base"), max_lora_rank=32)


def request(**changes: Any) -> TrainingRequest:
    return TrainingRequest.model_validate({"model_name": "router", "dataset": "highway@latest", **changes})


def create(configuration: Settings, run_id: str = "run 1", **changes: Any) -> Job:
    with transaction() as session:
        return jobs.create_job(session, request(**changes), run_id, "kim", configuration)


def problems(configuration: Settings, **changes: Any) -> dict[str, str]:
    """What is refused: field and value. Nothing may have been written."""
    with pytest.raises(BadInputError) as refused:
        create(configuration, **changes)
    assert rows() == []
    assert not configuration.jobs.exists()
    return {problem.where: problem.value for problem in refused.value.problems}


def rows() -> list[FinetuningJob]:
    with transaction() as session:
        return list(session.scalars(select(FinetuningJob)))


def test_a_request_becomes_a_row_and_a_specification(configuration: Settings) -> None:
    job = create(configuration, hyperparameters={"lora_rank": 8}, more_hyperparameters='{"max_steps": 20}')
    spec = parse_spec(json.loads((job.folder / "spec.json").read_text()))
    assert (spec.job_name, spec.output, spec.lora_rank, spec.max_steps) == (job.name, job.folder, 8, 20)
    assert (spec.base_model, spec.dataset_reference) == (configuration.served_base_model, "highway@v1")
    assert spec.dataset == job.dataset_folder == configuration.datasets / "highway" / "v1"
    [row] = rows()
    assert (row.id, row.job_name, row.created_by, row.status) == (job.id, job.name, "kim", "pending")
    assert (row.hyperparameters["lora_rank"], row.hyperparameters["learning_rate"]) == (8, 2e-4)
    assert [path.name for path in job.folder.iterdir()] == ["spec.json"]


def test_the_same_run_asked_twice_is_one_job(configuration: Settings) -> None:
    first = create(configuration)
    assert create(configuration) == first
    assert create(configuration, run_id="run 2").name != first.name
    assert len(rows()) == 2
    with transaction() as session:
        assert session.scalar(select(func.count(TrainingDataset.id))) == 1


def test_no_job_starts_from_an_archived_version(configuration: Settings) -> None:
    version = resolve("highway@v1", configuration.datasets)
    lifecycle.change(version, "archive", "kim", "wrong labels")
    told = problems(configuration, dataset="highway@v1")
    assert "archived by kim" in told["dataset"]
    assert "wrong labels" in told["dataset"]


def test_everything_that_is_wrong_is_told_at_once(configuration: Settings, tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as refused, transaction() as session:
        asked = request(
            dataset="highway@v9",
            base_model=tmp_path / "nowhere",
            hyperparameters={"learning_rate": -1, "lora_rank": 64},
            more_hyperparameters='{"wormup": 1, "epochs": 0}',
        )
        jobs.create_job(session, asked, "run", "kim", configuration, [Problem("experiment.alpha", "2", "below 0.5")])
    told = [problem.where for problem in refused.value.problems]
    assert sorted(told) == sorted(
        [
            "experiment.alpha",
            "hyperparameters.wormup",
            "dataset",
            "base_model",
            "base_model",
            "lora_rank",
            "learning_rate",
            "epochs",
        ]
    )
    assert "highway@v1" in str(refused.value), "what there is"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"epochs": 1, "epochs": 2}', {"more_hyperparameters.epochs": "the field twice"}),
        ('{"lora_rank": 4}', {"more_hyperparameters.lora_rank": "4"}),
        ('{"epochs": 1', {"more_hyperparameters": "'{\"epochs\": 1'"}),
        ("[1]", {"more_hyperparameters": "'[1]'"}),
        ('{"output": "/etc"}', {"hyperparameters.output": "'/etc'"}),
        ('{"learning_rate": NaN}', {"learning_rate": "nan"}),
    ],
)
def test_further_hyperparameters_that_cannot_be_meant(configuration: Settings, text: str, told: dict[str, str]) -> None:
    assert problems(configuration, hyperparameters={"lora_rank": 8}, more_hyperparameters=text) == told


@pytest.mark.parametrize("text", ["", " \n", "{}"])
def test_no_further_hyperparameters(configuration: Settings, text: str) -> None:
    assert create(configuration, more_hyperparameters=text).method == "lora"


@pytest.mark.parametrize("rank", [33, "33", 33.0, None])
def test_an_adapter_that_the_server_would_refuse_is_not_trained(configuration: Settings, rank: Any) -> None:
    """None: the specification's own default, 16, beside a server that accepts 8."""
    hyperparameters = {} if rank is None else {"lora_rank": rank}
    largest = 8 if rank is None else 32
    strict = configuration.model_copy(update={"max_lora_rank": largest})
    assert list(problems(strict, hyperparameters=hyperparameters)) == ["lora_rank"]


def test_an_adapter_needs_the_base_that_is_served(configuration: Settings, tmp_path: Path) -> None:
    other = write_base_model(tmp_path / "other")
    assert problems(configuration, base_model=other) == {"base_model": str(other)}
    full = create(configuration, base_model=other, hyperparameters={"method": "full"})
    assert (full.method, full.base_model) == ("full", other)


def test_a_merged_adapter_may_have_another_base_and_rank_but_no_quantized_base(
    configuration: Settings, tmp_path: Path
) -> None:
    other = write_base_model(tmp_path / "other")
    asked = {"serve_adapter_as": "merged", "lora_rank": 64}
    merged = create(configuration, base_model=other, hyperparameters=asked)
    assert (merged.method, merged.is_merged, merged.serves_full_weights) == ("lora", True, True)
    assert rows()[0].hyperparameters["serve_adapter_as"] == "merged"
    adapter = create(configuration, "run 2")
    assert (adapter.is_merged, adapter.serves_full_weights) == (False, False)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "quantization_config": {"load_in_4bit": True}}))
    with pytest.raises(BadInputError, match="stored quantized, expected the base in bf16 or fp32, to merge into"):
        create(configuration, "run 3", base_model=other, hyperparameters=asked)


def test_merging_and_full_weights_exclude_each_other_in_words(configuration: Settings) -> None:
    asked = {"method": "full", "serve_adapter_as": "merged"}
    assert problems(configuration, hyperparameters=asked) == {"serve_adapter_as": "'merged'"}


def test_a_job_that_cannot_fit_is_refused_with_settings_that_do(configuration: Settings) -> None:
    small = configuration.model_copy(update={"job_memory": "760m"})
    with pytest.raises(BadInputError) as refused:
        create(small, hyperparameters={"batch_size": 1024})
    [problem] = refused.value.problems
    assert problem.where == "memory"
    assert "batch_size=" in problem.expected
    assert rows() == []
    told = small.model_copy(update={"memory_check": "warn"})
    assert create(told, hyperparameters={"batch_size": 1024}).method == "lora"


def test_what_base_and_rows_cannot_bear_is_told_with_the_rest(configuration: Settings) -> None:
    """The base's layers are 16 wide and the dataset has one row to train on."""
    asked = {"method": "qlora", "early_stopping_patience": 1, "eval_steps": 4, "lora_rank": 33}
    assert problems(configuration, hyperparameters=asked) == {"method": "'qlora'", "eval_steps": "4", "lora_rank": "33"}


def test_a_request_of_the_wrong_form_names_its_fields() -> None:
    with pytest.raises(BadInputError) as refused:
        jobs.parse_request({"model_name": "../x", "datasets": "highway@v1"})
    assert {problem.where for problem in refused.value.problems} == {"model_name", "dataset", "datasets"}


def test_a_job_starts_once_and_ends_once(configuration: Settings) -> None:
    job = create(configuration)

    def after(step: str) -> FinetuningJob:
        with transaction() as session:
            jobs.start_job(session, job.id) if step == "start" else jobs.finish_job(session, job.name, step)  # type: ignore[arg-type]
        [row] = rows()
        return row

    started = after("start")
    assert (started.status, started.end_time) == ("running", None)
    assert started.start_time is not None
    assert after("start").start_time == started.start_time, "a retry goes on"
    ended = after("completed")
    assert ended.status == "completed"
    assert ended.end_time is not None
    assert after("completed").end_time == ended.end_time
    again = after("start")
    assert (again.status, again.end_time) == ("running", None)
    assert after("failed").status == "failed"


def test_on_gpus_one_process_trains_on_each(configuration: Settings) -> None:
    def processes(devices: int, **hyperparameters: Any) -> int:
        with transaction() as session:
            asked = request(hyperparameters=hyperparameters)
            job = jobs.create_job(session, asked, "run", "kim", configuration, devices=devices)
        return parse_spec(json.loads((job.folder / "spec.json").read_text())).processes

    assert processes(0) == processes(1) == 1
    assert processes(0, processes=3) == 3, "on the CPU as many as one likes"
    assert processes(4) == processes(4, processes=4, distribution="fsdp") == 4
    with pytest.raises(BadInputError, match="processes: found 3, expected 2, one for each GPU of the job"):
        processes(2, processes=3)


def test_the_row_names_the_devices(configuration: Settings) -> None:
    job = create(configuration)
    for devices, expected in (([0, 3], "0,3"), ([], None)):
        with transaction() as session:
            jobs.record_devices(session, job.folder, devices)
        assert rows()[0].gpu_ids == expected
    with transaction() as session:
        jobs.record_devices(session, job.folder.with_name("unknown"), [1])
    assert rows()[0].gpu_ids is None


def test_a_job_that_never_came_to_be_is_passed_over() -> None:
    with transaction() as session:
        jobs.finish_job(session, "router-000000000000", "failed")
    assert rows() == []
