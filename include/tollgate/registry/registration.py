"""Bring a finished job's model into the registry: a version in PostgreSQL, then its projection in MLflow.

Every function may be repeated after a crash with the same outcome.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from tollgate.errors import BadInputError, Problem
from tollgate.registry import lifecycle, mlflow_projection, mlflow_run, mlflow_server, signatures
from tollgate.registry.lifecycle import Verdict
from tollgate.registry.mlflow_run import DatasetUse, JobRecord
from tollgate.registry.model_card import CardFacts, write_card
from tollgate.store.session import transaction
from tollgate.store.tables import FinetuningJob, ModelEvaluation, RegisteredModel, TrainingDataset
from tollgate.training.merging import MERGED

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = {"peft": "adapter", "transformers": "model"}
"""For each model format, the folder of the model inside the job folder and among MLflow's artifacts."""


@dataclass(frozen=True)
class Registration:
    """A version and where it is; small enough for an XCom."""

    model_id: int
    model_name: str
    version: int
    served_name: str
    model_path: str
    stage: str
    verdict: str | None
    mlflow_uri: str | None = None
    mlflow_run_id: str | None = None

    @classmethod
    def of(cls, model: RegisteredModel, mlflow_run_id: str | None = None) -> Registration:
        """The registration of ``model``."""
        return cls(
            model_id=model.id,
            model_name=model.model_name,
            version=model.version,
            served_name=model.served_name,
            model_path=model.model_path,
            stage=model.status,
            verdict=model.verdict,
            mlflow_uri=model.mlflow_model_uri,
            mlflow_run_id=mlflow_run_id,
        )


def reserve(job_name: str, model_name: str, created_by: str) -> Registration:
    """Give a finished job's model its version and served name and sign its files, before it is loaded.

    Raises:
        BadInputError: The job is unknown, has no model folder, or made a version of another model name; or the files
            are not those that were signed when the version got its verdict.
        ServiceUnavailableError: PostgreSQL did not answer.
    """
    with transaction() as session:
        job = _job(session, job_name)
        return Registration.of(_reserve(session, job, model_name, created_by), job.mlflow_run_id)


def register_job(
    job_name: str,
    model_name: str,
    created_by: str,
    verdict: Verdict | None = None,
    reasons: Sequence[str] = (),
    evaluation: Path | None = None,
    connect: Callable[[], MlflowClient] = mlflow_server.connect,
) -> Registration:
    """Reserve the version, keep the verdict, and write both with the job's run, files and figures to MLflow.

    PostgreSQL is written first: where MLflow is down, the version and its verdict are kept, and a retry adds the rest.

    Args:
        job_name: Row of ``finetuning_jobs``.
        model_name: Logical name of the model.
        created_by: Airflow user, or the name of the run.
        verdict: The evaluation's verdict, if there is one yet.
        reasons: Its reasons, in words.
        evaluation: The evaluation's report, or the folder of all its files.
        connect: Makes the client, after PostgreSQL was written; default: one for the settings' address.

    Raises:
        BadInputError: The job is unknown, has no model folder, or made a version of another model name.
        ServiceUnavailableError: PostgreSQL or MLflow did not answer.
    """
    if evaluation is not None and not evaluation.exists():
        problem = Problem("evaluation", str(evaluation), "a file or folder that exists")
        raise BadInputError("The evaluation's report is missing.", [problem])
    with transaction() as session:
        job = _job(session, job_name)
        model = _reserve(session, job, model_name, created_by)
        if verdict is not None:
            model = lifecycle.record_verdict(session, model.id, verdict, reasons)
        record = _record(session, job, model, evaluation)
        facts = _card_facts(session, job, model, record)
    write_card(record.model_folder, facts)
    client = connect()
    run_id = mlflow_run.log_job(record, client)
    uri = mlflow_projection.register(run_id, model, record.artifact, client)
    with transaction() as session:
        lifecycle.record_mlflow_uri(session, model.id, uri)
        _job(session, job_name).mlflow_run_id = run_id
    mlflow_projection.project_model(model_name, client)
    with transaction() as session:
        return Registration.of(lifecycle.get(session, model.id), run_id)


def _job(session: Session, name: str) -> FinetuningJob:
    job = session.scalar(select(FinetuningJob).where(FinetuningJob.job_name == name))
    if job is None:
        raise BadInputError("The job is not known.", [Problem("job_name", repr(name), "a name in finetuning_jobs")])
    return job


def _reserve(session: Session, job: FinetuningJob, model_name: str, created_by: str) -> RegisteredModel:
    model_format, folder = _model_folder(job)
    model = lifecycle.reserve_version(
        session, model_name, job.id, job.base_model, str(folder), created_by, model_format, _lineage(job)
    )
    if signatures.required():
        _sign(session, model)
    return model


