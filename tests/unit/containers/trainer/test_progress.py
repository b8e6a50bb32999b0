"""What a real training writes into ``progress.jsonl``: at once, at every report, and again after a crash."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest
from tests.unit.containers.trainer.trainings import environment, launch, write_spec

from tollgate.training.progress import ProgressReader, RunProgress, read_progress

WRITER = """
import sys
from pathlib import Path
from transformers import TrainerControl, TrainerState
from trainer import progress

now = 0.0
progress.time.monotonic = lambda: now
writer = progress.ProgressWriter(Path(sys.argv[1]))
state, control = TrainerState(max_steps=10), TrainerControl()
writer.on_train_begin(None, state, control)
state.global_step = 1
"""

NOT_FINITE = """
now = 2.0
writer.on_step_end(None, state, control)
writer.on_log(None, state, control, logs={"loss": float(sys.argv[2]), "num_tokens": 100.0})
"""

RATES = """
now = 2.0
writer.on_step_end(None, state, control)
writer.on_log(None, state, control, logs={"loss": 1.0, "num_tokens": 100.0})
writer.on_prediction_step(None, state, control)
now = 12.0
writer.on_log(None, state, control, logs={"eval_loss": 1.0, "eval_num_tokens": 100.0})
writer.on_evaluate(None, state, control)
now = 17.0
writer.on_save(None, state, control)
state.global_step = 2
now = 19.0
writer.on_step_end(None, state, control)
writer.on_log(None, state, control, logs={"loss": 1.0, "num_tokens": 300.0})
"""

ON_GPUS = """
import torch
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 2
torch.cuda.max_memory_allocated = lambda device: (7_000, 9_000)[device]
torch.cuda.utilization = lambda device: (40, 97)[device]
writer.on_log(None, state, control, logs={"loss": 1.0})
def unknown(device):
    raise RuntimeError("NVML does not know the device")
torch.cuda.utilization = unknown
state.global_step = 2
writer.on_log(None, state, control, logs={"loss": 1.0})
"""


def by_hand(python: Path, calls: str, path: Path, *more: str) -> None:
    """Call the writer as a trainer does, with a clock of the test's own."""
    command = [str(python), "-c", WRITER + calls, str(path), *more]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def trained(
    ml_python: Path, base_model: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("trained")
    process = launch(ml_python, write_spec(folder, base_model, dataset))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return folder, output


def test_the_first_line_stands_before_the_first_step(trained) -> None:
    first = ProgressReader(trained[0] / "progress.jsonl").read()[0]
    assert (first.step, first.max_steps, first.percent, first.phase) == (0, 6, 0.0, "training")
    assert first.figures.keys() == {"memory_bytes"}
    assert first.eta_seconds is None


def test_every_step_tells_its_figures(trained) -> None:
    progress = read_progress(trained[0] / "progress.jsonl")
    for name in ("loss", "perplexity", "learning_rate", "grad_norm", "tokens_per_second", "memory_bytes"):
        assert [point.step for point in progress.series(name) if point.step] == [1, 2, 3, 4, 5, 6], name
    for point in progress.series("loss"):
        assert point.line.perplexity == pytest.approx(math.exp(point.value))
        assert point.line.epoch == pytest.approx(point.step / 16, abs=1e-3)
    assert 50e6 < (progress.newest("memory_bytes") or 0) < 20e9, "a process with torch in it, in bytes"
    assert "num_tokens" not in progress.points
    assert progress.last is not None
    assert progress.last.time is not None


def test_every_evaluation_and_every_checkpoint_is_told(trained) -> None:
    lines = ProgressReader(trained[0] / "progress.jsonl").read()
    assert [line.step for line in lines if line.eval_loss is not None] == [3, 6], "the last one is not measured again"
    begun = [line.step for line in lines if line.phase == "evaluating" and line.eval_loss is None]
    assert begun == [3, 6], "said before it is measured"
    assert {line.step for line in lines if line.phase == "saving"} == {2, 4, 6}
    for before, after in pairwise(lines):
        assert after.step == before.step or before.phase == "training", "the next step is trained, not saved"
    for line in lines:
        if line.eval_loss is not None:
            assert line.eval_perplexity == pytest.approx(math.exp(line.eval_loss))


def test_the_rate_leaves_out_what_evaluations_and_checkpoints_took(ml_python: Path, tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    by_hand(ml_python, RATES, path)
    rates = [line.tokens_per_second for line in ProgressReader(path).read() if line.tokens_per_second is not None]
    assert rates == [50.0, 100.0], "100 tokens in 2 s; 200 more in 2 s, beside 10 s of evaluation and 5 s of saving"


def test_the_log_says_the_same_in_words(trained) -> None:
    folder, output = trained
    for line in ProgressReader(folder / "progress.jsonl").read():
        if line.loss is not None or line.eval_loss is not None or line.step == 0:
            assert line.in_words() in output


def test_a_crash_leaves_no_torn_line_and_repeated_steps_count_once(
    ml_python: Path, base_model: Path, dataset: Path, tmp_path: Path
) -> None:
    path = tmp_path / "progress.jsonl"
    process = launch(ml_python, write_spec(tmp_path, base_model, dataset, max_steps=400, save_steps=20, eval_steps=400))
    deadline = time.monotonic() + 200
    while (RunProgress(ProgressReader(path).read()).newest("loss") is None) or (
        not list((tmp_path / "checkpoints").glob("checkpoint-*/trainer_state.json"))
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 390, "loss": 0.0}\n{"step": 391, "lo')  # further than the checkpoint, and torn
    killed_at = len(path.read_bytes().splitlines())

    process = launch(ml_python, write_spec(tmp_path, base_model, dataset, max_steps=60, save_steps=20, eval_steps=400))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    lines = ProgressReader(path)
    progress = RunProgress(lines.read())
    assert lines.damaged == [], "the torn line is gone"
    resumed = json.loads(path.read_text(encoding="utf-8").splitlines()[killed_at - 1])
    assert resumed["step"] > 0, "the first line of the second process tells where it goes on"
    assert resumed["step"] % 20 == 0
    assert progress.last is not None
    assert [point.step for point in progress.series("loss")] == list(range(1, progress.last.step + 1))
    assert progress.last.step == max(60, resumed["step"])


@pytest.mark.parametrize(("loss", "text"), [("nan", "NaN"), ("inf", "Infinity")])
def test_a_loss_that_is_no_number_is_valid_json(ml_python: Path, tmp_path: Path, loss: str, text: str) -> None:
    path = tmp_path / "progress.jsonl"
    by_hand(ml_python, NOT_FINITE, path, loss)
    written = path.read_text(encoding="utf-8").splitlines()[-1]
    value = json.loads(written, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert value["loss"] == text
    assert not math.isfinite(read_progress(path).newest("loss") or 0.0)


def test_on_gpus_a_line_tells_the_busiest_one_and_the_fullest(ml_python: Path, tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    by_hand(ml_python, ON_GPUS, path)
    _, first, second = ProgressReader(path).read()
    assert (first.gpu_utilization, first.memory_bytes) == (97, 9_000)
    assert (second.gpu_utilization, second.memory_bytes) == (None, 9_000), "what the device does not say is left out"
