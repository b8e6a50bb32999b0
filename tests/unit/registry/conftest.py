"""Finished jobs and versions for the registry's tests."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tollgate.registry import lifecycle, registration
from tollgate.registry.registration import Registration
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.store.tables import FinetuningJob


@pytest.fixture
def finished_job(postgres_url: str, tmp_path: Path) -> Callable[[str], str]:
    """Makes a finished job with an adapter, and its row; returns its name."""

    def make(name: str) -> str:
        (tmp_path / name / "adapter").mkdir(parents=True)
        with transaction() as session:
            session.add(
                FinetuningJob(
                    job_name=name,
                    base_model="/models/base",
                    method="lora",
                    hyperparameters={},
                    output_dir=str(tmp_path / name),
                )
            )
        return name

    return make


@pytest.fixture
def staged(finished_job: Callable[[str], str]) -> Callable[[str], Registration]:
    """Makes a staged version of ``highway-router`` from a new job."""

    def make(job: str) -> Registration:
        version = registration.reserve(finished_job(job), "highway-router", "kim")
        with transaction() as session:
            lifecycle.record_verdict(session, version.model_id, "pass", ["정확도 0.97 > 0.90"])
            lifecycle.move(session, version.model_id, "candidate", "staging", "kim", "passed")
        return version

    return make


@pytest.fixture
def mlflow_down(monkeypatch: pytest.MonkeyPatch, postgres_url: str) -> Iterator[None]:
    """MLflow's address is one where nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        monkeypatch.setenv("TOLLGATE_MLFLOW_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        settings.cache_clear()
        yield
