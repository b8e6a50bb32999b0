"""The Docker engine dies in the middle of a training: its containers die with it, and the retry goes on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.conftest import Stack
from tests.integration.test_road import wait_for
from tests.reliability.engine import Engine, skip_unless_startable
from tests.reliability.table import nothing_is_lost
from tests.reliability.training import KILL_AFTER, PATIENCE, SAVE_STEPS, Training, stopwatch

pytestmark = [pytest.mark.stack, pytest.mark.docker]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """An engine of the test's own, with the trainer's image."""
    skip_unless_startable()
    folder = Path(tempfile.mkdtemp(prefix="te-"))
    engine = Engine(folder)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def in_containers(running: Stack, engine: Engine) -> Stack:
    """The same stack, whose jobs run in containers of that engine."""
    engine.take_image(running.settings.trainer_image)
    changed = running.settings.model_copy(update={"runtime": "docker", "docker_url": engine.url})
    variables = {"TOLLGATE_RUNTIME": "docker", "TOLLGATE_DOCKER_URL": engine.url}
    stack = Stack(settings=changed, environment={**running.environment, **variables})
    assert running.command("down", timeout=180).returncode == 0
    done = stack.command("up", timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return stack


def test_a_training_goes_on_when_the_engine_is_back(in_containers, engine, undisturbed, table) -> None:
    training = Training.start(in_containers)
    training.wait_for_step(KILL_AFTER)
    with stopwatch() as seconds:
        engine.kill()
        wait_for(lambda: not engine.answers(), 60, "the engine's end")
        engine.start()
        at_step = training.step()
        wait_for(lambda: training.step() > at_step, PATIENCE, "a step beyond the kill")
        taken = seconds()
    training.wait_until_registered()
    row = training.row("Docker engine", at_step, taken, "it trains beyond the step of the kill", undisturbed, "engine")
    table.append(row)
    nothing_is_lost(row)
    assert row.attempts >= 2
    assert row.steps_again <= SAVE_STEPS, "only what came after the last checkpoint"
