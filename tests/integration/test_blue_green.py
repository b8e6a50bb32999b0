"""Full weights under load: two real vLLM servers on the CPU, a real gateway, the jobs' runtime, and no mock.

Green is started while blue serves, gets the route, loses it by a rollback, gets it again; then blue is drained and
stopped. In float32, in which a batch's company changes no greedy answer, every answer must be the one that the version
named by the gateway gives alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import select
from tests.performance.switching import STREAMS, Load, gateway
from tests.unit.training.example_base import QWEN3, write_base_model, write_random_weights

from tollgate.registry import signatures
from tollgate.serving import release, rollout, server_keeper, servers
from tollgate.serving.client import VllmClient
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.store.tables import ModelServer, RegisteredModel
from tollgate.workflow import servers as work
from vllm_rollout.server_host import JobServerHost

ROUTE = "blue-green"
QUESTIONS = [f"질문 {number}" for number in range(5)]
TOKENS = 8
VISIBLE = 94
"""The first tokens, ``!`` to ``~``: answers are made of them, for half a character is shown otherwise in a stream."""
SETTLE = 3.0
"""Seconds of load after each move."""


@pytest.fixture
def host(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobServerHost]:
    if not settings().ml_python.exists():
        pytest.skip(f"{settings().ml_python} is not there; make it with: make setup")
    for name, value in {
        "HOME": str(tmp_path / "home"),
        "RUNTIME": "process",
        "SIGNATURES": "required",
        "MAX_MODEL_LEN": "128",
        "SERVER_QUIET_SECONDS": "2",
        # The shared server, which no version of these needs, and which is not there.
        "VLLM_URLS": json.dumps(["http://127.0.0.1:9"]),
    }.items():
        monkeypatch.setenv(f"TOLLGATE_{name}", value)
    settings.cache_clear()
    host = JobServerHost(options=("--dtype", "float32"))
    yield host
    with transaction() as session:
        left = [(row.model_id, row.job_id) for row in servers.unstopped(session)]
        orders = {model_id: server_keeper.order_of(session.get_one(RegisteredModel, model_id)) for model_id, _ in left}
    for model_id, job_id in left:
        host.stop(orders[model_id], job_id)
    settings.cache_clear()


def write_weights(folder: Path, seed: int) -> Path:
    """A model of random weights that vLLM serves; another seed answers everything otherwise."""
    write_base_model(folder, hidden=128, vocab_size=256, **QWEN3)  # a token for each byte, none that ends an answer
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "TokenizersBackend"}))
    write_random_weights(folder, seed, 0.3, VISIBLE)
    return folder


@pytest.fixture
def models(host: JobServerHost, tmp_path: Path) -> list[RegisteredModel]:
    """Two versions of full weights that have passed."""
    folders = [write_weights(tmp_path / f"v{version}", version) for version in (1, 2)]
    with transaction() as session:
        rows = [
            RegisteredModel(
                model_name=ROUTE,
                version=version,
                base_model="base",
                model_path=str(folder),
                model_format="transformers",
                manifest_digest=signatures.sign(folder),
                verdict="pass",
            )
            for version, folder in enumerate(folders, start=1)
        ]
        session.add_all(rows)
        session.flush()
        return rows


def start(model: RegisteredModel, host: JobServerHost) -> dict[tuple[str, str], str]:
    """Have a server of the version; what it answers to every question."""
    address = work.ensure(model.id, "kim", keep=lambda: server_keeper.keep(host))
    assert address is not None
    return {(model.served_name, question): ask(address, model.served_name, question) for question in QUESTIONS}


def ask(address: str, name: str, question: str) -> str:
    body = {"model": name, "messages": [{"role": "user", "content": question}], "max_tokens": TOKENS, "temperature": 0}
    response = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=300, trust_env=False)
    return str(response.raise_for_status().json()["choices"][0]["message"]["content"])


def promote(model: RegisteredModel) -> None:
    with VllmClient(base_model=Path(model.model_path)) as client, transaction() as session:
        release.promote(session, model.id, "kim", "better", QUESTIONS[:2], client)


def roll_back(model: RegisteredModel) -> float:
    """When it was decided."""
    decided = time.monotonic()
    with VllmClient(base_model=Path(model.model_path)) as client, transaction() as session:
        release.roll_back(session, ROUTE, "kim", "worse", client, model.id)
    return decided


def state(model: RegisteredModel) -> str | None:
    with transaction() as session:
        return session.scalar(select(ModelServer.state).where(ModelServer.model_id == model.id))


def guardians(folder: Path) -> list[int]:
    """Launchers of servers under a folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if str(folder) in words and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def test_green_takes_over_goes_back_and_blue_is_stopped_without_a_lost_request(
    models: list[RegisteredModel],
    host: JobServerHost,
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    blue, green = models
    known = start(blue, host)
    promote(blue)
    with gateway(postgres_url, "http://127.0.0.1:9", tmp_path) as entry, Load(entry, ROUTE, QUESTIONS, TOKENS) as load:
        time.sleep(SETTLE)
        known |= start(green, host)
        assert all(known[blue.served_name, text] != known[green.served_name, text] for text in QUESTIONS)
        promote(green)
        time.sleep(SETTLE)
        decided = roll_back(green)
        time.sleep(SETTLE)
        late = [one.sent - decided for one in load.answers if one.version == green.served_name and one.sent > decided]
        promote(green)
        with transaction() as session:
            assert rollout.current(session, ROUTE) == {green.id: 1.0}
            for server in servers.unstopped(session):
                server.requested_until = servers.now(session)
        server_keeper.keep(host)
        assert state(blue) == "ready", "it stays for the way back"
        monkeypatch.setenv("TOLLGATE_SERVER_RETENTION_SECONDS", "0")
        settings.cache_clear()
        for _ in range(600):
            server_keeper.keep(host)
            if state(blue) == "stopped":
                break
            time.sleep(0.5)
        time.sleep(SETTLE)
    answers = load.answers
    wrong = [one for one in answers if not one.failed and one.text.strip() != known[one.version, one.question].strip()]
    record_property("requests", len(answers))
    record_property("rollback_seconds", max(late, default=0.0))
    print(f"{len(answers)} requests under {STREAMS} streams, rollback within {max(late, default=0.0):.2f} s")
    assert (state(blue), state(green)) == ("stopped", "ready")
    assert not guardians(settings().servers / blue.served_name)
    assert len(guardians(settings().servers / green.served_name)) == 1
    assert [one for one in answers if one.failed] == []
    assert wrong == []
    assert {one.version for one in answers} == {blue.served_name, green.served_name}
