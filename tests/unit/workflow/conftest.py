"""A home with a dataset and a base model, a server that behaves as vLLM does, PostgreSQL, and no MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.dataset.example_version import write_version
from tests.unit.serving.fake_vllm import FakeVllm
from tests.unit.training.example_base import write_base_model

from tollgate.settings import settings
from tollgate.workflow import experiments, finetune


@pytest.fixture
def server(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVllm]:
    write_version(tmp_path / "datasets")
    with FakeVllm() as server:
        monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path))
        monkeypatch.setenv("TOLLGATE_BASE_MODEL", str(write_base_model(tmp_path / "base")))
        monkeypatch.setenv("TOLLGATE_VLLM_URLS", json.dumps([server.address]))
        settings.cache_clear()
        yield server
    settings.cache_clear()


@pytest.fixture
def projected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that were projected to MLflow, which is not there."""
    names: list[str] = []
    for module in (finetune, experiments):
        monkeypatch.setattr(module, "project_model", names.append)
    return names
