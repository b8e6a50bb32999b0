"""The training container's contract, held by running it as a process on real (random, tiny) weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tollgate.settings import PROJECT

PATHS = os.pathsep.join(str(PROJECT / name) for name in ("include", "containers"))
"""This checkout's code, whichever one the environment was made for."""


@pytest.fixture
def run(ml_python: Path, trainer_entry: Path):
    def start(folder: Path) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": PATHS, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        command = [str(ml_python), str(trainer_entry), str(folder)]
        return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    return start


def write_spec(folder: Path, base: Path, data: Path, **changed: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "job_name": "test-job",
        "base_model": str(base),
        "dataset": str(data),
        "dataset_reference": "sums@v1",
        "output": str(folder),
        "lora_rank": 4,
        "lora_alpha": 8,
        "learning_rate": 1e-3,
        "batch_size": 4,
        "max_length": 128,
        "max_steps": 6,
        "save_steps": 2,
        "eval_steps": 3,
        "logging_steps": 1,
        **changed,
    }
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "progress.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("method", "weights"), [("lora", "adapter"), ("full", "model"), ("qlora", "adapter")])
def test_each_method_writes_weights_progress_and_result(tmp_path, run, base_model, dataset, method, weights):
    folder = write_spec(tmp_path / "job", base_model, dataset, method=method, max_steps=3)
    process = run(folder)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert result["status"] == "succeeded"
    assert result["steps"] == 3
    assert Path(result["weights_path"]) == folder / weights
    assert list((folder / weights).glob("*.safetensors"))
    assert result["metrics"]["eval_loss"] > 0
    assert (result["trainable_parameters"] == result["total_parameters"]) == (method == "full")
    assert [line["step"] for line in lines(folder) if "loss" in line][:3] == [1, 2, 3]


def test_a_stopped_run_goes_on_where_it_was_and_ends_like_an_uninterrupted_one(tmp_path, run, base_model, dataset):
    whole = write_spec(tmp_path / "whole", base_model, dataset, max_steps=60, save_steps=50)
    output, _ = run(whole).communicate(timeout=300)
    assert (whole / "result.json").exists(), output

    stopped = write_spec(tmp_path / "stopped", base_model, dataset, max_steps=60, save_steps=50)
    process = run(stopped)
    deadline = time.monotonic() + 200
    while not (stopped / "progress.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 10, output
    assert not (stopped / "result.json").exists()
    half = stopped / "checkpoints" / "checkpoint-59"
    half.mkdir()  # a crash left half a checkpoint: newer, but without its last file
    (half / "adapter_model.safetensors").write_bytes(b"half")

    output, _ = run(stopped).communicate(timeout=300)
    assert "Resuming from checkpoint-" in output
    losses = {line["step"]: line["loss"] for line in lines(whole) if "loss" in line}
    resumed = {line["step"]: line["loss"] for line in lines(stopped) if "loss" in line}
    assert resumed == losses


def test_a_stop_before_the_first_step_ends_at_once_and_leaves_no_error(tmp_path, run, base_model, dataset):
    folder = write_spec(tmp_path / "job", base_model, dataset)
    process = run(folder)
    assert process.stdout.readline() == "Preparing.\n"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 10, output
    assert "nothing new to save" in output
    assert not (folder / "error.json").exists()
    assert not (folder / "progress.jsonl").exists()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"learning_rate": "abc"}, "learning_rate"),
        ({"lora_rank": 0}, "lora_rank"),
        ({"base_model": "/nowhere"}, "/nowhere/config.json"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_wrong_specification_exits_with_2_and_says_which_field(tmp_path, run, base_model, dataset, changed, expected):
    folder = write_spec(tmp_path / "job", base_model, dataset, **changed)
    process = run(folder)
    process.communicate(timeout=120)
    assert process.returncode == 2
    error = json.loads((folder / "error.json").read_text(encoding="utf-8"))
    assert error["kind"] == "bad_specification"
    assert expected in error["message"]


def test_a_job_that_is_done_is_not_done_again(tmp_path, run, base_model, dataset):
    folder = write_spec(tmp_path / "job", base_model, dataset)
    (folder / "result.json").write_text('{"status": "succeeded", "mark": 1}', encoding="utf-8")
    process = run(folder)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert json.loads((folder / "result.json").read_text(encoding="utf-8"))["mark"] == 1
