"""The service that reconciles for ever, on a real PostgreSQL, with a server that behaves as vLLM does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.registry.conftest import mlflow_down
from tests.unit.serving.fake_vllm import FakeVllm, write_adapter, write_base

from tollgate.serving import rollout
from tollgate.settings import settings
from tollgate.store.session import engine, transaction
from tollgate.store.tables import RegisteredModel
from tollgate.workflow import reconciler
from tollgate.workflow.reconciler import Reconciler

__all__ = ["mlflow_down"]  # the fixture
ROUTE = "router"


@pytest.fixture
def server(mlflow_down: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVllm]:
    """A server that lacks the version which its route needs."""
    with FakeVllm() as server:
        monkeypatch.setenv("TOLLGATE_VLLM_URLS", json.dumps([server.address]))
        monkeypatch.setenv("TOLLGATE_BASE_MODEL", str(write_base(tmp_path / "base")))
        settings.cache_clear()
        with transaction() as session:
            model = RegisteredModel(
                model_name=ROUTE,
                version=1,
                base_model="base",
                model_path=str(write_adapter(tmp_path / "v1", tmp_path / "base")),
                verdict="pass",
                status="production",
            )
            session.add(model)
            session.flush()
            rollout.set_route(session, ROUTE, {model.id: 1.0}, "kim")
        yield server


def test_it_says_what_it_did_and_nothing_where_nothing_is_to_be_done(server: FakeVllm) -> None:
    said: list[str] = []
    watch = Reconciler(1, with_mlflow=False, tell=said.append)
    watch.round()
    assert [line.split("UTC  ")[1] for line in said] == [f"loaded: router@v1 at {server.address}"]
    watch.round()
    watch.round()
    assert len(said) == 1


def test_what_stands_in_the_way_is_told_once_and_so_is_its_end(
    server: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "MLFLOW_RETRY_SECONDS", float("inf"))  # its turn comes once
    said: list[str] = []
    watch = Reconciler(1, heartbeat=tmp_path / "heartbeat", tell=said.append)
    watch.round()
    assert "problem: MLflow at" in said[-1]
    said.clear()
    working = settings().tollgate_database
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", "postgresql+psycopg2://nobody:@127.0.0.1:1/none")
    for cached in (settings, engine):
        cached.cache_clear()
    watch.round()
    watch.round()
    assert sum("PostgreSQL did not answer" in line for line in said) == 1
    said.clear()
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", working)
    for cached in (settings, engine):
        cached.cache_clear()
    server.restart_empty()
    watch.round()
    assert [line.split("UTC  ")[1] for line in said] == [
        f"loaded: router@v1 at {server.address}",
        "serving: nothing stands in the way any more",
    ]
    assert (tmp_path / "heartbeat").is_file()


def test_what_nobody_thought_of_does_not_end_it(server: FakeVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("surprise")

    said: list[str] = []
    watch = Reconciler(1, with_mlflow=False, tell=said.append)
    with monkeypatch.context() as broken:
        broken.setattr(reconciler, "reconcile", fail)
        assert "surprise" in watch.round().problems[0]
    assert watch.round().loaded == [f"router@v1 at {server.address}"]
    assert len(said) == 3
