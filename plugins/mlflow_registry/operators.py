"""Tasks that register, promote and archive model versions; each may be repeated with the same outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from mlflow_registry.hook import MlflowRegistryHook
from tollgate.errors import BadInputError, Problem
from tollgate.registry.lifecycle import parse_verdict

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tollgate.registry.registration import Registration

BY = "{{ dag_run.triggering_user_name or dag_run.run_id }}"
"""Who stands in the history: the user who started the run, else the run itself."""


class _RegistryOperator(BaseOperator):
    """What the operators share: the connection, and a registration as the result."""

    def __init__(self, *, mlflow_conn_id: str = MlflowRegistryHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mlflow_conn_id = mlflow_conn_id

    @property
    def hook(self) -> MlflowRegistryHook:
        """The hook that does the work."""
        return MlflowRegistryHook(self.mlflow_conn_id)

    def _result(self, registration: Registration) -> dict[str, Any]:
        self.log.info("%s is %s (verdict %s)", registration.served_name, registration.stage, registration.verdict)
        return asdict(registration)


class RegisterModelOperator(_RegistryOperator):
    """Give a finished job's model its version, keep the verdict, and show both in MLflow with all figures and files.

    The result (XCom) holds ``model_id``, ``model_name``, ``version``, ``served_name``, ``model_path``, ``stage``,
    ``verdict``, ``mlflow_uri`` and ``mlflow_run_id``.

    Args:
        job_name: Row of ``finetuning_jobs``. Templated, as are all the following.
        model_name: Logical name of the model.
        verdict: ``pass``, ``inconclusive`` or ``fail``; null while there is none.
        reasons: Its reasons, in words.
        evaluation: The evaluation's report, or the folder of all its files.
        created_by: Who stands as the maker.
        mlflow_conn_id: Airflow connection of the tracking server.
    """

    template_fields: Sequence[str] = (
        "job_name",
        "model_name",
        "verdict",
        "reasons",
        "evaluation",
        "created_by",
    )
    ui_color = "#e3f0e6"

    def __init__(
        self,
        *,
        job_name: str,
        model_name: str,
        verdict: str | None = None,
        reasons: Sequence[str] = (),
        evaluation: str | None = None,
        created_by: str = BY,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_name = job_name
        self.model_name = model_name
        self.verdict = verdict
        self.reasons = reasons
        self.evaluation = evaluation
        self.created_by = created_by

    def execute(self, context: Context) -> dict[str, Any]:
        """Register the model.

        Raises:
            BadInputError: The job is unknown or has no model, or the verdict is none of the three.
            ServiceUnavailableError: PostgreSQL or MLflow did not answer.
        """
        registration = self.hook.register(
            self.job_name,
            self.model_name,
            self.created_by,
            parse_verdict(self.verdict),
            list(self.reasons),
            Path(self.evaluation) if self.evaluation else None,
        )
        return self._result(registration)


class _StageOperator(_RegistryOperator):
    """What a decision about a version's stage needs: which version, why, and who decided."""

    template_fields: Sequence[str] = ("model_id", "why", "by")

    def __init__(self, *, model_id: int | str, why: str, by: str = BY, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model_id = model_id
        self.why = why
        self.by = by


class PromoteModelOperator(_StageOperator):
    """Make a version the production version; the present one is archived in the same transaction.

    Args:
        model_id: Row of ``model_registry``. Templated, as are all the following.
        why: The reason, kept in the history.
        by: Who decided.
        mlflow_conn_id: Airflow connection of the tracking server.
    """

    ui_color = "#d3ead9"

    def execute(self, context: Context) -> dict[str, Any]:
        """Promote the version.

        Raises:
            BadInputError: There is no such version.
            GateRefusedError: Its verdict does not allow it.
            StageConflictError: It is in a stage that has no way to production.
            ServiceUnavailableError: PostgreSQL or MLflow did not answer.
        """
        return self._result(self.hook.promote(_parse_id(self.model_id), self.by, self.why))


class ArchiveModelOperator(_StageOperator):
    """Take a version out of use.

    Args:
        model_id: Row of ``model_registry``. Templated, as are all the following.
        why: The reason, kept in the history.
        by: Who decided.
        mlflow_conn_id: Airflow connection of the tracking server.
    """

    ui_color = "#ececec"

    def execute(self, context: Context) -> dict[str, Any]:
        """Archive the version.

        Raises:
            BadInputError: There is no such version.
            ServiceUnavailableError: PostgreSQL or MLflow did not answer.
        """
        return self._result(self.hook.archive(_parse_id(self.model_id), self.by, self.why))


def _parse_id(value: int | str) -> int:
    """A template gives an id as text."""
    if str(value).isdecimal():
        return int(value)
    raise BadInputError("The model version is not known.", [Problem("model_id", repr(value), "a number")])
