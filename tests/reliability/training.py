"""One run of ``finetune`` on the real stack, watched from outside while it trains."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import httpx
import psutil
from sqlalchemy import select
from tests.integration.conftest import Stack
from tests.integration.test_road import SHORT, wait_for
from tests.reliability.table import Row

from tollgate.demo.raw_data import write_raw
from tollgate.errors import ServiceUnavailableError
from tollgate.registry.mlflow_run import find_run
from tollgate.registry.mlflow_run_stream import job_start
from tollgate.store.session import transaction
from tollgate.store.tables import FinetuningJob
from tollgate.training.checkpoints import checkpoints_of
from tollgate.training.progress import ProgressReader, RunProgress

MODEL = "kill-matrix"
STEPS = int(os.environ.get("TOLLGATE_KILL_MATRIX_STEPS", "100"))
SAVE_STEPS = 10
KILL_AFTER = 25
"""The step from which on something is killed: two checkpoints are there, and some steps after them."""

CONF = {
    **SHORT,
    "model_name": MODEL,
    "dataset": "highway@v1",
    "more_hyperparameters": json.dumps(
        {"max_steps": STEPS, "logging_steps": 1, "save_steps": SAVE_STEPS, "eval_steps": 50}
    ),
}
PATIENCE = 1500.0


def prepare_dataset(stack: Stack) -> None:
    """Bring the demo's first file through the gates, unless that was done."""
    airflow = stack.airflow
    wait_for(lambda: airflow.has_dag("finetune") and airflow.has_dag("prepare_dataset"), 300, "reading the DAGs")
    if (stack.settings.datasets / "highway" / "v1").is_dir():
        return
    source = stack.settings.home / "demo" / "first.jsonl"
    write_raw(source, 0, "first")
    run_id = airflow.trigger("prepare_dataset", {"name": "highway", "source": str(source)})
    assert airflow.wait("prepare_dataset", run_id, 600) == "success"


class Training:
    """A run of ``finetune`` and its job folder.

    Args:
        stack: The stack.
        run_id: The run.
        job: What its task ``validate`` returned.
    """

    def __init__(self, stack: Stack, run_id: str, job: dict[str, Any]) -> None:
        self.stack = stack
        self.run_id = run_id
        self.job = job
        self.folder = Path(job["folder"])

    @classmethod
    def start(cls, stack: Stack) -> Training:
        """Trigger the run and wait until its job has a folder."""
        run_id = stack.airflow.trigger("finetune", CONF)
        job = wait_for(lambda: stack.airflow.result("finetune", run_id, "validate"), 300, "the validation")
        return cls(stack, run_id, job)

    # Looking

    def lines(self) -> list[dict[str, Any]]:
        """Every line of ``progress.jsonl``, also those that no longer count."""
        try:
            text = (self.folder / "progress.jsonl").read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines()[: text.count("\n")]]

    def step(self) -> int:
        """The step that was told last."""
        return max((int(line["step"]) for line in self.lines()), default=0)

    def losses(self) -> dict[int, float]:
        """The loss of every step, as it counts."""
        progress = RunProgress(ProgressReader(self.folder / "progress.jsonl").read())
        return {point.step: point.value for point in progress.series("loss")}

    def steps_again(self) -> int:
        """How many steps were trained a second time."""
        told = [line["step"] for line in self.lines() if "loss" in line]
        return len(told) - len(set(told))

    def task(self, task_id: str = "train") -> dict[str, Any] | None:
        """A task instance, or nothing while Airflow does not answer."""
        try:
            tasks = self.stack.airflow.tasks("finetune", self.run_id)
        except ServiceUnavailableError:
            return None
        return next(task for task in tasks if task["task_id"] == task_id)

    def attempts(self) -> int:
        """Attempts of the task ``train``."""
        task = self.task()
        assert task is not None
        return int(task["try_number"])

    def log(self, attempt: int) -> str:
        """The log of one attempt of ``train``; empty while Airflow does not answer."""
        try:
            return self.stack.airflow.log("finetune", self.run_id, "train", attempt)
        except ServiceUnavailableError:
            return ""

    def trainer(self) -> psutil.Process:
        """The process that trains: under its guardian, or the first one of its container."""
        note = self.folder / "process.json"
        if note.is_file():
            return psutil.Process(int(json.loads(note.read_text())["group"]))
        [container] = docker.from_env().containers.list(filters={"label": f"tollgate.folder={self.folder}"})
        return psutil.Process(int(container.attrs["State"]["Pid"]))

    # Waiting

    def wait_for_step(self, step: int) -> int:
        """Wait until a step was told, and return the one that was told last."""
        wait_for(lambda: self.step() >= step, PATIENCE, f"step {step}")
        assert self.step() < STEPS - SAVE_STEPS, "the kill must come in the middle of the training"
        return self.step()

    def wait_for_task(self, task_id: str = "train") -> None:
        """Wait until a task of the run has succeeded; an attempt that failed is followed by another one."""

        def has_succeeded() -> bool:
            task = self.task(task_id)
            assert task is None or task["state"] not in {"failed", "upstream_failed"}, f"{task_id} failed"
            return task is not None and task["state"] == "success"

        wait_for(has_succeeded, PATIENCE, f"the end of {task_id}")

    def end(self) -> None:
        """Let Airflow skip the rest of the run: what comes after the training is not looked at."""
        path = f"/api/v2/dags/finetune/dagRuns/{self.run_id}"
        self.stack.airflow._request("PATCH", path, json={"state": "failed"})

    # Judging

    def row(self, killed: str, at_step: int, seconds: float, recovered: str, whole: Training, test: str) -> Row:
        """What the kill did, compared with an undisturbed training."""
        return Row(
            killed=killed,
            at_step=at_step,
            recovery_seconds=round(seconds, 1),
            recovered=recovered,
            attempts=self.attempts(),
            steps_again=self.steps_again(),
            losses_lost=len(dict(whole.losses().items() ^ self.losses().items())),
            checkpoints_lost=len(_expected_checkpoints() - self._checkpoints()),
            figures_lost=self.figures_lost(),
            test=test,
        )

    def figures_lost(self) -> int:
        """How many losses MLflow lacks, or has otherwise."""
        return len(dict(self.losses().items() ^ self._mlflow_losses().items()))

    def _checkpoints(self) -> set[int]:
        with transaction() as session:
            job_id = session.scalars(select(FinetuningJob.id).where(FinetuningJob.job_name == self.job["name"])).one()
            return {record.step for record in checkpoints_of(session, job_id)}

    def _mlflow_losses(self) -> dict[int, float]:
        import mlflow

        client = mlflow.MlflowClient(self.stack.settings.mlflow_address)
        run = find_run(client, job_start(self.folder, MODEL))
        assert run is not None
        newest: dict[int, Any] = {}
        for point in client.get_metric_history(run.info.run_id, "loss"):
            if point.step not in newest or point.timestamp >= newest[point.step].timestamp:
                newest[point.step] = point
        return {step: point.value for step, point in newest.items()}


def _expected_checkpoints() -> set[int]:
    return set(range(SAVE_STEPS, STEPS + 1, SAVE_STEPS))


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Yield a function that says how many seconds the block has taken so far."""
    begun = time.monotonic()
    yield lambda: time.monotonic() - begun


def kill_family(process: psutil.Process) -> None:
    """Kill a process and its descendants at once, as a machine that dies does."""
    for member in [process, *process.children(recursive=True)]:
        try:
            member.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def answers(address: str) -> bool:
    """Whether a GET of this address is answered with 200."""
    try:
        return httpx.get(address, timeout=5).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
