"""What ``ContainerJobOperator`` promises, as tests that hold on every runtime.

A subclass names the runtime. State and identity of the task are stand-ins here; runtime, operator, Airflow's time-out
and the killed workers are real.
"""

from __future__ import annotations

import atexit
import datetime as dt
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

if "AIRFLOW_HOME" not in os.environ:
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="tollgate-airflow-")
    atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)

from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.task_runner import _run_execute_callable

from jobs.errors import (
    JobError,
    JobFailedError,
    JobOutOfMemoryError,
    JobSpecificationError,
    JobStoppedError,
    JobTimeoutError,
    JobVanishedError,
)
from jobs.operator import ContainerJobOperator
from jobs.runtimes import Runtime

JOB = Path(__file__).with_name("example_job.py")
PATIENCE_SECONDS = 180.0
_fork = multiprocessing.get_context("fork")


class FileStore:
    """Airflow's task state store, in a file: it outlives a killed worker."""

    def __init__(self, path: Path, die_when_setting: str | None = None) -> None:
        self.path = path
        self.die_when_setting = die_when_setting

    def _read(self) -> dict[str, Any]:
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def get(self, key: str, default: Any = None) -> Any:
        return self._read().get(key, default)

    def set(self, key: str, value: Any) -> None:
        if key == self.die_when_setting:
            os.kill(os.getpid(), signal.SIGKILL)
        self._write({**self._read(), key: value})

    def delete(self, key: str) -> None:
        self._write({name: value for name, value in self._read().items() if name != key})

    def _write(self, values: dict[str, Any]) -> None:
        partial = self.path.with_suffix(".partial")  # the test reads while a worker writes
        partial.write_text(json.dumps(values))
        partial.replace(self.path)


class WatchedOperator(ContainerJobOperator):
    """The operator, which tells the test when it has submitted or found its job and follows it."""

    def poll_until_complete(self, external_id: Any, context: Any) -> Any:
        Path(self.job_folder, "followed").touch()
        return super().poll_until_complete(external_id, context)


class Task:
    """One task instance of one run: its job folder, its state, and attempts at running it."""

    def __init__(self, folder: Path, mode: str, **parameters: Any) -> None:
        self.folder = folder / "job"
        self.folder.mkdir(parents=True)
        self.outcome = folder / "outcome.json"
        self.store = FileStore(folder / "state.json")
        self.parameters = parameters
        self.instance = SimpleNamespace(
            dag_id="finetune", run_id=f"manual__{folder}", task_id="train", map_index=-1, stats_tags={}
        )
        self.set_mode(mode)

    def set_mode(self, mode: str) -> None:
        (self.folder / "spec.json").write_text(json.dumps({"mode": mode}))

    def operator(self) -> ContainerJobOperator:
        defaults: dict[str, Any] = {
            "task_id": "train",
            "job_folder": str(self.folder),
            "script": str(JOB),
            "entrypoint": ["python3", str(JOB)],
            "read_only_paths": [str(JOB)],
            "memory": "64m",
            "stop_grace": dt.timedelta(seconds=20),
        }
        return WatchedOperator(**{**defaults, **self.parameters})

    def run(self) -> dict[str, Any]:
        """Run one attempt here, as Airflow's task runner does."""
        operator = self.operator()
        return _run_execute_callable(self.context(), operator.execute, operator)

    def context(self) -> Any:
        return {"ti": self.instance, "task_state_store": self.store}

    def start_worker(self, store: FileStore | None = None) -> BaseProcess:
        """Run one attempt in a process of its own, which can be killed."""
        (self.folder / "followed").unlink(missing_ok=True)
        worker = _fork.Process(target=self._work, args=(store or self.store,))
        worker.start()
        return worker

    def _work(self, store: FileStore) -> None:
        os.setsid()
        self.store = store
        operator = self.operator()
        signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
        try:
            outcome = {"result": _run_execute_callable(self.context(), operator.execute, operator)}
        except JobError as error:
            outcome = {"error": type(error).__name__, "text": str(error)}
        self.outcome.write_text(json.dumps(outcome))

    def outcome_of(self, worker: BaseProcess) -> dict[str, Any]:
        worker.join(PATIENCE_SECONDS)
        assert worker.exitcode == 0
        return json.loads(self.outcome.read_text())

    def wait_until_job_waits(self) -> None:
        wait_until((self.folder / "waiting").exists)

    def wait_until_followed(self) -> None:
        wait_until((self.folder / "followed").exists)

    def wait_until_kept(self) -> None:
        wait_until(lambda: self.store.get("job_id") is not None)

    def let_job_go(self) -> None:
        (self.folder / "go").touch()

    @property
    def starts(self) -> int:
        return len((self.folder / "starts").read_text().splitlines())

    @property
    def job_id(self) -> str:
        return self.store.get("job_id").partition(":")[2]


