"""Make MLflow say again what PostgreSQL knows: what was edited by hand, deleted, or never written after a crash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from tollgate.registry import lifecycle, mlflow_projection
from tollgate.registry.mlflow_server import answering, connect
from tollgate.registry.registration import ARTIFACTS
from tollgate.store.session import transaction
from tollgate.store.tables import FinetuningJob, RegisteredModel

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy.orm import Session


def repair(client: MlflowClient | None = None) -> list[str]:
    """Repair every model; see :func:`repair_model`.

    Returns:
        What was changed, one line each; empty where all was in line.

    Raises:
        ServiceUnavailableError: MLflow or PostgreSQL did not answer.
    """
    with transaction() as session:
        names = session.scalars(select(RegisteredModel.model_name).distinct().order_by(RegisteredModel.model_name))
        known = list(names)
    if not known:
        return []
    client = client or connect()
    return [change for name in known for change in repair_model(name, client)]


def repair_model(model_name: str, client: MlflowClient) -> list[str]:
    """Bring back versions that MLflow lost and whose run it still has, then aliases, tags and descriptions.

    Returns:
        What was changed, one line each.
    """
    with transaction() as session:
        brought_back = _bring_back(session, model_name, client)
    return brought_back + mlflow_projection.project_model(model_name, client)


def _bring_back(session: Session, model_name: str, client: MlflowClient) -> list[str]:
    from mlflow import MlflowException

    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"mlflow:{model_name}", 0))))
    with answering():
        found = client.search_model_versions(f"name = '{model_name}'")
    there = {str(version.version) for version in found}
    changes = []
    for model in lifecycle.versions(session, model_name):
        # The run is kept with the job only once its model was registered, so a version under evaluation is left alone.
        run_id = _run_of(session, model)
        if run_id is None or (model.mlflow_model_uri or "").rpartition("/")[2] in there:
            continue
        try:
            uri = mlflow_projection.register(run_id, model, ARTIFACTS[model.model_format], client)
        except MlflowException as error:
            changes.append(f"{model.served_name}: cannot be brought back, MLflow says: {error.message}")
            continue
        lifecycle.record_mlflow_uri(session, model.id, uri)
        changes.append(f"{model.served_name}: registered again as {uri}")
    return changes


def _run_of(session: Session, model: RegisteredModel) -> str | None:
    if model.finetuning_job_id is None or model.verdict is None:
        return None
    return session.scalar(select(FinetuningJob.mlflow_run_id).where(FinetuningJob.id == model.finetuning_job_id))
