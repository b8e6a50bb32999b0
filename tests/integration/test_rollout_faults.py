"""Every service, and the task itself, is killed with SIGKILL at every step of a rollout; nobody helps but the stack.

Afterwards exactly one version is in production; registry, route, gateway, vLLM and MLflow say the same; the history is
complete and has nothing twice; no answer's row in the gateway's log is lost. ``make rollout-faults`` (that is,
``TOLLGATE_FAULTS=all``) tries every kill at every step; else each thing is killed at one step. The table is kept in
``build/bench``. ``TOLLGATE_FAULTS=real`` does that on a real vLLM.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from tests.integration import rollout_stack, rollout_task
from tests.integration.rollout_stack import Askers, SmallStack, Wanted, environment_of, lost_rows, wait_until_right
from tests.performance.benchmark_rollout import random_adapter
from tests.performance.tables import Row, machine, publish, row
from tests.unit.serving.fake_vllm import write_adapter, write_base
from tests.unit.stack.conftest import free_port

from tollgate.errors import ServiceUnavailableError
from tollgate.settings import PROJECT, Settings, settings
from tollgate.stack import lifecycle, supervision
from tollgate.store.session import engine

pytestmark = pytest.mark.stack

VICTIMS = ("vllm", "gateway", "mlflow", "postgres", "reconciler", "task")
MODE = os.environ.get("TOLLGATE_FAULTS", "reduced")

BEGUN = Wanted(0.05, ("begin",), ("staging", "production"), ("staging",))
QUARTER = Wanted(0.25, ("begin", "advance"), ("staging", "production"), ("staging",))
WHOLE = Wanted(1.0, ("begin", "advance", "complete"), ("staging", "production", "archived"), ("staging", "production"))
BACK = Wanted(
    0.0,
    ("begin", "advance", "complete"),
    ("staging", "production", "archived", "production"),
    ("staging", "production", "archived"),
)
STEPS = {
    "begin": ((), "begin", "before_commit", BEGUN),
    "5 %": (("begin",), "first", "before_commit", QUARTER),
    "25 %": (("begin", "first"), "look", "before_commit", QUARTER),
    "100 %": (("begin", "first"), "second", "before_commit", WHOLE),
    "drain": (("begin", "first"), "second", "after_commit", WHOLE),
    "rollback": (("begin", "first", "second"), "back", "before_commit", BACK),
}
"""By step: the moves before it, the move during which something is killed, at which moment, and what must be true then.

``25 %``: nothing moves; ``drain``: the route has moved, the former version's last answers may be under way.
"""

_numbers = itertools.count(1)


def cases() -> list[tuple[str, str]]:
    """Which victim at which step."""
    if MODE == "all":
        return list(itertools.product(VICTIMS, STEPS))
    return list(zip(VICTIMS, ("5 %", "25 %", "100 %", "begin", "drain", "rollback"), strict=True))


@pytest.fixture(scope="module")
def stack() -> Iterator[SmallStack]:
    """PostgreSQL, MLflow, gateway, vLLM and reconciler under their supervisor."""
    if MODE == "real" and not (settings().ml_python.exists() and settings().served_base_model.is_dir()):
        pytest.skip("vLLM or the base model is not there; make them with: make demo")
    home = Path(tempfile.mkdtemp(prefix="tg-"))
    base = settings().served_base_model if MODE == "real" else write_base(home / "base")
    ports = {name: free_port() for name in ("MLFLOW", "VLLM", "GATEWAY", "AIRFLOW")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment_of(home, base, ports).items():
            patch.setenv(name, value)
        patch.setattr(lifecycle, "services", rollout_stack.small_services(MODE == "real"))
        patch.setattr(lifecycle, "preparations", rollout_stack.small_preparations)
        patch.setattr(supervision, "SETTLED_AFTER", 1)  # one thing is killed again and again here
        settings.cache_clear()
        engine.cache_clear()
        running = SmallStack(Settings(), [_adapter(home / f"v{number}", base, number) for number in (1, 2)])
        try:
            running.up()
            yield running
        finally:
            engine().dispose()
            lifecycle.down(running.settings)
            shutil.rmtree(home, ignore_errors=True)
    settings.cache_clear()
    engine.cache_clear()


def _adapter(folder: Path, base: Path, number: int) -> Path:
    if MODE == "real":
        return random_adapter(folder, base, number)
    return write_adapter(folder, base, fill=number / 4)


@pytest.fixture(scope="module")
def table() -> Iterator[list[Row]]:
    """Rows of the table, which is printed and kept."""
    rows: list[Row] = []
    yield rows
    name = "rollout_faults" if MODE == "all" else f"rollout_faults_{MODE}"
    publish("Kills during a rollout", rows, machine(), PROJECT / "build" / "bench" / f"{name}.json")


@pytest.mark.parametrize(("victim", "step"), cases())
def test_a_kill_ends_in_the_wanted_state(stack: SmallStack, table: list[Row], victim: str, step: str) -> None:
    before, move, moment, wanted = STEPS[step]
    route = f"router-{next(_numbers)}"
    stack.make_route(route)
    with Askers(stack, route) as askers:
        for earlier in before:
            make_move(stack, earlier, route)
        if move in {"first", "second"}:
            serve_users(stack, route)
        task = stack.task(move, moment, route)
        assert task.stdout is not None
        assert task.stdout.readline() == "ready\n"
        killed = time.monotonic()
        kill(stack, victim, task.pid)
        if stack.finish(task) != 0:
            make_move(stack, move, route)  # as Airflow does after a failed attempt
        seconds = time.monotonic() - killed + wait_until_right(stack, route, wanted)
    lost = lost_rows(askers.answered)
    asked = askers.failed + len(askers.answered)
    told = f"{victim} killed at {step}: to the wanted state ({askers.failed} of {asked} requests failed)"
    table.append(row(told, round(seconds, 1), "s", must="no row lost", ok=lost == 0))
    assert lost == 0
    assert not rollout_stack.differences_of(stack, route, wanted)  # and it stays so


def kill(stack: SmallStack, victim: str, task: int) -> None:
    """SIGKILL to the main process, as ``kill -9`` does it."""
    psutil.Process(task if victim == "task" else stack.process_of(victim)).send_signal(signal.SIGKILL)


def make_move(stack: SmallStack, move: str, route: str) -> None:
    """Make a move in this process, trying again where a service does not answer."""
    deadline = time.monotonic() + rollout_stack.PATIENCE
    while True:
        try:
            if move in {"first", "second"}:
                serve_users(stack, route)
            rollout_task.MOVES[move](route)
        except ServiceUnavailableError:
            assert time.monotonic() < deadline
            time.sleep(1)
        else:
            return


def serve_users(stack: SmallStack, route: str) -> None:
    """Let users of both versions be answered at the present share, so that a look has figures."""
    with httpx.Client(timeout=30, trust_env=False) as http:
        for version in (1, 2):
            for user in stack.user_of(route, f"{route}@v{version}", 2):
                deadline = time.monotonic() + rollout_stack.PATIENCE
                while True:
                    answer = stack.ask(http, route, user)
                    if answer.headers.get("X-Tollgate-Version") == f"{route}@v{version}":
                        rollout_stack.wait_for_row(answer.headers["X-Tollgate-Request-Id"])
                        break
                    assert time.monotonic() < deadline, answer.text
                    time.sleep(0.2)
