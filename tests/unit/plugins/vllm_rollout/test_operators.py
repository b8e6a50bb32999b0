"""The rollout's operators, run as tasks are, against PostgreSQL and a server that behaves as vLLM does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from sqlalchemy import update
from tests.unit.serving.fake_vllm import FakeVllm, write_adapter, write_base

from tollgate.errors import BadInputError
from tollgate.serving import rollout
from tollgate.serving.adapter import AdapterDamagedError
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.store.tables import Deployment, RegisteredModel
from tollgate.workflow import rollouts
from vllm_rollout.hook import VllmRolloutHook
from vllm_rollout.operators import DeployModelOperator, LoadAdapterOperator, RollBackOperator, UnloadAdapterOperator
from vllm_rollout.sensors import RolloutSensor


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeVllm]:
    with FakeVllm() as server:
        monkeypatch.setenv("AIRFLOW_CONN_VLLM_DEFAULT", server.address)
        monkeypatch.setenv("TOLLGATE_BASE_MODEL", str(write_base(tmp_path / "base")))
        settings.cache_clear()
        yield server
        settings.cache_clear()


@pytest.fixture
def models(postgres_url: str, server: FakeVllm, tmp_path: Path) -> list[int]:
    base = tmp_path / "base"
    with transaction() as session:
        rows = [
            RegisteredModel(
                model_name="router",
                version=version,
                base_model=str(base),
                model_path=str(write_adapter(tmp_path / f"v{version}", base)),
            )
            for version in (1, 2)
        ]
        session.add_all(rows)
        session.flush()
        return [row.id for row in rows]


def run(operator_class: type, **arguments: Any) -> Any:
    """Render the templates and execute."""
    with DAG("test", schedule=None):
        operator = operator_class(task_id="task", **arguments)
    operator.render_template_fields({"dag_run": SimpleNamespace(triggering_user_name="kim", run_id="manual__1")})
    return operator.execute({})


def test_a_version_goes_to_its_route_and_back(models: list[int], server: FakeVllm) -> None:
    first, second = models
    assert run(LoadAdapterOperator, model_id=str(first), prompts=["ping"]) == "router@v1"
    run(DeployModelOperator, route="router", model_id=first, prompts=["ping"])
    done = run(DeployModelOperator, route="router", model_id=str(second), prompts=["ping"], share="0.25")
    assert done == {"route": "router", "served_name": "router@v2", "moved": True, "former": ["router@v1"]}
    with transaction() as session:
        assert rollout.current(session, "router") == pytest.approx({first: 0.75, second: 0.25})
        assert {row.deployed_by for row in session.query(Deployment)} == {"kim"}
    assert run(UnloadAdapterOperator, model_id=second) is False
    for _ in range(2):
        assert run(RollBackOperator, route="router", away_from=second) == {"router@v1": 1.0}
    assert run(UnloadAdapterOperator, model_id=second) is True
    assert list(server.loaded) == ["router@v1"]


def test_a_damaged_version_is_not_loaded(models: list[int], server: FakeVllm, tmp_path: Path) -> None:
    write_adapter(tmp_path / "v1", tmp_path / "base", fill=float("nan"))
    with pytest.raises(AdapterDamagedError):
        run(LoadAdapterOperator, model_id=models[0])
    assert server.loaded == {}


def test_what_was_never_registered_needs_no_unloading(models: list[int], server: FakeVllm) -> None:
    assert run(UnloadAdapterOperator, model_id="None") is True


def test_what_templates_gave_is_checked_before_any_service_is_asked() -> None:
    with pytest.raises(BadInputError, match="'seven', expected a number"):
        run(LoadAdapterOperator, model_id="seven")
    with pytest.raises(BadInputError, match="'half', expected above 0"):
        run(DeployModelOperator, route="router", model_id=1, prompts=["ping"], share="half")


def test_addresses_come_from_the_connection_or_else_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert VllmRolloutHook("nowhere").addresses == settings().vllm_addresses
    monkeypatch.setenv("AIRFLOW_CONN_ONE", "http://gpu-1:8000")
    assert VllmRolloutHook("one").addresses == ["http://gpu-1:8000"]
    monkeypatch.setenv("AIRFLOW_CONN_TWO", '{"conn_type": "http", "extra": {"addresses": ["http://a/", "http://b"]}}')
    assert VllmRolloutHook("two").addresses == ["http://a", "http://b"]


def test_a_rollout_is_followed_until_it_has_ended(
    models: list[int], server: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLGATE_VLLM_URLS", f'["{server.address}"]')
    monkeypatch.setenv("TOLLGATE_MLFLOW_URL", "http://127.0.0.1:9")
    settings.cache_clear()
    with transaction() as session:
        session.execute(update(RegisteredModel).values(verdict="pass"))
    first = rollouts.begin("router@v1", "first", "kim").model_dump(mode="json")
    begun = rollouts.begin("router@v2", "better", "kim").model_dump(mode="json")

    def poke(state: dict[str, Any]) -> Any:
        sensor = RolloutSensor(task_id="follow", rollout=state)
        return sensor.poke({"dag_run": SimpleNamespace(triggering_user_name="kim", run_id="manual__1")})  # type: ignore[typeddict-item]

    assert poke(first).is_done
    assert not poke(begun).is_done
    rollouts.leave("router@v2", "worse", "lee")
    ended = poke(begun)
    assert (ended.is_done, ended.xcom_value["status"]) == (True, "rolled_back")
