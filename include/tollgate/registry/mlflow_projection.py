"""Model versions in MLflow's registry, as people see them: projected from PostgreSQL, which decides.

Whatever was edited by hand or lost in a crash is repaired by projecting again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from tollgate.registry import lifecycle
from tollgate.registry.lifecycle import Stage
from tollgate.registry.mlflow_run import LONGEST_TAG
from tollgate.registry.mlflow_server import answering, connect
from tollgate.store.session import transaction
from tollgate.store.tables import RegisteredModel

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ALIASES = (Stage.PRODUCTION, Stage.STAGING)


def register(run_id: str, model: RegisteredModel, artifact: str, client: MlflowClient | None = None) -> str:
    """Make the run's model files a version of MLflow's registered model of the same name.

    MLflow counts its versions by itself; its tag ``tollgate.version`` says which of ours it is.

    Args:
        run_id: The run that holds the files.
        model: The version in PostgreSQL.
        artifact: The files' name among the run's artifacts.
        client: A connected client.

    Returns:
        MLflow's address of the version, ``models:/<name>/<number>``; the same for the same run.

    Raises:
        ServiceUnavailableError: MLflow did not answer.
    """
    client = client or connect()
    with answering():
        _ensure_registered_model(client, model.model_name)
        known = client.search_model_versions(f"name = '{model.model_name}' and run_id = '{run_id}'")
        version = (
            known[0]
            if known
            else client.create_model_version(
                model.model_name,
                source=f"{client.get_run(run_id).info.artifact_uri}/{artifact}",
                run_id=run_id,
                tags=_tags(model),
                description=description(model),
            )
        )
    return f"models:/{model.model_name}/{version.version}"


def project_model(model_name: str, client: MlflowClient | None = None) -> list[str]:
    """Bring MLflow's aliases, tags and descriptions of one model in line with PostgreSQL, whatever they were before.

    Whoever changes a stage calls this afterwards. Calls for one model follow one another, and each reads PostgreSQL
    after its turn came: the last one writes the last state.

    Returns:
        What was changed, one line each; empty where all was in line.

    Raises:
        ServiceUnavailableError: MLflow or PostgreSQL did not answer.
    """
    client = client or connect()
    with transaction() as session:
        key = func.hashtextextended(f"mlflow:{model_name}", 0)
        session.execute(select(func.pg_advisory_xact_lock(key)))
        return project_stages(lifecycle.versions(session, model_name), client)


def project_stages(models: Sequence[RegisteredModel], client: MlflowClient) -> list[str]:
    """Write the stages, verdicts and aliases of ``models``, all the versions of one model name, to MLflow.

    Only what differs is written. Versions that MLflow does not have are left out.
    """
    numbers = {model.id: model.mlflow_model_uri.rpartition("/")[2] for model in models if model.mlflow_model_uri}
    registered = [model for model in models if model.id in numbers]
    if not registered:
        return []
    name = registered[0].model_name
    with answering():
        there = {str(version.version): version for version in client.search_model_versions(f"name = '{name}'")}
        registered = [model for model in registered if numbers[model.id] in there]
        if not registered:
            return []
        changes: list[str] = []
        for model in registered:
            changes += _project_version(client, model, there[numbers[model.id]])
        return changes + _project_aliases(client, name, registered, numbers)


def description(model: RegisteredModel) -> str:
    """What MLflow's page says about a version, as Markdown."""
    paragraphs = [
        f"**{model.served_name}** on base model `{Path(model.base_model).name}`.",
        f"Made by: {_lineage(model)}" if model.tags else "",
        f"Verdict: **{model.verdict or 'open'}**",
        "\n".join(f"- {reason}" for reason in model.verdict_reasons or []),
    ]
    return "\n\n".join(filter(None, paragraphs))


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    from mlflow import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _lineage(model: RegisteredModel) -> str:
    return ", ".join(model.tags)


def _tags(model: RegisteredModel) -> dict[str, str]:
    lineage = {"tollgate.lineage": _lineage(model)} if model.tags else {}  # versions of earlier releases have none
    return {
        **lineage,
        "tollgate.version": f"v{model.version}",
        "tollgate.stage": model.status,
        "tollgate.verdict": model.verdict or "open",
        "tollgate.reasons": "\n".join(model.verdict_reasons or [])[:LONGEST_TAG],
    }


def _project_version(client: MlflowClient, model: RegisteredModel, there: ModelVersion) -> list[str]:
    changes = []
    for name, value in _tags(model).items():
        if there.tags.get(name) != value:
            client.set_model_version_tag(there.name, there.version, name, value)
            changes.append(f"{model.served_name}: {name} = {value}")
    if there.description != description(model):
        client.update_model_version(there.name, there.version, description(model))
        changes.append(f"{model.served_name}: description")
    return changes


def _project_aliases(
    client: MlflowClient, name: str, models: Sequence[RegisteredModel], numbers: Mapping[int, str]
) -> list[str]:
    there = {alias: str(number) for alias, number in client.get_registered_model(name).aliases.items()}
    changes = []
    for stage in ALIASES:
        newest = max(
            (model for model in models if model.status == stage), key=lambda model: model.version, default=None
        )
        wanted = None if newest is None else numbers[newest.id]
        if wanted == there.get(stage):
            continue
        if wanted is None:
            client.delete_registered_model_alias(name, stage)
        else:
            client.set_registered_model_alias(name, stage, wanted)
        changes.append(f"{name}: alias {stage} = {wanted}")
    return changes
