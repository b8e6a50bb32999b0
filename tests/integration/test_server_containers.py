"""A server of full weights as a container of the real vLLM: started once, killed, hung, drained, stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
from tests.integration.test_blue_green import ask, write_weights

from jobs import docker_runtime
from jobs.docker_runtime import unusable_because
from tollgate.registry import signatures
from tollgate.serving import release, server_keeper, servers
from tollgate.serving.client import VllmClient
from tollgate.serving.server_keeper import ServerOrder, StartedServer, order_of
from tollgate.serving.servers import ServerView
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.store.tables import RegisteredModel
from tollgate.training import leases
from tollgate.workflow import servers as work
from vllm_rollout import server_host
from vllm_rollout.server_host import JobServerHost

pytestmark = pytest.mark.docker
ROUTE = "container-blue-green"
NAME = f"{ROUTE}@v1"
QUESTIONS = [f"질문 {number}" for number in range(3)]
OPTIONS = ("--dtype", "float32")
PATIENCE_SECONDS = 900.0


@pytest.fixture
def client(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[docker.APIClient]:
    """A client of the engine, which has vLLM's image; afterwards it has no container of this test."""
    for name, value in {
        "HOME": str(tmp_path / "home"),
        "RUNTIME": "docker",
        "GPU_IDS": "[0]",
        "JOB_MEMORY": "8g",
        "SIGNATURES": "required",
        "MAX_MODEL_LEN": "128",
        "SERVER_QUIET_SECONDS": "1",
        "VLLM_URLS": json.dumps(["http://127.0.0.1:9"]),
    }.items():
        monkeypatch.setenv(f"TOLLGATE_{name}", value)
    settings.cache_clear()
    try:
        engine = docker.APIClient(base_url=settings().docker_url, version="auto", timeout=120)
        engine.ping()
    except (docker.errors.DockerException, requests.RequestException) as error:
        pytest.skip(f"no Docker engine: {error}")
    if reason := unusable_because(settings().docker_url, settings().vllm_image):
        pytest.skip(f"{reason}; the head of containers/vllm/Dockerfile says how to build it")
    # The lease is a real one; the device is not, and an engine without GPUs starts no container that wants one.
    monkeypatch.setattr(docker_runtime, "_device_requests", lambda request: None)
    yield engine
    for container in containers(engine):
        engine.remove_container(container["Id"], v=True, force=True)
    settings.cache_clear()


@pytest.fixture
def model(client: docker.APIClient, tmp_path: Path) -> RegisteredModel:
    """A version of full weights that has passed."""
    folder = write_weights(tmp_path / "v1", 1)
    with transaction() as session:
        row = RegisteredModel(
            model_name=ROUTE,
            version=1,
            base_model="base",
            model_path=str(folder),
            model_format="transformers",
            manifest_digest=signatures.sign(folder),
            verdict="pass",
        )
        session.add(row)
        session.flush()
        return row


class KilledHost(JobServerHost):
    """A host whose caller dies right after the container was started, before its row could be written."""

    def start(self, order: ServerOrder) -> StartedServer | str:
        super().start(order)
        raise KeyboardInterrupt


def containers(client: docker.APIClient) -> list[dict[str, Any]]:
    """Containers of this test's servers, in whatever state."""
    folder = settings().servers / NAME
    return list(client.containers(all=True, filters={"label": f"tollgate.folder={folder}"}))


def view() -> ServerView | None:
    found = work.views()
    assert len(found) <= 1
    return found[0] if found else None


def keep_until(condition: Callable[[], bool]) -> list[str]:
    """Keep as the reconciler does, anew in each round, as after its restart; what was said."""
    said: list[str] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, (said, work.views())
        said += server_keeper.keep(JobServerHost(options=OPTIONS))
        time.sleep(0.5)
    return said


def is_ready(starts: int) -> bool:
    found = view()
    return found is not None and (found.state, found.starts) == ("ready", starts)


def answers() -> list[str]:
    found = view()
    assert found is not None
    assert found.address is not None
    return [ask(found.address, NAME, question) for question in QUESTIONS]


def holders() -> dict[int, str]:
    with transaction() as session:
        return leases.holders(session)


def test_a_container_serves_is_found_again_restarted_drained_and_stopped(
    client: docker.APIClient, model: RegisteredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction() as session:
        servers.request(session, model.id, "kim")
    with pytest.raises(KeyboardInterrupt):
        server_keeper.keep(KilledHost(options=OPTIONS))
    (first,) = containers(client)
    keep_until(lambda: is_ready(1))
    assert [one["Id"] for one in containers(client)] == [first["Id"]], "a worker's death starts no second one"
    assert holders() == (leased := {0: f"model_servers/{NAME}/serve"})
    known = answers()
    assert all(text.strip() for text in known)
    with VllmClient(base_model=Path(model.model_path)) as replicas, transaction() as session:
        release.promote(session, model.id, "kim", "first", QUESTIONS[:2], replicas)

    client.kill(first["Id"], "SIGKILL")
    said = keep_until(lambda: is_ready(2))
    assert f"the server of {NAME} failed and is started again: it ended. Last lines of its log:" in said[0]
    (second,) = containers(client)
    assert second["Id"] != first["Id"]
    assert (answers(), holders()) == (known, leased)

    monkeypatch.setenv("TOLLGATE_SERVER_HANG_SECONDS", "1")
    monkeypatch.setattr(server_host, "GRACE_SECONDS", 2)
    settings.cache_clear()
    client.exec_start(client.exec_create(second["Id"], ["sh", "-c", "kill -STOP -1"])["Id"])
    said = keep_until(lambda: is_ready(3))
    assert "it hung: it lives, but did not answer /health for" in said[0]
    (third,) = containers(client)
    assert third["Id"] != second["Id"]
    assert (answers(), holders()) == (known, leased)

    with transaction() as session:
        release.retire(session, ROUTE, "kim", "over")
        servers.find(session, model.id).requested_until = servers.now(session)  # type: ignore[union-attr]
    said = keep_until(lambda: view() is None)
    assert said == [f"{NAME} is drained: nothing leads to it any more", f"stopped the server of {NAME}"]
    assert containers(client) == []
    assert holders() == {}
    assert not (order_of(model).folder / server_host.PLACE).exists()
