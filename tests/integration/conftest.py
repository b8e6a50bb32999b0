"""The whole local stack, once for all tests that need it, on ports and in a folder of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from tollgate.settings import PROJECT, Settings, settings
from tollgate.stack.airflow_api import AirflowApi
from tollgate.stack.secrets import load_or_create
from tollgate.store.session import engine

TOLLGATE = Path(sys.executable).parent / "tollgate"


class Stack(BaseModel):
    """A running stack and how to reach it."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    settings: Settings
    environment: dict[str, str]

    @property
    def airflow(self) -> AirflowApi:
        password = load_or_create(self.settings.secrets_file).airflow_admin_password
        return AirflowApi(self.settings.airflow_address, "admin", password)

    def command(self, *words: str, timeout: float = 1800) -> subprocess.CompletedProcess[str]:
        """Run ``tollgate`` with this stack's settings; what it says goes to the test's output too."""
        done = subprocess.run(
            [str(TOLLGATE), *words], env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        sys.stderr.write(done.stderr)
        return done


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack in a temporary folder. The demo's base model is taken over from the project's own where it is there."""
    if not settings().ml_python.exists():
        pytest.skip(f"{settings().ml_python} is not there; make it with: make setup")
    home = Path(tmp_path_factory.mktemp("s"))
    ports = {f"TOLLGATE_{name}_PORT": str(_free_port()) for name in ("AIRFLOW", "MLFLOW", "VLLM", "GATEWAY")}
    own_base = PROJECT / ".tollgate" / "models" / "demo-base"
    if own_base.is_dir():
        shutil.copytree(own_base, home / "models" / "demo-base")
    environment = {**os.environ, **ports, "TOLLGATE_HOME": str(home), "COLUMNS": "120"}
    before = {name: os.environ.get(name) for name in (*ports, "TOLLGATE_HOME")}
    os.environ.update({**ports, "TOLLGATE_HOME": str(home)})
    settings.cache_clear()
    engine.cache_clear()
    running = Stack(settings=Settings(), environment=environment)
    yield running
    kept = os.environ.get("TOLLGATE_KEEP_TEST_STACK")
    if not kept:
        down = running.command("down", timeout=180)
        assert down.returncode == 0, down.stderr
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    settings.cache_clear()
    engine.cache_clear()
