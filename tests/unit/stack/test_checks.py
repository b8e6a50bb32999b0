from __future__ import annotations

import os
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import pytest
from tests.unit.stack.conftest import MakeService

from tollgate.errors import BadInputError
from tollgate.settings import Settings
from tollgate.stack import checks
from tollgate.stack.services import Service


def _problems(configuration: Settings, *services: Service) -> dict[str, str]:
    try:
        checks.check_machine(configuration, services)
    except BadInputError as error:
        return {problem.where: str(problem) for problem in error.problems}
    return {}


def test_a_fitting_machine_passes(configuration: Settings, web_service: MakeService) -> None:
    assert _problems(configuration, web_service()) == {}


def test_taken_and_doubled_ports_name_setting_and_holder(configuration: Settings, web_service: MakeService) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        found = _problems(
            configuration,
            web_service("mlflow", port=port),
            web_service("airflow-api-server", port=port + 1),
            web_service("gateway", port=port + 1),
        )
    assert f"port {port} in use by process {os.getpid()}" in found["TOLLGATE_MLFLOW_PORT"]
    assert f"port {port + 1}, which airflow-api-server has too" in found["TOLLGATE_GATEWAY_PORT"]
    assert len(found) == 2


def test_nearly_full_disk(configuration: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 99, checks.MINIMUM_FREE - 1))
    assert "2.0 GB free, expected at least 2 GB" in _problems(configuration)[f"disk of {configuration.home}"]


def test_path_too_long_for_sockets(tmp_path: Path) -> None:
    long = Settings(home=tmp_path / ("x" * 80))
    assert "at most 80" in _problems(long)["TOLLGATE_HOME"]


def test_missing_interpreter_and_model_are_told_with_their_remedy(home: Path, web_service: MakeService) -> None:
    configuration = Settings(home=home, ml_python=home / "none", base_model=home / "not-a-model")
    found = _problems(configuration, web_service("vllm"))
    assert "make setup" in found["TOLLGATE_ML_PYTHON"]
    assert "config.json" in found["TOLLGATE_BASE_MODEL"]
    assert _problems(configuration, web_service("gateway")) == {}  # only vLLM needs them
