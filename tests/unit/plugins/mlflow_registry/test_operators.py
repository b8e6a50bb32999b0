"""The registry's operators as Airflow sees them; they run against real services in tests/integration."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from airflow.sdk import DAG

from mlflow_registry.hook import MlflowRegistryHook
from mlflow_registry.operators import ArchiveModelOperator, PromoteModelOperator, RegisterModelOperator
from tollgate.errors import BadInputError
from tollgate.settings import settings


def _context(user: str | None) -> dict:
    return {"dag_run": SimpleNamespace(triggering_user_name=user, run_id="manual__1"), "job": "job-1", "version": 7}


def _rendered(operator_class: type, user: str | None = "kim", **arguments):
    with DAG("test", schedule=None):
        operator = operator_class(task_id="task", **arguments)
    operator.render_template_fields(_context(user))
    return operator


def test_every_argument_but_the_connection_is_templated() -> None:
    operator = _rendered(
        RegisterModelOperator,
        job_name="{{ job }}",
        model_name="router",
        verdict="pass",
        reasons=["seen in {{ job }}"],
        evaluation="/jobs/{{ job }}/evaluation",
    )
    assert (operator.job_name, operator.reasons, operator.evaluation) == (
        "job-1",
        ["seen in job-1"],
        "/jobs/job-1/evaluation",
    )
    promote = _rendered(PromoteModelOperator, model_id="{{ version }}", why="after {{ job }}")
    assert (promote.model_id, promote.why) == ("7", "after job-1")


@pytest.mark.parametrize(("user", "by"), [("kim", "kim"), (None, "manual__1")])
@pytest.mark.parametrize("operator_class", [PromoteModelOperator, ArchiveModelOperator])
def test_the_history_names_the_user_or_else_the_run(operator_class: type, user: str | None, by: str) -> None:
    assert _rendered(operator_class, user=user, model_id=1, why="why").by == by


def test_what_templates_gave_is_checked_before_any_service_is_asked() -> None:
    with pytest.raises(BadInputError, match="'None', expected a number"):
        _rendered(PromoteModelOperator, model_id="None", why="why").execute({})
    with pytest.raises(BadInputError, match="'good', expected pass, inconclusive or fail"):
        _rendered(RegisterModelOperator, job_name="job-1", model_name="router", verdict="good").execute({})


def test_the_address_comes_from_the_connection_or_else_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MlflowRegistryHook("nowhere").address == settings().mlflow_address
    monkeypatch.setenv(
        "AIRFLOW_CONN_TRACKING", '{"conn_type": "http", "schema": "https", "host": "mlflow", "port": 443}'
    )
    assert MlflowRegistryHook("tracking").address == "https://mlflow:443"
