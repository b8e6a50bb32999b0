"""The production stack's description: what can be checked without starting it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.configuration import GatewayOptions
from tollgate.settings import PROJECT, Settings

FILE = PROJECT / "docker-compose.yaml"
TEXT = FILE.read_text(encoding="utf-8")
REQUIRED = sorted(set(re.findall(r"\$\{(\w+):\?", TEXT)))


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.safe_load(TEXT)["services"]


def test_the_whole_stack_is_there_with_health_checks_and_restarts(services: dict[str, Any]) -> None:
    lasting = {
        "postgres", "mlflow", "airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer",
        "vllm", "gateway", "reconciler",
    }  # fmt: skip
    assert set(services) == lasting | {"airflow-init"}
    for name in lasting:
        assert services[name]["restart"] == "unless-stopped"
        assert services[name]["healthcheck"]["test"]
        assert "no-new-privileges:true" in services[name]["security_opt"]


def test_secrets_come_from_the_environment_and_have_no_default() -> None:
    named = set(re.findall(r"\$\{(\w+)", TEXT))
    secret = {name for name in named if re.search(r"PASSWORD|SECRET|KEY", name)}
    assert len(secret) == 10
    assert secret <= set(REQUIRED)
    assert not re.search(r"\$\{\w*(PASSWORD|SECRET|KEY)\w*:?-", TEXT)


def test_only_known_settings_are_set(services: dict[str, Any]) -> None:
    known = {f"TOLLGATE_{name.upper()}" for name in Settings.model_fields}
    known |= {f"TOLLGATE_GATEWAY_{name.upper()}" for name in GatewayOptions.model_fields}
    known |= {"TOLLGATE_AIRFLOW_ADMIN_PASSWORD", "TOLLGATE_DATABASE_PASSWORD"}
    for service in services.values():
        used = {name for name in service.get("environment", {}) if name.startswith("TOLLGATE_")}
        assert used <= known


def test_every_service_gets_only_the_secrets_it_needs(services: dict[str, Any]) -> None:
    assert not re.search("PASSWORD|SECRET|KEY", str(services["vllm"]))
    assert "AIRFLOW_" not in str(services["gateway"]["environment"]).replace("TOLLGATE_AIRFLOW_URL", "")
    sockets = [name for name, service in services.items() if "docker.sock" in str(service.get("volumes"))]
    assert sockets == ["airflow-scheduler", "reconciler"]


def test_the_model_server_reserves_a_gpu(services: dict[str, Any]) -> None:
    (device,) = services["vllm"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]


def test_the_shared_folder_has_one_path_everywhere(services: dict[str, Any]) -> None:
    mounts = [m for s in services.values() for m in s.get("volumes", []) if isinstance(m, dict)]
    assert len(mounts) == 7
    assert all(mount["source"] == mount["target"] for mount in mounts)


def test_every_variable_is_explained_in_the_example() -> None:
    example = (PROJECT / ".env.example").read_text(encoding="utf-8")
    listed = set(re.findall(r"^#(\w+)=", example, flags=re.MULTILINE))
    assert set(re.findall(r"\$\{(\w+)", TEXT)) <= listed
    own = ((Settings, "TOLLGATE_"), (GatewayOptions, "TOLLGATE_GATEWAY_"))
    for model, prefix in own:
        flat = " ".join(example.replace("\n# ", " ").split())
        for name, field in model.model_fields.items():
            assert f"{prefix}{name.upper()}" in listed
            assert " ".join((field.description or "?").split()) in flat


def _compose() -> list[str] | None:
    if (
        shutil.which("docker")
        and subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    ):
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


def test_compose_accepts_it_and_insists_on_the_secrets(tmp_path: Path) -> None:
    compose = _compose()
    if compose is None:
        pytest.skip("neither 'docker compose' nor docker-compose is installed")
    empty = tmp_path / "empty.env"
    empty.touch()
    clean = {name: value for name, value in os.environ.items() if name not in REQUIRED}
    command = [*compose, "--file", str(FILE), "--env-file", str(empty), "config", "--quiet"]
    refused = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "password of" in refused.stderr
    filled = clean | dict.fromkeys(REQUIRED, "1000")
    accepted = subprocess.run(command, env=filled, capture_output=True, text=True, check=False)
    assert accepted.returncode == 0, accepted.stderr


@pytest.mark.parametrize("image", ["airflow", "gateway", "vllm"])
def test_images_are_built_offline_for_an_ordinary_user(image: str) -> None:
    lines = (PROJECT / "containers" / image / "Dockerfile").read_text(encoding="utf-8")
    assert "ARG BASE_IMAGE" in lines
    assert "--no-index" in lines
    assert re.search(r"^USER tollgate$", lines, flags=re.MULTILINE)
    assert "org.opencontainers.image.title" in lines
    for source in re.findall(
        r"^COPY (?!--from)(\S+) ", lines.replace("${REQUIREMENTS}", "requirements.txt"), re.MULTILINE
    ):
        assert source.startswith("build/wheelhouse/") or (PROJECT / source).exists()
