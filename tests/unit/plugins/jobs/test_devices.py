"""A job's GPUs: leased before it starts, seen by it, and given back whatever happens but a dead worker."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, update
from tests.unit.plugins.jobs.job_contract import MakeTask, Task, kill, wait_until

from jobs import devices
from jobs.errors import JobFailedError, JobSpecificationError, JobStoppedError, JobTimeoutError
from tollgate.settings import settings
from tollgate.store.session import engine, transaction
from tollgate.store.tables import GpuLease
from tollgate.training import leases


@pytest.fixture
def task(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeTask]:
    monkeypatch.setenv("TOLLGATE_ML_PYTHON", sys.executable)
    monkeypatch.setenv("TOLLGATE_GPU_IDS", "[4, 5]")
    monkeypatch.setattr(devices, "WAIT_SECONDS", 0.1)
    settings.cache_clear()
    made: list[Task] = []

    def make(mode: str, **parameters: Any) -> Task:
        made.append(Task(tmp_path / f"task-{len(made)}", mode, runtime="process", **{"gpus": 1, **parameters}))
        return made[-1]

    yield make
    for road in made:
        road.let_job_go()
    settings.cache_clear()


def start_worker(task: Task) -> BaseProcess:
    engine().dispose()  # connections do not survive a fork
    return task.start_worker()


def held() -> dict[int, str]:
    with transaction() as session:
        return leases.holders(session)


def holder(task: Task) -> str:
    return task.operator()._make_request(task.context()).key.holder


def test_job_sees_its_device_and_returns_it(task: MakeTask) -> None:
    road = task("wait")
    worker = start_worker(road)
    road.wait_until_job_waits()
    assert held() == {4: holder(road)}
    road.let_job_go()
    assert road.outcome_of(worker)["result"]["devices"] == "4"
    assert held() == {}


def test_two_jobs_run_side_by_side_and_the_third_waits(task: MakeTask) -> None:
    first, second, third = task("wait"), task("wait"), task("succeed")
    workers = [start_worker(first), start_worker(second)]
    first.wait_until_job_waits()
    second.wait_until_job_waits()
    assert sorted(held().values()) == sorted([holder(first), holder(second)])

    waiting = start_worker(third)
    waiting.join(0.5)
    assert waiting.is_alive()
    assert not (third.folder / "starts").exists()
    first.let_job_go()
    assert third.outcome_of(waiting)["result"]["starts"] == 1
    second.let_job_go()
    devices_seen = {
        road.outcome_of(worker)["result"]["devices"] for road, worker in zip((first, second), workers, strict=True)
    }
    assert devices_seen == {"4", "5"}
    assert held() == {}


@pytest.mark.parametrize(
    ("mode", "error"), [("crash", JobFailedError), ("refuse", JobSpecificationError), ("no_result", JobFailedError)]
)
def test_failed_job_returns_its_device(task: MakeTask, mode: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        task(mode).run()
    assert held() == {}


def test_timed_out_job_returns_its_device(task: MakeTask) -> None:
    with pytest.raises(JobTimeoutError):
        task("wait", execution_timeout=dt.timedelta(seconds=2)).run()
    assert held() == {}


def test_killed_worker_keeps_the_lease_for_its_retry(task: MakeTask) -> None:
    road = task("wait", gpus=2)
    worker = start_worker(road)
    road.wait_until_job_waits()
    road.wait_until_kept()
    kill(worker)
    assert sorted(held()) == [4, 5]
    road.let_job_go()
    assert road.run()["starts"] == 1
    assert held() == {}


def test_lease_of_a_dead_job_is_taken_back_and_of_a_living_one_is_not(task: MakeTask) -> None:
    living, dead, heir = task("wait"), task("wait"), task("succeed")
    for road in (living, dead):
        worker = start_worker(road)
        road.wait_until_job_waits()
        road.wait_until_kept()
        kill(worker)
    dead.let_job_go()
    wait_until((dead.folder / "exit.json").exists)
    with transaction() as session:
        session.execute(update(GpuLease).values(renewed_at=func.now() - leases.SUBMISSION_TIME * 2))
    assert heir.run()["devices"] == "5"
    assert held() == {4: holder(living)}


def test_stopped_while_waiting_for_a_device(task: MakeTask) -> None:
    with transaction() as session:
        leases.acquire(session, "somebody", 2, [4, 5])
    road = task("succeed")
    worker = start_worker(road)
    wait_until(lambda: road.store.get("job_runtime") is not None)
    worker.terminate()
    assert road.outcome_of(worker)["error"] == JobStoppedError.__name__
    assert set(held().values()) == {"somebody"}


def test_more_gpus_than_there_are_is_not_retried(task: MakeTask) -> None:
    with pytest.raises(JobSpecificationError, match="0 to 2"):
        task("succeed", gpus=3).run()


def test_without_configured_gpus_the_job_runs_without(task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOLLGATE_GPU_IDS")
    settings.cache_clear()
    assert task("succeed", gpus=1).run()["devices"] == ""
    assert held() == {}
