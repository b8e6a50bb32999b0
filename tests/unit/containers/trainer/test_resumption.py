"""No work is lost: a training that was killed or stopped goes on as if nothing had happened, to the last digit."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import polars
import pytest
from tests.unit.containers.trainer.trainings import (
    ForkServer,
    error,
    figures,
    progress,
    repeated_differently,
    result,
    said,
    write_spec,
)

from tollgate.training.checkpoint_files import whole_checkpoints
from tollgate.training.stopping import STOP_REQUEST, stop_job

FIGURES = ("loss", "eval_loss", "grad_norm", "learning_rate", "mean_token_accuracy", "num_tokens", "train_loss")


@pytest.fixture(scope="module")
def long_evaluation(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training part with a validation part of many batches."""
    folder = tmp_path_factory.mktemp("datasets") / "long"
    folder.mkdir()
    train = polars.read_parquet(dataset / "train.parquet")
    train.write_parquet(folder / "train.parquet")
    polars.concat([train] * 40).write_parquet(folder / "validation.parquet")
    return folder


@pytest.mark.parametrize("packing", [False, True])
def test_killed_and_stopped_in_between_it_logs_what_an_uninterrupted_run_logs(
    tmp_path: Path, trainings: ForkServer, base_model: Path, dataset: Path, packing: bool
) -> None:
    """Dropout, accumulated gradients, several epochs; lines of three steps, so that a stop falls between two lines."""
    settings = {
        "lora_dropout": 0.2,
        "gradient_accumulation": 2,
        "batch_size": 2 if packing else 4,
        "packing": packing,
        "max_steps": 48,
        "save_steps": 5,
        "eval_steps": 7,
        "logging_steps": 3,
    }
    whole = write_spec(tmp_path / "whole", base_model, dataset, **settings)
    assert trainings.run(whole) == 0, said(whole)
    cut = write_spec(tmp_path / "cut", base_model, dataset, **settings)
    training = trainings.start(cut)
    training.wait_for_step(12)
    training.signal(signal.SIGKILL)
    assert training.wait() == -signal.SIGKILL
    training = trainings.start(cut)
    training.wait_for_step(24)
    training.signal(signal.SIGTERM)
    assert training.wait() == 10, said(cut)
    assert not (cut / "result.json").exists()
    assert not (cut / "error.json").exists()
    stopped_at = whole_checkpoints(cut / "checkpoints")[-1].name
    assert f"Stopped at step {stopped_at.removeprefix('checkpoint-')};" in said(cut)
    assert trainings.run(cut) == 0, said(cut)
    assert f"Resuming from {stopped_at}." in said(cut)
    assert figures(cut, *FIGURES) == figures(whole, *FIGURES)
    assert repeated_differently(cut, "loss") == repeated_differently(cut, "eval_loss") == []
    assert (cut / "adapter/adapter_model.safetensors").read_bytes() == (
        whole / "adapter/adapter_model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("method", ["full", "qlora"])
def test_every_method_goes_on_to_the_last_digit(
    tmp_path: Path, trainings: ForkServer, base_model: Path, dataset: Path, method: str
) -> None:
    settings = {"method": method, "lora_dropout": 0.2, "max_steps": 20, "save_steps": 50, "eval_steps": 6}
    whole = write_spec(tmp_path / "whole", base_model, dataset, **settings)
    assert trainings.run(whole) == 0, said(whole)
    cut = write_spec(tmp_path / "cut", base_model, dataset, **settings)
    training = trainings.start(cut)
    training.wait_for_step(5)
    training.signal(signal.SIGTERM)
    assert training.wait() == 10, said(cut)
    assert trainings.run(cut) == 0, said(cut)
    assert figures(cut, *FIGURES) == figures(whole, *FIGURES)


def test_a_stop_in_the_middle_of_an_evaluation_cuts_it_and_it_is_made_up_for(
    tmp_path: Path, trainings: ForkServer, base_model: Path, long_evaluation: Path
) -> None:
    """Evaluating draws random numbers, so with dropout later losses tell whether everything was put back."""
    settings = {"lora_dropout": 0.2, "max_steps": 6, "eval_steps": 3, "save_steps": 4, "early_stopping_patience": 5}
    whole = write_spec(tmp_path / "whole", base_model, long_evaluation, **settings)
    assert trainings.run(whole) == 0, said(whole)
    cut = write_spec(tmp_path / "cut", base_model, long_evaluation, **settings)
    for step in (3, 6):
        training = trainings.start(cut)
        training.wait_for_step(step)
        training.signal(signal.SIGTERM)
        assert training.wait() == 10, said(cut)
        assert (cut / f"checkpoints/checkpoint-{step}/trainer_state.json").exists()
        assert ("eval_loss", step) not in figures(cut, "eval_loss"), "the evaluation went on to its end"
    assert trainings.run(cut) == 0, said(cut)
    assert figures(cut, *FIGURES) == figures(whole, *FIGURES)
    same = ("steps", "saved_step", "best_step", "best_eval_loss")
    assert [result(cut)[name] for name in same] == [result(whole)[name] for name in same]
    assert len([line for line in progress(cut) if line["step"] == 6 and "loss" in line]) == 1, "a step too many"


def test_a_stop_within_accumulated_gradients_ends_the_step_first(
    tmp_path: Path, trainings: ForkServer, base_model: Path, dataset: Path
) -> None:
    folder = write_spec(
        tmp_path / "job", base_model, dataset, gradient_accumulation=16, batch_size=4, max_steps=3, save_steps=50
    )
    training = trainings.start(folder)
    training.wait_until(lambda: "Training test-job" in said(folder))
    training.signal(signal.SIGTERM)
    assert training.wait() == 10, said(folder)
    [checkpoint] = whole_checkpoints(folder / "checkpoints")
    assert checkpoint.name == "checkpoint-1"
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == 1


def test_a_request_in_the_job_folder_stops_it_once(
    tmp_path: Path, trainings: ForkServer, base_model: Path, dataset: Path
) -> None:
    folder = write_spec(tmp_path / "job", base_model, dataset, max_steps=300, save_steps=300, eval_steps=300)
    training = trainings.start(folder)
    training.wait_for_step(2)
    assert stop_job(folder, "the data were wrong", "kim") == folder
    assert training.wait() == 10, said(folder)
    assert not (folder / STOP_REQUEST).exists()
    assert json.loads((folder / "stop.json").read_text())["reason"] == "kim: the data were wrong"
    [checkpoint] = whole_checkpoints(folder / "checkpoints")
    training = trainings.start(folder)
    training.wait_until(lambda: f"Resuming from {checkpoint.name}" in said(folder))
    training.signal(signal.SIGTERM)
    assert training.wait() == 10


def test_a_request_before_the_start_is_honoured_without_training(
    tmp_path: Path, trainings: ForkServer, base_model: Path, dataset: Path
) -> None:
    folder = write_spec(tmp_path / "job", base_model, dataset)
    stop_job(folder, "not needed", "kim")
    assert trainings.run(folder) == 10, said(folder)
    assert not (folder / "checkpoints").exists()
    assert progress(folder) == []


def test_a_named_checkpoint_begins_there_and_a_retry_goes_on_from_its_own(
    tmp_path: Path, trainings: ForkServer, base_model: Path, dataset: Path
) -> None:
    folder = write_spec(tmp_path / "job", base_model, dataset, max_steps=6, save_steps=2, checkpoints_kept=3)
    assert trainings.run(folder) == 0, said(folder)
    first = figures(folder, "loss")
    (folder / "result.json").unlink()
    (folder / "progress.jsonl").unlink()
    changed = {"max_steps": 8, "checkpoints_kept": 3, "lr_scheduler": "constant", "save_steps": 2}
    write_spec(folder, base_model, dataset, resume_from="checkpoint-2", **changed)
    training = trainings.start(folder)
    training.wait_for_step(4)
    training.signal(signal.SIGTERM)
    assert training.wait() == 10, said(folder)
    assert "Resuming from checkpoint-2." in said(folder)
    assert (folder / "earlier/checkpoints-0/checkpoint-6/trainer_state.json").exists()
    own = whole_checkpoints(folder / "checkpoints")[-1].name
    assert trainings.run(folder) == 0, said(folder)
    assert f"Resuming from {own}." in said(folder)
    assert figures(folder, "loss")["loss", 3] == first["loss", 3]
    assert result(folder)["steps"] == 8


def test_a_named_checkpoint_that_is_not_there_or_half_written_is_refused_with_what_there_is(
    tmp_path: Path, trainings: ForkServer, base_model: Path, dataset: Path
) -> None:
    folder = write_spec(tmp_path / "job", base_model, dataset, checkpoints_kept=3, max_steps=6)
    assert trainings.run(folder) == 0, said(folder)
    (folder / "result.json").unlink()
    optimizer = folder / "checkpoints/checkpoint-4/optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-1])
    for name, told in (("checkpoint-3", "not there"), ("checkpoint-4", "not whole")):
        write_spec(folder, base_model, dataset, resume_from=name)
        assert trainings.run(folder) == 2, said(folder)
        assert error(folder)["kind"] == "bad_specification"
        assert told in error(folder)["message"]
        assert "one of checkpoint-2, checkpoint-6" in error(folder)["message"]


def test_none_begins_anew_and_sets_the_old_checkpoints_aside(
    tmp_path: Path, trainings: ForkServer, base_model: Path, dataset: Path
) -> None:
    folder = write_spec(tmp_path / "job", base_model, dataset, max_steps=4)
    assert trainings.run(folder) == 0, said(folder)
    (folder / "result.json").unlink()
    write_spec(folder, base_model, dataset, max_steps=2, resume_from="none")
    assert trainings.run(folder) == 0, said(folder)
    assert "Resuming" not in said(folder)
    assert result(folder)["steps"] == 2
    assert [path.name for path in whole_checkpoints(folder / "checkpoints")] == ["checkpoint-2"]
    assert sorted(path.name for path in (folder / "earlier/checkpoints-0").iterdir()) == [
        "checkpoint-2",
        "checkpoint-4",
    ]
