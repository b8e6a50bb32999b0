"""How Airflow's tasks reach the registry: PostgreSQL by the settings, MLflow by a connection or the settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from tollgate.registry import lifecycle, mlflow_projection, mlflow_server, registration
from tollgate.registry.registration import Registration
from tollgate.settings import settings
from tollgate.store.session import transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlflow import MlflowClient
    from sqlalchemy.orm import Session

    from tollgate.registry.lifecycle import Verdict
    from tollgate.store.tables import RegisteredModel


class MlflowRegistryHook(BaseHook):
    """Changes a model version's stage in PostgreSQL, and then what MLflow shows of it.

    Args:
        mlflow_conn_id: Airflow connection with schema, host and port of the tracking server. Where there is no such
            connection, the address is that of Tollgate's settings.
    """

    default_conn_name = "mlflow_default"

    def __init__(self, mlflow_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.mlflow_conn_id = mlflow_conn_id

    @property
    def address(self) -> str:
        """Base address of the tracking server."""
        try:
            connection = self.get_connection(self.mlflow_conn_id)
        except AirflowNotFoundException:
            return settings().mlflow_address
        port = f":{connection.port}" if connection.port else ""
        return f"{connection.schema or 'http'}://{connection.host}{port}"

    def get_conn(self) -> MlflowClient:
        """A client of the tracking server.

        Raises:
            ServiceUnavailableError: It did not answer.
        """
        return mlflow_server.connect(self.address)

    def register(
        self,
        job_name: str,
        model_name: str,
        created_by: str,
        verdict: Verdict | None = None,
        reasons: Sequence[str] = (),
        evaluation: Path | None = None,
    ) -> Registration:
        """Register a finished job's model with its verdict; see ``tollgate.registry.registration.register_job``."""
        return registration.register_job(
            job_name, model_name, created_by, verdict, reasons, evaluation, connect=self.get_conn
        )

    def promote(self, model_id: int, by: str, why: str) -> Registration:
        """Make a version the production version; see ``tollgate.registry.lifecycle.promote_to_production``."""
        return self._change(lambda session: lifecycle.promote_to_production(session, model_id, by, why))

    def archive(self, model_id: int, by: str, why: str) -> Registration:
        """Take a version out of use; see ``tollgate.registry.lifecycle.archive``."""
        return self._change(lambda session: lifecycle.archive(session, model_id, by, why))

    def _change(self, change: Callable[[Session], RegisteredModel]) -> Registration:
        with transaction() as session:
            model = change(session)
        mlflow_projection.project_model(model.model_name, self.get_conn())
        return Registration.of(model)
