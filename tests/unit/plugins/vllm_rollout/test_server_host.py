"""Servers of full weights as real processes: found again, stopped, and their GPU given back."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.unit.serving.fake_vllm import write_base

from tollgate.serving import server_metrics, servers
from tollgate.serving.server_keeper import ServerOrder, StartedServer, keep
from tollgate.settings import settings
from tollgate.stack import processes
from tollgate.store.session import transaction
from tollgate.store.tables import RegisteredModel
from tollgate.training import leases
from tollgate.training.leases import Wish
from tollgate.workflow import servers as work
from vllm_rollout import server_host
from vllm_rollout.server_host import JobServerHost

SERVER = Path(__file__).with_name("example_model_server.py")
NAME = "router@v2"


@pytest.fixture
def order(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerOrder:
    for name, value in {"HOME": str(tmp_path / "home"), "RUNTIME": "process", "GPU_IDS": "[0]"}.items():
        monkeypatch.setenv(f"TOLLGATE_{name}", value)
    settings.cache_clear()
    return ServerOrder(NAME, write_base(tmp_path / "v2"), settings().servers / NAME)


@pytest.fixture
def host(order: ServerOrder) -> Iterator[JobServerHost]:
    host = JobServerHost(SERVER, Path(sys.executable))
    yield host
    host.stop(order, None)


def begin(host: JobServerHost, order: ServerOrder) -> StartedServer:
    started = host.start(order)
    assert isinstance(started, StartedServer), started
    return started


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def register(model: Path) -> int:
    """A version of full weights."""
    with transaction() as session:
        row = RegisteredModel(
            model_name="router", version=2, base_model="b", model_path=str(model), model_format="transformers"
        )
        session.add(row)
        session.flush()
        return row.id


def holders() -> dict[int, str]:
    with transaction() as session:
        return leases.holders(session)


def test_a_server_outlives_who_started_it_and_is_found_again_by_its_folder(
    host: JobServerHost, order: ServerOrder
) -> None:
    started = begin(host, order)
    again = JobServerHost(SERVER, Path(sys.executable))
    assert begin(again, order) == started, "as after a kill that lost the row"
    assert again.is_running(started.job_id)
    wait_until(lambda: server_metrics.is_healthy(started.address))
    assert holders() == {0: "model_servers/router@v2/serve"}
    again.stop(order, started.job_id)
    assert not server_metrics.is_healthy(started.address)
    assert not again.is_running(started.job_id)
    assert holders() == {}
    again.stop(order, started.job_id)


def test_it_waits_for_a_gpu_in_the_queue(host: JobServerHost, order: ServerOrder) -> None:
    with transaction() as session:
        leases.ask(session, Wish("finetune/r/train"), [0])
    assert "Place 1 of 1" in str(host.start(order))
    with transaction() as session:
        leases.release(session, "finetune/r/train")
    assert host.is_running(begin(host, order).job_id)


def test_a_killed_server_is_started_again_and_down_finds_it(host: JobServerHost, order: ServerOrder) -> None:
    started = begin(host, order)
    wait_until(lambda: server_metrics.is_healthy(started.address))
    ours = processes.stack_processes(settings().home)
    assert len(ours) == 2, "the guardian and the server"
    for process in ours:
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not host.is_running(started.job_id))
    assert "GET /health" in host.last_words(order)
    second = begin(host, order)
    assert second.job_id != started.job_id
    wait_until(lambda: server_metrics.is_healthy(second.address))


def test_a_server_that_hangs_is_ended_and_started_again(
    host: JobServerHost, order: ServerOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under SIGSTOP a process takes connections and answers nothing, and only SIGKILL ends it."""
    monkeypatch.setenv("TOLLGATE_SIGNATURES", "off")
    monkeypatch.setenv("TOLLGATE_SERVER_HANG_SECONDS", "1")
    monkeypatch.setattr(server_host, "GRACE_SECONDS", 1)
    settings.cache_clear()
    model_id = register(order.model)
    first = work.ensure(model_id, "kim", keep=lambda: keep(host), poll_seconds=0.1)
    hung = json.loads((order.folder / "process.json").read_text())["group"]
    os.killpg(hung, signal.SIGSTOP)
    said: list[str] = []

    def is_back() -> bool:
        said.extend(keep(host))
        return [(view.state, view.starts) for view in work.views()] == [("ready", 2)]

    wait_until(is_back)
    assert "hung: it lives, but did not answer /health" in said[0]
    assert said[1] == f"stopped the server of {NAME}"
    assert not psutil.pid_exists(hung)
    second = work.address_of(NAME)
    assert second is not None
    assert second != first
    assert server_metrics.is_healthy(second)
    assert holders() == {0: "model_servers/router@v2/serve"}


def test_a_task_gets_a_server_through_the_keepers_own_process(
    host: JobServerHost, order: ServerOrder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper starts ``serve.py``; the interpreter that it is given runs the stand-in instead."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} {SERVER}\n")
    python.chmod(0o755)
    monkeypatch.setenv("TOLLGATE_ML_PYTHON", str(python))
    monkeypatch.setenv("TOLLGATE_SIGNATURES", "off")
    settings.cache_clear()
    model_id = register(order.model)
    address = work.ensure(model_id, "kim")
    assert address is not None
    assert work.ensure(model_id, "kim") == address
    assert server_metrics.traffic(address).under_way == 0
    assert [(view.served_name, view.state, view.starts) for view in work.views()] == [(NAME, "ready", 1)]
    with transaction() as session:
        servers.withdraw(session, model_id)
    monkeypatch.setenv("TOLLGATE_SERVER_QUIET_SECONDS", "1")
    settings.cache_clear()
    said: list[str] = []

    def is_gone() -> bool:
        said.extend(work.keep_if_due())
        return not work.views()

    wait_until(is_gone)
    assert said[-1] == f"stopped the server of {NAME}"
    assert holders() == {}
