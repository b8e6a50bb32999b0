"""Two processes on the CPU (gloo) train like one with the same global batch, also across a stop, and die together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tollgate.settings import PROJECT

STEPS = 16
PATIENCE_SECONDS = 550.0
TOLERANCE = 1e-6
"""Relative. Gradients of parts are added up in another order; DDP with two processes equals one process exactly."""

Start = Callable[[Path], subprocess.Popen[str]]


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
        "max_steps": STEPS,
        "save_steps": 100,
        "eval_steps": STEPS,
        "logging_steps": 1,
        **changed,
    }
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def start(ml_python: Path) -> Start:
    def launch(folder: Path) -> subprocess.Popen[str]:
        paths = os.pathsep.join(str(PROJECT / name) for name in ("include", "containers"))
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        entry = PROJECT / "containers" / "trainer" / "train.py"
        return subprocess.Popen(
            [ml_python, entry, folder], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    return launch


@pytest.fixture(scope="module")
def alone(start: Start, base_model: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process with the global batch of two: as many rows, accumulated."""
    folder = write_spec(tmp_path_factory.mktemp("alone"), base_model, dataset, gradient_accumulation=2)
    finish(start(folder), expected=0)
    return folder


def finish(process: subprocess.Popen[str], expected: int) -> str:
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == expected, output
    return output


def figures(folder: Path, name: str) -> dict[int, float]:
    lines = (folder / "progress.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["step"]: line[name] for line in map(json.loads, lines) if name in line}


def wait_for_progress(folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (folder / "progress.jsonl").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def has_deepspeed(ml_python: Path) -> bool:
    return subprocess.run([ml_python, "-c", "import deepspeed"], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("distribution", "tolerance"), [("ddp", 0.0), ("fsdp", TOLERANCE), ("zero2", TOLERANCE), ("zero3", TOLERANCE)]
)
def test_two_processes_stopped_and_resumed_train_like_one(
    tmp_path: Path,
    start: Start,
    alone: Path,
    base_model: Path,
    dataset: Path,
    has_deepspeed: bool,
    distribution: str,
    tolerance: float,
) -> None:
    if distribution.startswith("zero") and not has_deepspeed:
        pytest.skip("DeepSpeed is not installed beside the trainer (requirements-gpu-deepspeed.txt has it)")
    folder = write_spec(tmp_path, base_model, dataset, processes=2, distribution=distribution)
    process = start(folder)
    wait_for_progress(folder, process)
    process.send_signal(signal.SIGTERM)
    output = finish(process, expected=10)
    assert "4 rows x 1 accumulated x 2 processes = 8 rows" in output
    assert len(list((folder / "checkpoints").glob("checkpoint-*"))) == 1
    assert not (folder / "result.json").exists()
    assert not (folder / "error.json").exists()

    output = finish(start(folder), expected=0)
    assert "Resuming from checkpoint-" in output
    losses = figures(folder, "loss")
    assert list(losses) == list(range(1, STEPS + 1)), "each step once, written by one process"
    assert losses == pytest.approx(figures(alone, "loss"), rel=tolerance, abs=0.0)
    assert figures(folder, "eval_loss") == pytest.approx(figures(alone, "eval_loss"), rel=tolerance, abs=0.0)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert result["steps"] == STEPS
    assert list((folder / "adapter").glob("*.safetensors"))


def test_a_training_process_that_is_killed_ends_the_others_and_the_job(
    tmp_path: Path, start: Start, base_model: Path, dataset: Path
) -> None:
    folder = write_spec(tmp_path, base_model, dataset, processes=2, distribution="ddp", max_steps=100_000)
    process = start(folder)
    wait_for_progress(folder, process)
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    workers[1].kill()
    finish(process, expected=1)
    error = json.loads((folder / "error.json").read_text(encoding="utf-8"))
    assert error["kind"] == "process_died"
    assert "Process 1 of 0 to 1 was killed by SIGKILL" in error["message"]
    assert not any(worker.is_running() for worker in workers)
    assert not (folder / "result.json").exists()
