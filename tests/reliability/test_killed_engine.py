"""The Docker engine dies in the middle of a training: a new one stops its containers, and the next attempt goes on.

Airflow has no part in this: attempts of the operator are made one after the other, as Airflow's retries do.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_trainer_image import MAKE_BASE_AND_RESULT, TrainerTask, _write_spec
from tests.reliability.engine import Engine, skip_unless_startable
from tests.reliability.table import Row
from tests.reliability.training import PATIENCE, stopwatch
from tests.unit.containers.trainer.conftest import dataset
from tests.unit.plugins.jobs.job_contract import wait_until

from tollgate.settings import settings
from tollgate.training.progress import ProgressReader, RunProgress

__all__ = ["dataset"]
pytestmark = pytest.mark.docker
STEPS, SAVE_STEPS, KILL_AFTER = 3000, 250, 600


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """An engine of the test's own, with the trainer's image."""
    skip_unless_startable()
    folder = Path(tempfile.mkdtemp(prefix="te-"))
    engine = Engine(folder)
    engine.start()
    try:
        engine.take_image(settings().trainer_image)
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def base_model(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of random weights, made by the image itself as a job."""
    making = {"entrypoint": ["python", "-c", MAKE_BASE_AND_RESULT], "docker_url": engine.url}
    task = TrainerTask(tmp_path_factory.mktemp("base"), **making)
    assert task.run() == {"status": "succeeded"}
    return task.folder


def training(folder: Path, engine: Engine, base_model: Path, dataset: Path) -> TrainerTask:
    folder.mkdir()
    task = TrainerTask(folder, read_only_paths=[str(base_model), str(dataset)], docker_url=engine.url)
    intervals = {"logging_steps": 1, "save_steps": SAVE_STEPS, "max_steps": STEPS, "eval_steps": STEPS}
    _write_spec(task, base_model, dataset, **intervals)
    return task


def told(task: TrainerTask) -> list[dict[str, Any]]:
    file = task.folder / "progress.jsonl"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return [json.loads(line) for line in text.splitlines()[: text.count("\n")]]


def losses(task: TrainerTask) -> dict[int, float]:
    progress = RunProgress(ProgressReader(task.folder / "progress.jsonl").read())
    return {point.step: point.value for point in progress.series("loss")}


def step(task: TrainerTask) -> int:
    return max((line["step"] for line in told(task)), default=0)


def test_a_training_goes_on_when_the_engine_is_back(
    engine: Engine, base_model: Path, dataset: Path, tmp_path: Path, table: list[Row]
) -> None:
    whole = training(tmp_path / "whole", engine, base_model, dataset)
    assert whole.run()["steps"] == STEPS
    killed = training(tmp_path / "killed", engine, base_model, dataset)
    worker = killed.start_worker()
    wait_until(lambda: step(killed) >= KILL_AFTER)
    with stopwatch() as seconds:
        engine.kill()
        worker.join(300)
        assert worker.exitcode is not None, "the attempt ended with the engine"
        engine.start()
        at_step = step(killed)
        assert at_step < STEPS, "the kill must come in the middle of the training"
        worker = killed.start_worker()
        wait_until(lambda: step(killed) > at_step)
        taken = seconds()
    worker.join(PATIENCE)
    result = killed.outcome_of(worker)["result"]
    assert result["steps"] == STEPS
    steps = [line["step"] for line in told(killed) if "loss" in line]
    row = Row(
        killed="Docker engine",
        at_step=at_step,
        recovery_seconds=round(taken, 1),
        recovered="it trains beyond the step of the kill",
        attempts=2,
        steps_again=len(steps) - len(set(steps)),
        losses_lost=len(dict(losses(whole).items() ^ losses(killed).items())),
        test="tests/reliability/test_killed_engine.py",
    )
    table.append(row)
    assert row.losses_lost == 0, row
    assert row.steps_again <= SAVE_STEPS, "only what came after the last checkpoint"
