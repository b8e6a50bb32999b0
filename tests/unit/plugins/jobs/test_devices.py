"""A job's GPUs: leased before it starts, seen by it, and given back whatever happens but a dead worker."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import func, select, update
from tests.unit.plugins.jobs.job_contract import MakeTask, Task, kill, wait_until

from jobs import devices, docker_runtime
from jobs.errors import JobFailedError, JobSpecificationError, JobStoppedError, JobTimeoutError
from jobs.operator import QUEUE_KEY, ContainerJobOperator
from tollgate.settings import settings
from tollgate.store.session import engine, transaction
from tollgate.store.tables import FinetuningJob, GpuLease
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
    engine(None).dispose()  # connections do not survive a fork; this is how transaction() names the engine
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


def place(task: Task) -> int | None:
    """The place in the queue as the task's state store has it."""
    waits = task.store.get(QUEUE_KEY)
    return waits and waits["place"]


def record_job(task: Task) -> None:
    with transaction() as session:
        session.add(
            FinetuningJob(
                job_name=task.folder.parent.name,
                base_model="/models/base",
                method="lora",
                hyperparameters={},
                output_dir=str(task.folder),
            )
        )


def recorded_devices() -> list[str | None]:
    with transaction() as session:
        return list(session.scalars(select(FinetuningJob.gpu_ids).order_by(FinetuningJob.id)))


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
    wait_until(lambda: place(third) == 1)
    assert third.store.get(QUEUE_KEY)["busy"] == {str(device): name for device, name in held().items()}
    first.let_job_go()
    assert third.outcome_of(waiting)["result"]["starts"] == 1
    second.let_job_go()
    devices_seen = {
        road.outcome_of(worker)["result"]["devices"] for road, worker in zip((first, second), workers, strict=True)
    }
    assert devices_seen == {"4", "5"}
    assert held() == {}


def test_the_place_is_told_and_the_first_waiter_is_served_first(
    task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, early, late = task("wait", gpus=2), task("succeed", gpus=2), task("succeed")
    log, notes = Mock(), Mock(side_effect=lambda *_: running.let_job_go())  # once it is known to wait
    monkeypatch.setattr("jobs.operator.write_note", notes)
    worker = start_worker(running)
    running.wait_until_job_waits()
    waiting = start_worker(early)
    wait_until(lambda: place(early) == 1)

    monkeypatch.setattr(ContainerJobOperator, "log", log)
    operator = late.operator()
    context = late.context()
    context["dag_run"] = Mock()
    operator.execute(context)
    said = [call.args[0] % call.args[1:] for call in log.info.call_args_list]
    assert any("Place 2 of 2 in the queue for 1 GPU. Busy: GPU 4: finetune/" in line for line in said)
    assert any(line == "The job has GPU 4." for line in said)
    told = [call.args[1] for call in notes.call_args_list]
    assert "**train** waits for GPUs. Place 2 of 2 in the queue for 1 GPU." in told[0]
    assert told[-1] == "**train** has GPU 4 after waiting."
    assert (place(early), place(late)) == (None, None), "who waits no longer has no place"
    assert early.outcome_of(waiting)["result"]["devices"] == "4,5"
    assert (early.folder / "result.json").stat().st_mtime <= (late.folder / "starts").stat().st_mtime
    running.outcome_of(worker)


def test_a_killed_waiter_leaves_the_queue(task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "WAITER_PATIENCE", dt.timedelta(seconds=2))
    running, doomed, heir = task("wait", gpus=2), task("succeed", gpus=2), task("succeed")
    worker = start_worker(running)
    running.wait_until_job_waits()
    killed = start_worker(doomed)
    wait_until(lambda: place(doomed) == 1)
    waiting = start_worker(heir)
    wait_until(lambda: place(heir) == 2)
    kill(killed)
    wait_until(lambda: place(heir) == 1)
    running.let_job_go()
    assert heir.outcome_of(waiting)["result"]["devices"] == "4"
    running.outcome_of(worker)


def test_certain_devices_are_leased_and_stand_in_the_jobs_row(task: MakeTask) -> None:
    chosen, other = task("wait", gpu_ids="[5]"), task("succeed", gpus=1)
    record_job(chosen)
    record_job(other)
    worker = start_worker(chosen)
    chosen.wait_until_job_waits()
    assert held() == {5: holder(chosen)}
    assert other.run()["devices"] == "4"
    chosen.let_job_go()
    assert chosen.outcome_of(worker)["result"]["devices"] == "5"
    assert recorded_devices() == ["5", "4"]


@pytest.mark.parametrize(
    ("ids", "told"), [([7], "configured devices"), ("[-1]", "list of device ids"), ("four", "ids")]
)
def test_devices_that_cannot_be_had_are_refused(task: MakeTask, ids: Any, told: str) -> None:
    with pytest.raises(JobSpecificationError, match=told):
        task("succeed", gpu_ids=ids).run()


def test_certain_devices_are_refused_where_none_is_configured(task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOLLGATE_GPU_IDS")
    settings.cache_clear()
    with pytest.raises(JobSpecificationError, match="no GPU is configured"):
        task("succeed", gpu_ids=[0]).run()


def test_a_job_that_was_killed_with_its_worker_and_launcher_loses_its_device(task: MakeTask) -> None:
    dead, heir = task("wait", gpus=2), task("succeed", gpus=2)
    worker = start_worker(dead)
    dead.wait_until_job_waits()
    dead.wait_until_kept()
    kill(worker)
    os.kill(json.loads((dead.folder / "process.json").read_text())["pid"], signal.SIGKILL)
    waiting = start_worker(heir)
    wait_until(lambda: place(heir) == 1)
    assert set(held().values()) == {holder(dead)}, "its job might be about to start"
    with transaction() as session:
        session.execute(update(GpuLease).values(renewed_at=func.now() - leases.SUBMISSION_TIME * 2))
    assert heir.outcome_of(waiting)["result"]["devices"] == "4,5"


def test_docker_is_asked_for_the_leased_devices_and_for_none_without(task: MakeTask) -> None:
    road = task("succeed")
    request = road.operator()._make_request(road.context())
    assert docker_runtime._device_requests(request) is None
    asked = docker_runtime._device_requests(replace(request, devices=(4, 5)))
    assert asked is not None
    assert [(one["DeviceIDs"], one["Capabilities"], one["Count"]) for one in asked] == [(["4", "5"], [["gpu"]], 0)]


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
        leases.ask(session, leases.Wish("somebody", 2, runtime="process"), [4, 5])
    road = task("succeed")
    worker = start_worker(road)
    wait_until(lambda: road.store.get("job_runtime") is not None)
    wait_until(lambda: place(road) == 1)
    worker.terminate()
    assert road.outcome_of(worker)["error"] == JobStoppedError.__name__
    assert set(held().values()) == {"somebody"}
    with transaction() as session:
        assert leases.waiters(session) == []


def test_more_gpus_than_there_are_is_not_retried(task: MakeTask) -> None:
    with pytest.raises(JobSpecificationError, match="0 to 2"):
        task("succeed", gpus=3).run()


def test_without_configured_gpus_the_job_runs_without(task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOLLGATE_GPU_IDS")
    settings.cache_clear()
    assert task("succeed", gpus=1).run()["devices"] == ""
    assert held() == {}
