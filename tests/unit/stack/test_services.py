from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tollgate.settings import Settings
from tollgate.stack import services as table
from tollgate.stack.processes import MARKER
from tollgate.stack.secrets import Secrets
from tollgate.stack.services import Preparation, Service

SECRETS = Secrets()


def _all(configuration: Settings) -> list[Service | Preparation]:
    return [*table.services(configuration, SECRETS), *table.preparations(configuration, SECRETS)]


def test_names_and_ports_are_unique_and_every_dependency_exists() -> None:
    configuration = Settings()
    units = table.services(configuration, SECRETS)
    names = [unit.name for unit in _all(configuration)]
    assert len(set(names)) == len(names)
    ports = [unit.port for unit in units if unit.port]
    assert sorted(ports) == [5000, 8000, 8080, 8100]
    for unit in _all(configuration):
        assert unit.after <= {*names, table.POSTGRES}


def test_no_secret_stands_on_a_command_line() -> None:
    for unit in _all(Settings()):
        for secret in SECRETS.model_dump().values():
            assert secret not in shlex.join(unit.command)


def test_only_those_services_get_a_secret_that_need_it() -> None:
    environments = {unit.name: " ".join(unit.environment.values()) for unit in table.services(Settings(), SECRETS)}
    for name in ("vllm", "mlflow"):
        assert not any(secret in environments[name] for secret in SECRETS.model_dump().values())
    assert SECRETS.airflow_jwt_secret not in environments["gateway"]
    assert all(SECRETS.airflow_admin_password not in text for text in environments.values())


def test_settings_of_the_caller_reach_every_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "intranet")
    environment = table.common_environment(Settings(home=tmp_path, gpu_ids=[0, 1], vllm_port=8001))
    assert environment["TOLLGATE_HOME"] == str(tmp_path)
    assert environment["TOLLGATE_GPU_IDS"] == "[0, 1]"
    assert environment["TOLLGATE_VLLM_PORT"] == "8001"
    assert "TOLLGATE_MLFLOW_PORT" not in environment  # a default stays one
    assert environment[MARKER] == str(tmp_path)
    assert "/elsewhere" not in environment["PYTHONPATH"]
    assert environment["NO_PROXY"].split(",") == ["intranet", "127.0.0.1", "localhost"]
    for name in ("TOLLGATE_HOME", "TOLLGATE_GPU_IDS"):
        monkeypatch.setenv(name, environment[name])
    assert Settings().home == tmp_path
    assert Settings().gpu_ids == [0, 1]


def test_nothing_is_fetched_or_reported_at_run_time() -> None:
    environment = table.common_environment(Settings())
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == environment["DO_NOT_TRACK"] == "1"
    assert environment["GX_ANALYTICS_ENABLED"] == "False"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
