"""The stack, a dataset version, and one training that nobody disturbs: what every kill is compared with."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.conftest import Stack
from tests.integration.conftest import stack as stack_of_its_own
from tests.reliability.table import Row, write_table
from tests.reliability.training import CONF, Training, prepare_dataset

from tollgate.settings import PROJECT, settings

__all__ = ["stack_of_its_own"]


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Stack:
    """A stack of the tests' own; that of the environment's settings where TOLLGATE_KILL_MATRIX_STACK is set."""
    if os.environ.get("TOLLGATE_KILL_MATRIX_STACK"):
        return Stack(settings=settings(), environment={**os.environ, "COLUMNS": "120"})
    own: Stack = request.getfixturevalue("stack_of_its_own")
    return own


@pytest.fixture(scope="session")
def running(stack: Stack) -> Stack:
    """The stack, up, with the demo's base model and the dataset version ``highway@v1``."""
    script = PROJECT / "containers" / "trainer" / "pretrain.py"
    base = stack.settings.models / "demo-base"
    if not base.is_dir():  # an older recipe's will do: nothing here depends on what the base can
        subprocess.run([str(stack.settings.ml_python), str(script), str(base)], check=True, env=stack.environment)
    done = stack.command("up", timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    prepare_dataset(stack)
    return stack


@pytest.fixture(scope="session")
def undisturbed(running: Stack) -> Training:
    """A training that nothing happens to; of a stack that is kept, the one of an earlier session."""
    kept = running.settings.home / "undisturbed.json"
    if kept.is_file():
        known = json.loads(kept.read_text())
        if known["conf"] == CONF:
            return Training(running, known["run_id"], known["job"])
    training = Training.start(running)
    training.wait_for_task()
    training.end()
    assert training.attempts() == 1
    kept.write_text(json.dumps({"conf": CONF, "run_id": training.run_id, "job": training.job}))
    return training


@pytest.fixture(scope="session")
def table() -> Iterator[list[Row]]:
    """The rows of the table, which is written where the session ends."""
    rows: list[Row] = []
    yield rows
    folder = Path(os.environ.get("TOLLGATE_KILL_MATRIX", PROJECT / "build" / "reliability"))
    write_table(rows, folder)
    print(json.dumps([row.model_dump() for row in rows], indent=2))