MakeTask = Callable[..., Task]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def kill(worker: BaseProcess) -> None:
    worker.kill()
    worker.join()


class JobContract:
    """The promises. Subclasses give ``runtime`` and ``parameters``."""

    @pytest.fixture
    def runtime(self) -> Runtime:
        raise NotImplementedError

    @pytest.fixture
    def parameters(self) -> dict[str, Any]:
        """What the operator needs on this runtime."""
        raise NotImplementedError

    @pytest.fixture
    def task(self, tmp_path: Path, runtime: Runtime, parameters: dict[str, Any]) -> Iterator[MakeTask]:
        made: list[Task] = []

        def make(mode: str, **more: Any) -> Task:
            made.append(Task(tmp_path / f"task-{len(made)}", mode, **{**parameters, **more}))
            return made[-1]

        yield make
        for task in made:
            if (job_id := runtime.find(task.operator()._make_request(task.context()))) is not None:
                runtime.stop(job_id, 0)
                runtime.remove(job_id)

    def assert_nothing_left(self, task: Task, runtime: Runtime) -> None:
        operator = task.operator()
        request = operator._make_request(task.context())
        assert runtime.find(request) is None
        assert not runtime.is_alive(request.key.holder)
        assert task.store.get("job_id") is None
        assert task.store.get("job_runtime") is None

    # Endings

    def test_result_is_returned_and_nothing_stays(self, task: MakeTask, runtime: Runtime) -> None:
        road = task("succeed")
        result = road.run()
        assert result["status"] == "succeeded"
        assert result["user"] == f"{road.folder.stat().st_uid}:{road.folder.stat().st_gid}"
        self.assert_nothing_left(road, runtime)

    def test_log_is_handed_on_line_by_line(self, task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
        road, log = task("succeed"), Mock()
        monkeypatch.setattr(ContainerJobOperator, "log", log)
        road.run()
        lines = [call.args[1] for call in log.info.call_args_list if call.args[0] == "%s"]
        assert "작업 시작, 번호 1" in lines
        assert "100 %" in lines
        assert lines.count("last line without a newline") == 1

    def test_progress_stands_in_log_and_store_while_the_job_runs(self, task: MakeTask) -> None:
        road = task("report")
        worker = road.start_worker()
        wait_until(lambda: road.store.get("progress") is not None)
        road.wait_until_job_waits()
        assert road.store.get("job_id") is not None, "still running"
        assert road.store.get("progress") == {
            "step": 2,
            "max_steps": 2,
            "percent": 100.0,
            "phase": "training",
            "loss": 0.5,
        }
        road.let_job_go()
        road.outcome_of(worker)
        assert "<svg" in (road.folder / "losses.svg").read_text()

    def test_a_cleared_job_begins_its_progress_anew(self, task: MakeTask) -> None:
        road = task("report")
        road.let_job_go()
        road.run()
        (road.folder / "mlflow.json").write_text("{}")
        road.run()
        (earlier,) = (road.folder / "earlier").iterdir()
        kept = {path.name for path in earlier.iterdir()}
        assert {"progress.jsonl", "losses.svg", "mlflow.json"} <= kept
        assert len((road.folder / "progress.jsonl").read_text().splitlines()) == 2
        assert not (road.folder / "mlflow.json").exists()

    def test_progress_is_in_the_log_once(self, task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
        road, log = task("report"), Mock()
        monkeypatch.setattr(ContainerJobOperator, "log", log)
        road.let_job_go()
        road.run()
        lines = [call.args[1] for call in log.info.call_args_list if call.args[0] == "%s"]
        assert [line for line in lines if line.startswith("step")] == [
            "step 1/2 (50 %), loss 1.0000",
            "step 2/2 (100 %), loss 0.5000",
        ]

    def test_bad_exit_tells_code_report_and_last_lines(self, task: MakeTask, runtime: Runtime) -> None:
        road = task("crash")
        with pytest.raises(JobFailedError) as failure:
            road.run()
        assert (failure.value.exit_code, failure.value.kind) == (3, "disk_full")
        for text in ("no space left", "delete old checkpoints", "the log's last words"):
            assert text in str(failure.value)
        self.assert_nothing_left(road, runtime)

    def test_bad_specification_is_not_retried(self, task: MakeTask) -> None:
        with pytest.raises(JobSpecificationError, match="base_model is not a folder") as failure:
            task("refuse").run()
        assert isinstance(failure.value, AirflowFailException)

    def test_success_without_a_result_is_a_failure(self, task: MakeTask, runtime: Runtime) -> None:
        road = task("no_result")
        with pytest.raises(JobFailedError, match=r"without writing result\.json"):
            road.run()
        self.assert_nothing_left(road, runtime)

    def test_out_of_memory_names_the_limit(self, task: MakeTask, runtime: Runtime) -> None:
        road = task("eat_memory")
        with pytest.raises(JobOutOfMemoryError, match="limit 64m"):
            road.run()
        self.assert_nothing_left(road, runtime)

    def test_timeout_stops_the_job_and_keeps_its_checkpoint(self, task: MakeTask, runtime: Runtime) -> None:
        road = task("wait", execution_timeout=dt.timedelta(seconds=3))
        with pytest.raises(JobTimeoutError):
            road.run()
        self.assert_nothing_left(road, runtime)
        assert (road.folder / "checkpoints" / "checkpoint-1" / "state").exists()

        road.let_job_go()
        assert road.run()["continued"]

    def test_job_that_ignores_sigterm_is_killed_after_the_grace_period(self, task: MakeTask, runtime: Runtime) -> None:
        road = task("stubborn", execution_timeout=dt.timedelta(seconds=3), stop_grace=dt.timedelta(seconds=1))
        with pytest.raises(JobTimeoutError):
            road.run()
        self.assert_nothing_left(road, runtime)

    # Killed workers

    def test_retry_after_killed_worker_reattaches_to_the_same_job(self, task: MakeTask, runtime: Runtime) -> None:
        road = task("wait")
        worker = road.start_worker()
        road.wait_until_job_waits()
        road.wait_until_kept()
        first = road.job_id
        kill(worker)
        assert runtime.status(first).state == "active"

        retry = road.start_worker()
        road.wait_until_followed()
        road.let_job_go()
        assert road.outcome_of(retry)["result"]["starts"] == 1
        self.assert_nothing_left(road, runtime)

    def test_job_that_ended_while_no_worker_lived_is_told_but_not_run_again(
        self, task: MakeTask, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        road = task("wait")
        worker = road.start_worker()
        road.wait_until_job_waits()
        road.wait_until_kept()
        job_id = road.job_id
        kill(worker)
        road.let_job_go()
        assert runtime.wait(job_id).state == "succeeded"
        log = Mock()
        monkeypatch.setattr(ContainerJobOperator, "log", log)
        assert road.run()["starts"] == 1
        assert [call.args[1] for call in log.info.call_args_list if call.args[0] == "%s"].count("going") == 1
        self.assert_nothing_left(road, runtime)

    def test_job_whose_id_was_never_kept_is_found(self, task: MakeTask, runtime: Runtime) -> None:
        road = task("wait")
        worker = road.start_worker(FileStore(road.store.path, die_when_setting="job_id"))
        worker.join(PATIENCE_SECONDS)
        assert worker.exitcode == -signal.SIGKILL
        assert road.store.get("job_id") is None

        road.let_job_go()
        assert road.run()["starts"] == 1
        self.assert_nothing_left(road, runtime)

    def test_stop_works_after_reattachment(self, task: MakeTask, runtime: Runtime) -> None:
        road = task("wait")
        worker = road.start_worker()
        road.wait_until_job_waits()
        road.wait_until_kept()
        kill(worker)

        retry = road.start_worker()
        road.wait_until_followed()
        retry.terminate()
        assert road.outcome_of(retry)["error"] == JobStoppedError.__name__
        assert (road.folder / "checkpoints" / "checkpoint-1" / "state").exists()
        self.assert_nothing_left(road, runtime)

    def test_stop_while_the_job_starts_is_not_lost(self, task: MakeTask, runtime: Runtime) -> None:
        road = task("wait")
        worker = road.start_worker()
        wait_until(lambda: road.store.get("job_runtime") is not None)
        worker.terminate()
        assert road.outcome_of(worker)["error"] == JobStoppedError.__name__
        self.assert_nothing_left(road, runtime)

    # Running again

    def test_cleared_task_really_runs_again(self, task: MakeTask, runtime: Runtime) -> None:
        road = task("succeed")
        assert road.run()["starts"] == 1
        (road.folder / "checkpoints").mkdir()
        second = road.run()
        assert second["starts"] == 2
        assert not second["continued"], "a finished job's checkpoints belong to that job"
        (earlier,) = (road.folder / "earlier").iterdir()
        assert json.loads((earlier / "result.json").read_text())["starts"] == 1

    def test_crash_before_success_is_recorded_runs_nothing_twice(
        self, task: MakeTask, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRFLOW__STATE_STORE__CLEAR_ON_SUCCESS", "True")
        road = task("succeed")
        first = road.run()
        # Airflow clears the store when it records the success; the worker died before.
        assert road.store.get("job_id") is not None
        assert road.run() == first

        road.store.path.unlink()
        assert road.run()["starts"] == 2

    def test_vanished_job_is_named_and_retried(self, task: MakeTask, runtime: Runtime) -> None:
        road = task("wait")
        worker = road.start_worker()
        road.wait_until_job_waits()
        road.wait_until_kept()
        self.make_vanish(road, runtime)
        assert road.outcome_of(worker)["error"] == JobVanishedError.__name__

        road.let_job_go()
        assert road.run()["starts"] == 2

    def make_vanish(self, task: Task, runtime: Runtime) -> None:
        """Make the job disappear without a trace of its end."""
        raise NotImplementedError

    # Bad input

    @pytest.mark.parametrize(
        ("parameters_", "named"),
        [
            ({"read_only_paths": ["/does/not/exist"]}, "/does/not/exist"),
            ({"job_folder": "relative/folder"}, "relative/folder"),
            ({"memory": "plenty"}, "plenty"),
            ({"gpus": "two"}, "two"),
            ({"backend": "unsloth"}, "one of trl, axolotl, llamafactory"),
        ],
    )
    def test_wrong_parameters_are_refused_before_anything_starts(
        self, task: MakeTask, parameters_: dict[str, Any], named: str
    ) -> None:
        road = task("succeed")
        road.parameters.update(parameters_)
        with pytest.raises(JobSpecificationError, match=named):
            road.run()
        assert not (road.folder / "starts").exists()
        right = {"read_only_paths": [], "job_folder": str(road.folder), "memory": "64m", "gpus": 0, "backend": "trl"}
        road.parameters.update(right)
