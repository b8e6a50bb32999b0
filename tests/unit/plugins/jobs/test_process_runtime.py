"""Jobs as processes keep the contract; what only processes can get wrong follows it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.unit.plugins.jobs.job_contract import JobContract, MakeTask, Task, kill, wait_until

from jobs.errors import JobOutOfMemoryError, JobSpecificationError
from jobs.process_runtime import ProcessRuntime
from jobs.runtimes import Runtime
from tollgate.settings import settings


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TOLLGATE_ML_PYTHON", sys.executable)
    settings.cache_clear()
    yield
    settings.cache_clear()


def _record(task: Task) -> dict[str, Any]:
    return json.loads((task.folder / "process.json").read_text())


class TestProcessJobs(JobContract):
    @pytest.fixture
    def runtime(self) -> ProcessRuntime:
        return ProcessRuntime()

    @pytest.fixture
    def parameters(self) -> dict[str, Any]:
        return {"runtime": "process"}

    def make_vanish(self, task: Task, runtime: Runtime) -> None:
        os.kill(_record(task)["pid"], signal.SIGKILL)

    def test_nothing_of_airflows_environment_reaches_the_job(
        self, task: MakeTask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "secret")
        monkeypatch.setenv("TOLLGATE_DATABASE_URL", "postgresql://user:secret@nowhere/tollgate")
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "secret")
        variables = task("succeed", environment={"OWN": "1"}).run()["variables"]
        assert {"OWN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"} <= set(variables)
        assert not [name for name in variables if name.startswith(("AIRFLOW", "TOLLGATE"))]

    def test_killed_job_is_taken_for_out_of_memory(self, task: MakeTask) -> None:
        road = task("wait")
        worker = road.start_worker()
        road.wait_until_job_waits()
        os.killpg(_record(road)["group"], signal.SIGKILL)
        assert road.outcome_of(worker)["error"] == JobOutOfMemoryError.__name__

    def test_stop_ends_the_whole_group(self, task: MakeTask) -> None:
        road = task("breed")
        worker = road.start_worker()
        road.wait_until_job_waits()
        child = psutil.Process(int((road.folder / "child").read_text()))
        worker.terminate()
        assert road.outcome_of(worker)["error"] == "JobStoppedError"
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)

    def test_group_of_a_killed_launcher_does_not_live_on(self, task: MakeTask, runtime: ProcessRuntime) -> None:
        road = task("breed")
        worker = road.start_worker()
        road.wait_until_job_waits()
        road.wait_until_kept()
        job_id = road.job_id
        kill(worker)
        child = psutil.Process(int((road.folder / "child").read_text()))
        os.kill(_record(road)["pid"], signal.SIGKILL)
        wait_until(lambda: runtime.status(job_id).state == "missing")
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)

    def test_second_submission_joins_the_running_job(self, task: MakeTask, runtime: ProcessRuntime) -> None:
        road = task("wait")
        request = road.operator()._make_request(road.context())
        first = runtime.submit(request)
        assert ProcessRuntime().submit(request) == first
        road.let_job_go()
        assert runtime.wait(first).state == "succeeded"
        assert road.starts == 1

    def test_a_backend_has_an_interpreter_of_its_own(
        self, task: MakeTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        own = tmp_path / "python"
        own.symlink_to(sys.executable)
        monkeypatch.setenv("TOLLGATE_BACKEND_PYTHONS", json.dumps({"axolotl": str(own)}))
        settings.cache_clear()
        road = task("succeed", backend="axolotl")
        request = road.operator()._make_request(road.context())
        assert request.process_command[0] == str(own)
        assert request.image == settings().trainer_image_of("axolotl")
        own.unlink()
        with pytest.raises(JobSpecificationError, match="TOLLGATE_BACKEND_PYTHONS") as refused:
            road.run()
        assert str(own) in str(refused.value)

    def test_missing_interpreter_is_named(
        self, task: MakeTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("TOLLGATE_ML_PYTHON", str(tmp_path / "python"))
        settings.cache_clear()
        with pytest.raises(JobSpecificationError, match="TOLLGATE_ML_PYTHON"):
            task("succeed").run()
