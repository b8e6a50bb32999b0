"""The environment of trainer and vLLM, for tests that run a process in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tollgate.settings import settings


@pytest.fixture(scope="session")
def ml_python() -> Path:
    path = settings().ml_python
    if not path.exists():
        pytest.skip(f"{path} is not there; make it with: make setup")
    return path