def _sign(session: Session, model: RegisteredModel) -> None:
    """Sign once: what was signed is compared from then on. Weights trained anew get a new one until the verdict."""
    folder = Path(model.model_path)
    if not (folder / signatures.SIGNATURE).exists() and model.verdict is None:
        lifecycle.record_manifest(session, model.id, signatures.sign(folder))
        return
    signed_before = signatures.verify(folder, model.manifest_digest)
    if model.manifest_digest is None:  # the process died between the signature and the row
        lifecycle.record_manifest(session, model.id, signed_before)


def _model_folder(job: FinetuningJob) -> tuple[str, Path]:
    """Format and folder of what the job's version is; of a merged adapter the weights, and never the adapter."""
    folder = Path(job.output_dir)
    artifacts = {"transformers": ARTIFACTS["transformers"]} if _is_merged(job) else ARTIFACTS
    for model_format, name in artifacts.items():
        if (folder / name).is_dir():
            return model_format, folder / name
    expected = f"a folder {' or '.join(artifacts.values())}"
    if _is_merged(job):
        expected += ", which the merging leaves, as serve_adapter_as is merged"
    raise BadInputError("The job has no model.", [Problem(str(folder), "no such folder", expected)])


def _is_merged(job: FinetuningJob) -> bool:
    return bool(job.hyperparameters.get("serve_adapter_as") == MERGED)


def _lineage(job: FinetuningJob) -> list[str]:
    """How the version came to be, in the fewest words, for example ``["qlora", "rank 16", "merged"]``."""
    rank = None if job.method == "full" else job.hyperparameters.get("lora_rank")
    return [job.method, *([f"rank {rank}"] if rank else []), *([MERGED] if _is_merged(job) else [])]


def _record(session: Session, job: FinetuningJob, model: RegisteredModel, evaluation: Path | None) -> JobRecord:
    dataset = None if job.dataset_id is None else session.get(TrainingDataset, job.dataset_id)
    folder = Path(job.output_dir)
    return JobRecord(
        name=job.job_name,
        experiment=model.model_name,
        folder=folder,
        model_folder=Path(model.model_path),
        artifact=ARTIFACTS[model.model_format],
        parameters={"base_model": Path(job.base_model).name, "method": job.method, **job.hyperparameters},
        metrics={**_training_figures(folder), **_evaluation_figures(session, job)},
        dataset=None
        if dataset is None
        else DatasetUse(dataset.name, dataset.version, dataset.content_hash, Path(dataset.file_path)),
        evaluation=evaluation,
        verdict=model.verdict,
        reasons=model.verdict_reasons,
    )


def _card_facts(session: Session, job: FinetuningJob, model: RegisteredModel, record: JobRecord) -> CardFacts:
    dataset = None if job.dataset_id is None else session.get(TrainingDataset, job.dataset_id)
    return CardFacts(
        name=model.served_name,
        base_model=Path(job.base_model).name,
        job=job.job_name,
        created_by=model.created_by,
        parameters=record.parameters,
        metrics=record.metrics,
        dataset=None if dataset is None else f"{dataset.name}@{dataset.version}",
        content_hash=None if dataset is None else dataset.content_hash,
        rows=None if dataset is None else (dataset.train_samples, dataset.val_samples, dataset.test_samples),
        verdict=record.verdict,
        reasons=record.reasons,
        reasons_ko=_korean_reasons(record),
    )


def _korean_reasons(record: JobRecord) -> list[str]:
    """From the verdict's file among the evaluation's, if it speaks of this very verdict."""
    if record.evaluation is None or not record.evaluation.is_dir():
        return []
    from tollgate.evaluation.verdict import Verdict as WrittenVerdict  # imports SciPy

    try:
        verdict = WrittenVerdict.model_validate_json((record.evaluation / "verdict.json").read_bytes())
    except (OSError, ValidationError):
        return []
    return verdict.reasons_ko if verdict.outcome == record.verdict else []


def _training_figures(folder: Path) -> dict[str, float]:
    result = folder / "result.json"
    if not result.is_file():
        return {}
    return _numbers("result", json.loads(result.read_text(encoding="utf-8")).get("metrics", {}))


def _evaluation_figures(session: Session, job: FinetuningJob) -> dict[str, float]:
    rows = session.scalars(select(ModelEvaluation).where(ModelEvaluation.job_id == job.id).order_by(ModelEvaluation.id))
    figures: dict[str, float] = {}
    for row in rows:
        figures |= _numbers("evaluation", row.metrics)
    return figures


def _numbers(group: str, values: dict[str, Any]) -> dict[str, float]:
    return {
        f"{group}/{name}": float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
