from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from tests.unit.stack.conftest import MakeService

from tollgate.errors import BadInputError, ServiceUnavailableError
from tollgate.settings import Settings
from tollgate.stack import lifecycle, postgres, processes
from tollgate.stack.services import POSTGRES, Preparation, Service


@pytest.fixture
def small_stack(
    web_service: MakeService, home_with_postgres: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Service, ...]:
    """Two small services and a preparation instead of the real ones; PostgreSQL is real."""
    step = Preparation("step", (sys.executable, "-c", "print('prepared')"), {}, frozenset({POSTGRES}))
    units = (web_service("first"), web_service("second", after=frozenset({"step"})))
    monkeypatch.setattr(lifecycle, "services", lambda *_: units)
    monkeypatch.setattr(lifecycle, "preparations", lambda *_: (step,))
    return units


def _up(configuration: Settings, *without: str) -> lifecycle.Started:
    return lifecycle.up(configuration, Console(file=io.StringIO()), without)


def _states(configuration: Settings) -> dict[str, bool]:
    return {service.name: service.healthy for service in lifecycle.status(configuration)}


def test_up_twice_status_and_down(configuration: Settings, small_stack: tuple[Service, ...]) -> None:
    assert _states(configuration) == {"postgres": False, "first": False, "second": False}
    started = _up(configuration)
    assert set(started.seconds) == {"postgres", "step", "first", "second"}
    found = lifecycle.status(configuration)
    assert all(service.healthy and service.process_id and service.memory for service in found)

    numbers = [service.process_id for service in found]
    assert _up(configuration) == lifecycle.Started(already_running=True, seconds={})
    assert [service.process_id for service in lifecycle.status(configuration)] == numbers

    assert lifecycle.down(configuration) == 5  # supervisor, two services, PostgreSQL and its guardian
    assert processes.stack_processes(configuration.home) == []
    assert postgres.running_process(configuration.postgres_data) is None
    assert lifecycle.down(configuration) == 0


def test_a_killed_database_comes_back_by_itself(configuration: Settings, small_stack: tuple[Service, ...]) -> None:
    _up(configuration)
    killed = postgres.running_process(configuration.postgres_data)
    assert killed is not None
    killed.kill()
    deadline = time.monotonic() + 60
    while not (server := postgres.running_process(configuration.postgres_data)) or server.pid == killed.pid:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    while not postgres.answers(configuration.postgres_data):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert processes.MARKER not in server.environ()  # down() ends what carries it by SIGTERM, PostgreSQL by its own way
    assert lifecycle.down(configuration) == 5
    assert postgres.running_process(configuration.postgres_data) is None


def test_after_a_killed_supervisor_up_refuses_and_down_cleans(
    configuration: Settings, small_stack: tuple[Service, ...]
) -> None:
    _up(configuration)
    job = subprocess.Popen(
        ["sleep", "300"], env=os.environ | processes.marker(configuration.home), start_new_session=True
    )
    supervisor = lifecycle.supervisor_of(configuration).process()
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    processes.wait_ended([supervisor], 5)
    with pytest.raises(BadInputError, match=r"earlier stack.*\n.*tollgate down"):
        _up(configuration)
    assert lifecycle.down(configuration) == 5  # two services, the job, PostgreSQL and its guardian
    assert job.wait(5) == -signal.SIGTERM
    assert processes.stack_processes(configuration.home) == []
    _up(configuration)
    assert all(_states(configuration).values())


def test_up_starts_what_was_left_out_or_died(configuration: Settings, small_stack: tuple[Service, ...]) -> None:
    _up(configuration, "first")
    assert _states(configuration) == {"postgres": True, "first": False, "second": True}
    kept = {service.name: service.process_id for service in lifecycle.status(configuration)}
    postgres.stop(configuration.postgres_data)
    _up(configuration)
    assert all(_states(configuration).values())
    assert {s.name: s.process_id for s in lifecycle.status(configuration)}["second"] == kept["second"]


def test_changed_settings_are_not_mixed_with_a_running_stack(
    configuration: Settings, small_stack: tuple[Service, ...], monkeypatch: pytest.MonkeyPatch, web_service: MakeService
) -> None:
    _up(configuration)
    monkeypatch.setattr(lifecycle, "services", lambda *_: (web_service("first"), web_service("second")))
    with pytest.raises(BadInputError, match="other settings"):
        _up(configuration)


def test_nothing_is_started_when_a_port_is_taken(configuration: Settings, small_stack: tuple[Service, ...]) -> None:
    squatter = subprocess.Popen(small_stack[0].command, stderr=subprocess.DEVNULL)
    try:
        lifecycle_ports = str(small_stack[0].port)
        while not (holder := processes.port_holder(int(lifecycle_ports))):
            assert squatter.poll() is None
        with pytest.raises(BadInputError, match=f"port {lifecycle_ports} in use by process {holder.pid}"):
            _up(configuration)
    finally:
        squatter.kill()
        squatter.wait()
    assert processes.stack_processes(configuration.home) == []
    assert postgres.running_process(configuration.postgres_data) is None


def test_a_service_that_fails_leaves_the_others_running(
    configuration: Settings, small_stack: tuple[Service, ...], web_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Service(
        "bad",
        (sys.executable, "-c", "raise SystemExit('broken')"),
        {},
        "http://127.0.0.1:1/",
        after=frozenset({"step", "first"}),
    )
    monkeypatch.setattr(lifecycle, "services", lambda *_: (small_stack[0], bad))
    with pytest.raises(ServiceUnavailableError, match="broken"):
        _up(configuration)
    assert _states(configuration) == {"postgres": True, "first": True, "bad": False}
    lifecycle.down(configuration)
    assert processes.stack_processes(configuration.home) == []


def test_two_starts_at_once_are_kept_apart(configuration: Settings, small_stack: tuple[Service, ...]) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from tollgate.stack.lifecycle import _alone\n"
        "with _alone(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", hold, str(configuration.home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BadInputError, match="started or stopped"):
            _up(configuration)
        with pytest.raises(BadInputError, match="started or stopped"):
            lifecycle.down(configuration)
        other.kill()


def test_an_unknown_service_cannot_be_left_out(configuration: Settings, small_stack: tuple[Service, ...]) -> None:
    with pytest.raises(BadInputError, match="one of first, second"):
        _up(configuration, "frist")
