from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.stack.fake_airflow import PASSWORD, FakeAirflow

from tollgate.errors import BadInputError
from tollgate.settings import settings
from tollgate.stack.access import local_airflow
from tollgate.stack.secrets import load_or_create


@pytest.fixture
def airflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAirflow]:
    with FakeAirflow() as airflow:
        monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path))
        monkeypatch.setenv("TOLLGATE_AIRFLOW_URL", airflow.address)
        monkeypatch.delenv("TOLLGATE_AIRFLOW_ADMIN_PASSWORD", raising=False)
        settings.cache_clear()
        yield airflow
    settings.cache_clear()


def test_production_gives_the_password_by_its_environment(
    airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLGATE_AIRFLOW_ADMIN_PASSWORD", PASSWORD)
    assert local_airflow().has_dag("finetune")
    assert not settings().secrets_file.exists()


def test_the_local_stack_has_it_among_its_secrets(airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    password = load_or_create(settings().secrets_file).airflow_admin_password
    monkeypatch.setattr("tests.unit.stack.fake_airflow.PASSWORD", password)
    assert local_airflow().has_dag("finetune")


def test_without_either_nothing_is_made_up(airflow: FakeAirflow) -> None:
    with pytest.raises(BadInputError, match=r"TOLLGATE_AIRFLOW_ADMIN_PASSWORD(.|\n)*secrets\.json"):
        local_airflow()
    assert not settings().secrets_file.exists()
