"""A training ends when its validation loss no longer falls, and what is saved is its best step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import polars
import pytest
from tests.unit.containers.trainer.trainings import ForkServer, figures, result, said, write_spec

from tollgate.settings import PROJECT

OVERFIT = {"learning_rate": 3e-2, "lr_scheduler": "constant", "warmup_fraction": 0.0, "max_steps": 300}
MEASURED = {"eval_steps": 4, "save_steps": 300, "checkpoints_kept": 1, "early_stopping_patience": 3}

REPLAY = """
import json, sys
from transformers import TrainerControl, TrainerState
from trainer.early_stopping import EarlyStopping

outcome = []
for losses, patience, gain, resumed_before in json.load(sys.stdin):
    stopping, state, said = EarlyStopping(patience, gain), TrainerState(max_steps=1000), []
    for number, loss in enumerate(losses):
        if number == resumed_before:
            kept = json.loads(json.dumps(stopping.state()))
            stopping = EarlyStopping(patience, gain)
            stopping.restore(kept)
        state.global_step, control = 10 * (number + 1), TrainerControl()
        for _ in range(2):  # a second look at the same step changes nothing
            stopping.on_evaluate(None, state, control, {"eval_loss": float(loss)})
        if control.should_training_stop:
            break
    outcome.append([state.global_step, bool(stopping.reason), stopping.best_step])
print(json.dumps(outcome))
"""


def test_what_counts_as_a_gain(ml_python: Path) -> None:
    """Stopped at which step, whether early, best step; resuming in between changes nothing."""
    cases = [
        ([3, 2, 1, 1.5, 1.2, 0.5], 2, 0.0, [50, True, 30]),
        ([3, 2, 2.5, 1, 1.5, 0.5], 2, 0.0, [60, False, 60]),
        ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5], 2, 0.15, [60, False, 60]),  # small falls add up to a gain
        ([1.0, 0.99, 0.98, 0.97], 2, 0.15, [30, True, 30]),  # but not to this one
        ([1.0, "nan", "nan", 0.5], 2, 0.0, [30, True, 10]),
        (["nan", 1.0, 0.9], 2, 0.0, [30, False, 30]),
    ]
    asked = [(losses, patience, gain, at) for losses, patience, gain, _ in cases for at in (None, 1, 2)]
    replay = subprocess.run(
        [str(ml_python), "-c", REPLAY],
        input=json.dumps(asked),
        env={**os.environ, "PYTHONPATH": f"{PROJECT / 'include'}:{PROJECT / 'containers'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert replay.returncode == 0, replay.stderr
    assert json.loads(replay.stdout.splitlines()[-1]) == [expected for *_, expected in cases for _ in range(3)]


@pytest.fixture(scope="module")
def unlearnable(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Validation answers that contradict the training part: learning makes the loss rise."""
    folder = tmp_path_factory.mktemp("datasets") / "unlearnable"
    folder.mkdir()
    polars.read_parquet(dataset / "train.parquet").write_parquet(folder / "train.parquet")
    rows = [
        [{"role": "user", "content": f"{number} 더하기 1은?"}, {"role": "assistant", "content": "zqxj wvkb " * 3}]
        for number in range(8)
    ]
    polars.DataFrame({"messages": rows}).write_parquet(folder / "validation.parquet")
    return folder


def test_it_ends_early_with_the_weights_of_the_best_step_also_when_stopped_in_between(
    tmp_path: Path, trainings: ForkServer, base_model: Path, unlearnable: Path
) -> None:
    whole = write_spec(tmp_path / "whole", base_model, unlearnable, **OVERFIT, **MEASURED)
    assert trainings.run(whole) == 0, said(whole)
    told = result(whole)
    losses = {step: loss for (_, step), loss in figures(whole, "eval_loss").items()}
    assert told["stopped_early"] is True
    assert told["steps"] == max(losses) < 300
    assert told["steps"] - told["best_step"] >= 12
    assert told["best_eval_loss"] == told["metrics"]["eval_loss"] == min(losses.values()) == losses[told["best_step"]]
    assert told["saved_step"] == told["best_step"]
    assert f"Stopped early at step {told['steps']}" in said(whole)
    assert f"at step {told['best_step']}" in told["stop_reason"]
    best = whole / "checkpoints" / f"checkpoint-{told['best_step']}"
    assert (whole / "adapter/adapter_model.safetensors").read_bytes() == (
        best / "adapter_model.safetensors"
    ).read_bytes()

    cut = write_spec(tmp_path / "cut", base_model, unlearnable, **OVERFIT, **MEASURED)
    training = trainings.start(cut)
    training.wait_for_step(told["best_step"] + 5)
    training.signal(signal.SIGTERM)
    assert training.wait() == 10, said(cut)
    assert trainings.run(cut) == 0, said(cut)
    same = ("steps", "best_step", "best_eval_loss", "stop_reason")
    assert [result(cut)[name] for name in same] == [told[name] for name in same]


def test_without_patience_it_trains_to_the_end(
    tmp_path: Path, trainings: ForkServer, base_model: Path, unlearnable: Path
) -> None:
    folder = write_spec(tmp_path / "job", base_model, unlearnable, **{**OVERFIT, "max_steps": 24}, eval_steps=2)
    assert trainings.run(folder) == 0, said(folder)
    told = result(folder)
    assert (told["steps"], told["saved_step"], told["stopped_early"], told["best_step"]) == (24, 24, False, None)
