"""Several worker processes of one gateway."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
from tests.unit.containers.gateway.conftest import logged, wait_for
from tests.unit.containers.gateway.test_killed_gateway import QUESTION, GatewayProcess, run

from gateway.metrics import Metrics

__all__ = ["run"]

Run = Callable[..., GatewayProcess]
REQUESTS = 24


def ask_anew(gateway: GatewayProcess) -> int:
    """Over a connection of its own, which the kernel gives to either worker."""
    with httpx.Client(base_url=gateway.address, timeout=30, trust_env=False) as client:
        answer = client.post("/v1/chat/completions", json=QUESTION, headers={"Authorization": "Bearer sesame"})
        return answer.status_code


def counted(gateway: GatewayProcess) -> int:
    with httpx.Client(base_url=gateway.address, timeout=30, trust_env=False) as client:
        figures = client.get("/metrics").text
    return sum(int(number) for number in re.findall(r"tollgate_gateway_requests_total\{.*\} (\d+)", figures))


def test_workers_share_a_port_and_whoever_is_asked_shows_the_figures_of_all(run: Run, tmp_path: Path) -> None:
    gateway = run(TOLLGATE_GATEWAY_WORKERS="2")
    main = psutil.Process(gateway.process.pid)
    spools = tmp_path / "home" / "gateway-spool"
    wait_for(lambda: len(list(spools.glob("[!.]*"))) == 2, 120)
    assert {ask_anew(gateway) for _ in range(REQUESTS)} == {200}
    assert {counted(gateway) for _ in range(6)} == {REQUESTS}
    assert len(logged(REQUESTS)) == REQUESTS
    workers = main.children()
    assert gateway.end(signal.SIGTERM) == 0
    assert not psutil.wait_procs(workers, timeout=30)[1]
    assert list(spools.iterdir()) == []


def test_a_worker_that_dies_is_replaced_and_none_outlives_who_watches(run: Run) -> None:
    gateway = run(TOLLGATE_GATEWAY_WORKERS="2")
    main = psutil.Process(gateway.process.pid)
    wait_for(lambda: len(main.children()) == 2, 120)
    first = main.children()[0]
    first.kill()
    wait_for(lambda: first not in main.children() and len(main.children()) == 2, 120)
    workers = main.children()
    gateway.end(signal.SIGKILL)
    assert not psutil.wait_procs(workers, timeout=60)[1]


def test_figures_of_two_add_up() -> None:
    labels = ("r", "a", "r@v1", "vllm")
    one, other = Metrics(), Metrics()
    one.answered(labels, 200, 0.02, None, (3, 1))
    other.answered(labels, 200, 0.3, 0.1, (4, 0))
    text = one.merged([other.state()]).text({})
    shown = '{route="r",variant="a",version="r@v1",provider="vllm"'
    assert f'tollgate_gateway_requests_total{shown},status="200"}} 2\n' in text
    assert f'tollgate_gateway_request_seconds_bucket{shown},le="0.025"}} 1\n' in text
    assert f"tollgate_gateway_request_seconds_count{shown}}} 2\n" in text
    assert f'tollgate_gateway_tokens_total{shown},kind="prompt"}} 7\n' in text
    assert "tollgate_gateway_log_lost_total 0\n" in text
