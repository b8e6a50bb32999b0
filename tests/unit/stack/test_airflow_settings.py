from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml

from tollgate.settings import Settings
from tollgate.stack.airflow_settings import airflow_environment, parallel_tasks
from tollgate.stack.secrets import Secrets


@pytest.fixture(scope="module")
def known_options() -> set[str]:
    """All options of Airflow and of its FAB provider, as the names of their environment variables."""
    spec = importlib.util.find_spec("airflow")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    sections = yaml.safe_load((package / "config_templates" / "config.yml").read_text(encoding="utf-8"))
    names = {f"AIRFLOW__{section}__{option}".upper() for section in sections for option in sections[section]["options"]}
    provider = (package / "providers" / "fab" / "get_provider_info.py").read_text(encoding="utf-8")
    names |= {"AIRFLOW__FAB__ENABLE_PROXY_FIX"} if '"enable_proxy_fix"' in provider else set()
    return names


def test_every_option_exists_in_the_installed_version(known_options: set[str]) -> None:
    environment = airflow_environment(Settings(), Secrets())
    options = {name for name in environment if name.startswith("AIRFLOW__")}
    assert len(options) > 20
    assert options <= known_options


def test_ports_and_folders_follow_the_settings(tmp_path: Path) -> None:
    environment = airflow_environment(Settings(home=tmp_path, airflow_port=9000), Secrets())
    assert environment["AIRFLOW__API__PORT"] == "9000"
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:9000/execution/"
    assert environment["AIRFLOW_HOME"] == str(tmp_path / "airflow")
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].endswith(f"/airflow?host={tmp_path / 'postgres'}")
    assert 4 <= parallel_tasks() <= 8
