"""What a training loses when something dies in its middle, and how long the recovery takes: ``make kill-matrix``.

Each test kills one thing with SIGKILL while the same training runs, lets the stack recover by itself, and compares with
a training that nobody disturbed: every loss to the last digit, every checkpoint's row, every figure in MLflow.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import psutil
import pytest
from tests.integration.conftest import Stack
from tests.integration.test_road import _workers_of, wait_for
from tests.reliability.table import nothing_is_lost
from tests.reliability.training import KILL_AFTER, PATIENCE, SAVE_STEPS, Training, answers, kill_family, stopwatch

from tollgate.stack import lifecycle, postgres

pytestmark = pytest.mark.stack


def service(stack: Stack, name: str) -> psutil.Process:
    """The process of a supervised service."""
    number = lifecycle.supervisor_of(stack.settings).states()[name].process_id
    assert number is not None
    return psutil.Process(number)


def test_the_trainer_goes_on_from_its_last_checkpoint(running, undisturbed, table) -> None:
    training = Training.start(running)
    training.wait_for_step(KILL_AFTER)
    trainer = training.trainer()
    with stopwatch() as seconds:
        trainer.send_signal(signal.SIGKILL)
        at_step = training.step()
        wait_for(lambda: training.step() > at_step, PATIENCE, "a step beyond the kill")
        taken = seconds()
    training.wait_for_task()
    row = training.row("trainer", at_step, taken, "it trains beyond the step of the kill", undisturbed, "trainer")
    table.append(row)
    training.end()
    nothing_is_lost(row)
    assert row.attempts == 2
    assert row.steps_again <= SAVE_STEPS, "only what came after the last checkpoint"


def test_the_workers_death_does_not_reach_the_training(running, undisturbed, table) -> None:
    training = Training.start(running)
    training.wait_for_step(KILL_AFTER)
    trainer = training.trainer()
    with stopwatch() as seconds:
        for worker in _workers_of(running.airflow, training.run_id):
            worker.send_signal(signal.SIGKILL)
        at_step = training.step()
        wait_for(lambda: "Started job" in training.log(1) and training.attempts() == 2, PATIENCE, "the second attempt")
        wait_for(lambda: "step " in training.log(2), PATIENCE, "the first line of the second attempt")
        taken = seconds()
    assert trainer.is_running() or training.step() > at_step
    training.wait_for_task()
    row = training.row("worker", at_step, taken, "the second attempt shows the job's log", undisturbed, "worker")
    table.append(row)
    training.end()
    nothing_is_lost(row)
    assert (row.attempts, row.steps_again) == (2, 0), "the training went on meanwhile"


@pytest.mark.parametrize("with_tasks", [False, True], ids=["alone", "with its tasks"])
def test_the_scheduler_is_started_again(running, undisturbed, table, with_tasks) -> None:
    training = Training.start(running)
    training.wait_for_step(KILL_AFTER)
    scheduler = service(running, "airflow-scheduler")
    with stopwatch() as seconds:
        kill_family(scheduler) if with_tasks else scheduler.send_signal(signal.SIGKILL)
        at_step = training.step()
        wait_for(lambda: _is_healthy(running, "airflow-scheduler", scheduler.pid), PATIENCE, "a new scheduler")
        taken = seconds()
    training.wait_for_task()
    killed = "scheduler and all tasks" if with_tasks else "scheduler"
    row = training.row(killed, at_step, taken, "a new scheduler is healthy", undisturbed, "scheduler")
    table.append(row)
    training.end()
    nothing_is_lost(row)


def _is_healthy(stack: Stack, name: str, former: int) -> bool:
    [found] = [status for status in lifecycle.status(stack.settings) if status.name == name]
    return found.healthy and found.process_id not in {None, former}


def test_postgresql_comes_back_with_all_it_had(running, undisturbed, table) -> None:
    training = Training.start(running)
    training.wait_for_step(KILL_AFTER)
    server: Any = postgres.running_process(running.settings.postgres_data)
    with stopwatch() as seconds:
        os.kill(server.pid, signal.SIGKILL)
        at_step = training.step()
        wait_for(lambda: _is_whole(running, server.pid), PATIENCE, "a stack that is healthy again")
        taken = seconds()
    training.wait_for_task()
    row = training.row("PostgreSQL", at_step, taken, "every service is healthy", undisturbed, "postgresql")
    table.append(row)
    training.end()
    nothing_is_lost(row)


def _is_whole(stack: Stack, former: int) -> bool:
    server = postgres.running_process(stack.settings.postgres_data)
    return server is not None and server.pid != former and all(s.healthy for s in lifecycle.status(stack.settings))


def test_mlflow_gets_what_it_missed(running, undisturbed, table) -> None:
    training = Training.start(running)
    training.wait_for_step(KILL_AFTER)
    health = f"{running.settings.mlflow_address}/health"
    with stopwatch() as seconds:
        kill_family(service(running, "mlflow"))
        at_step = training.step()
        wait_for(lambda: not answers(health), 60, "MLflow's end")
        wait_for(lambda: answers(health), PATIENCE, "a new MLflow")
        taken = seconds()
    training.wait_for_task()
    if training.figures_lost():
        training.wait_for_task("register")  # which sends what the training could not
    row = training.row("MLflow", at_step, taken, "it answers again", undisturbed, "mlflow")
    table.append(row)
    training.end()
    nothing_is_lost(row)
    assert (row.attempts, row.steps_again) == (1, 0), "the training did not notice"
