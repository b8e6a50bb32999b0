"""A training job from request to record: checked in whole, then written down, before anything heavy starts."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from tollgate.dataset.lifecycle import check_usable
from tollgate.dataset.records import record_version
from tollgate.dataset.versions import DatasetVersion, resolve
from tollgate.errors import BadInputError, Problem
from tollgate.settings import Settings
from tollgate.store.tables import FinetuningJob
from tollgate.training.base_model import base_model_problems
from tollgate.training.estimate import what_cannot_run
from tollgate.training.merging import ADAPTER, MERGED, ServedAs, unmergeable_base
from tollgate.training.parsing import parse_spec
from tollgate.training.resumption import inherit_checkpoint, resumption_problems
from tollgate.training.spec import TrainingSpec

FORM_FIELDS = frozenset(TrainingSpec.model_fields) - {
    "job_name",
    "base_model",
    "dataset",
    "dataset_reference",
    "output",
}
"""The fields of a specification that a request may set."""


class TrainingRequest(BaseModel):
    """What a person, a schedule or a program asks for."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$", description="Name of the model; also the route it serves."
    )
    dataset: str = Field(description="Dataset version, for example highway@v3 or highway@latest.")
    base_model: Path | None = Field(None, description="Folder of the base model; empty: the one that vLLM serves.")
    hyperparameters: dict[str, Any] = Field({}, description="Fields of the training specification.")
    more_hyperparameters: str = Field("", description="Further fields of the specification, as a JSON object.")
    resume_job: str | None = Field(None, description="Name of an earlier job that ended, to go on from its checkpoint.")


class Job(BaseModel):
    """A job as it stands in ``finetuning_jobs``, in the few words that later stages need."""

    model_config = ConfigDict(protected_namespaces=())

    id: int
    name: str
    model_name: str
    folder: Path
    base_model: Path
    dataset: str
    dataset_folder: Path
    dataset_id: int
    method: Literal["full", "lora", "qlora"]
    serve_adapter_as: ServedAs = ADAPTER

    @property
    def is_merged(self) -> bool:
        """Whether its adapter is merged into the base before anybody serves it."""
        return self.serve_adapter_as == MERGED

    @property
    def serves_full_weights(self) -> bool:
        """Whether its version is full weights, which need a server of their own."""
        return self.method == "full" or self.is_merged


def parse_request(values: dict[str, Any]) -> TrainingRequest:
    """Validate ``values`` as a request.

    Raises:
        BadInputError: One problem for each wrong field.
    """
    try:
        return TrainingRequest.model_validate(values)
    except ValidationError as error:
        problems = [
            Problem(".".join(map(str, detail["loc"])), repr(detail["input"])[:200], detail["msg"])
            for detail in error.errors()
        ]
        raise BadInputError("The job cannot start.", problems) from error


def create_job(
    session: Session,
    request: TrainingRequest,
    run_id: str,
    created_by: str,
    settings: Settings,
    further_problems: Iterable[Problem] = (),
    devices: int = 0,
) -> Job:
    """Check a request as a whole, write ``spec.json`` and the row, and return the job.

    The job's name follows from model and run, so that asking again (a retried task) finds the same job.

    Args:
        session: The caller's transaction.
        request: What is asked for.
        run_id: The run; the job's name follows from it.
        created_by: Who asked.
        settings: Where things are.
        further_problems: What the caller found wrong with the rest of the request, to be told together.
        devices: How many GPUs the job will have; 0: it trains on the CPU.

    Raises:
        BadInputError: Everything that is wrong with the request, at once.
    """
    name = job_name(request.model_name, run_id)
    values, problems = merged_hyperparameters(request)
    problems += further_problems
    problems += _set_processes(values, devices)
    version = _resolve(request.dataset, settings, problems)
    base_model = (request.base_model or settings.served_base_model).resolve()
    base_faults = base_model_problems(base_model)
    problems += base_faults
    problems += _serving_problems(values, base_model, settings)
    folder = settings.jobs / name
    spec = _spec(name, values, base_model, version, folder, problems)
    if spec is not None and version is not None:
        problems += resumption_problems(session, spec, request.resume_job)
        if not base_faults:
            problems += what_cannot_run(spec, settings, "gpu" if devices else "cpu")
    if problems or spec is None or version is None:
        raise BadInputError("The job cannot start.", problems)
    row = _write_row(session, spec, record_version(session, version, created_by), created_by)
    _write_spec(spec)
    if request.resume_job:
        inherit_checkpoint(spec, request.resume_job)
    return Job(
        id=row.id,
        name=name,
        model_name=request.model_name,
        folder=folder,
        base_model=base_model,
        dataset=spec.dataset_reference,
        dataset_folder=spec.dataset,
        dataset_id=row.dataset_id or 0,
        method=spec.method,
        serve_adapter_as=spec.serve_adapter_as,
    )


def job_name(model_name: str, run_id: str) -> str:
    """The name of the job of one run, for example ``highway-router-1f3a9c20e4b7``."""
    return f"{model_name}-{hashlib.sha256(run_id.encode()).hexdigest()[:12]}"


def merged_hyperparameters(request: TrainingRequest) -> tuple[dict[str, Any], list[Problem]]:
    """The form's fields and the further ones as one dictionary, with what is wrong about them.

    A field given twice, within the JSON text or in both places, is refused: nobody can know which was meant.
    """
    problems: list[Problem] = []
    further = _parse_further(request.more_hyperparameters, problems)
    problems += [
        Problem(f"more_hyperparameters.{name}", repr(further[name]), "a field that the form has not set already")
        for name in sorted(further.keys() & request.hyperparameters.keys())
    ]
    values = {**further, **request.hyperparameters}
    problems += [
        Problem(f"hyperparameters.{name}", repr(values[name])[:200], f"one of {', '.join(sorted(FORM_FIELDS))}")
        for name in sorted(values.keys() - FORM_FIELDS)
    ]
    return {name: value for name, value in values.items() if name in FORM_FIELDS}, problems


def start_job(session: Session, job_id: int) -> None:
    """Mark a job as running, from now."""
    job = session.get_one(FinetuningJob, job_id)
    job.status, job.start_time, job.end_time = "running", job.start_time or _now(), None


def record_devices(session: Session, folder: Path, devices: Sequence[int]) -> None:
    """Keep which GPUs the job of this folder has; a job that has no row is passed over."""
    ids = ",".join(map(str, devices)) or None
    session.execute(update(FinetuningJob).where(FinetuningJob.output_dir == str(folder)).values(gpu_ids=ids))


def finish_job(session: Session, name: str, status: Literal["completed", "failed"]) -> None:
    """Mark a job as ended, now; a job that never came to be is passed over."""
    job = session.scalar(select(FinetuningJob).where(FinetuningJob.job_name == name))
    if job is not None and job.status != status:
        job.status, job.end_time = status, _now()


def _parse_further(text: str, problems: list[Problem]) -> dict[str, Any]:
    if not text.strip():
        return {}

    def refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        problems.extend(
            Problem(f"more_hyperparameters.{name}", "the field twice", "each field once")
            for name in sorted({name for name in names if names.count(name) > 1})
        )
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=refuse_twice)
    except ValueError as error:
        problems.append(Problem("more_hyperparameters", repr(text[:100]), f"a JSON object ({error})"))
        return {}
    if not isinstance(value, dict):
        problems.append(Problem("more_hyperparameters", repr(text[:100]), "a JSON object"))
        return {}
    return value


def _resolve(reference: str, settings: Settings, problems: list[Problem]) -> DatasetVersion | None:
    try:
        version = resolve(reference, settings.datasets)
        check_usable(version)
    except BadInputError as error:
        problems += error.problems or [Problem("dataset", reference, str(error))]
        return None
    return version


def _set_processes(values: dict[str, Any], devices: int) -> list[Problem]:
    """On GPUs one process trains on each; where the request does not say how many, write it down for the trainer."""
    if devices and values.setdefault("processes", devices) != devices:
        return [Problem("processes", repr(values["processes"])[:200], f"{devices}, one for each GPU of the job")]
    return []


def _serving_problems(values: dict[str, Any], base_model: Path, settings: Settings) -> list[Problem]:
    """An adapter must fit the server: made for the base that vLLM serves, its rank no larger than vLLM allows.

    Full weights bring a server of their own. One that is merged must have a base whose weights can be added to.
    """
    if values.get("method", "lora") == "full":
        return []
    if values.get("serve_adapter_as", ADAPTER) == MERGED:
        return unmergeable_base(base_model)
    problems = []
    if base_model != settings.served_base_model.resolve():
        problems.append(
            Problem("base_model", str(base_model), f"the base that vLLM serves: {settings.served_base_model}")
        )
    rank = values.get("lora_rank", TrainingSpec.model_fields["lora_rank"].default)
    try:
        too_large = float(rank) > settings.max_lora_rank  # the specification takes "64" and 64.0 for 64 too
    except (TypeError, ValueError):  # no number: the specification says so
        too_large = False
    if too_large:
        problems.append(Problem("lora_rank", str(rank), f"at most {settings.max_lora_rank}, the largest vLLM accepts"))
    return problems


def _spec(
    name: str,
    values: dict[str, Any],
    base_model: Path,
    version: DatasetVersion | None,
    folder: Path,
    problems: list[Problem],
) -> TrainingSpec | None:
    given = {
        **values,
        "job_name": name,
        "base_model": base_model,
        "dataset": version.folder if version else folder,
        "dataset_reference": version.reference if version else "",
        "output": folder,
    }
    try:
        return parse_spec(given)
    except BadInputError as error:
        problems += error.problems
        return None


def _write_row(session: Session, spec: TrainingSpec, dataset_id: int, created_by: str) -> FinetuningJob:
    values = {
        "job_name": spec.job_name,
        "base_model": str(spec.base_model),
        "dataset_id": dataset_id,
        "method": spec.method,
        "hyperparameters": spec.model_dump(mode="json", include=set(FORM_FIELDS)),
        "output_dir": str(spec.output),
        "checkpoint_dir": str(spec.output / "checkpoints"),
        "logs_path": str(spec.output / "job.log"),
        "created_by": created_by,
    }
    changed = {name: value for name, value in values.items() if name not in ("job_name", "created_by")}
    statement = insert(FinetuningJob).values(values).on_conflict_do_update(index_elements=["job_name"], set_=changed)
    session.execute(statement)
    return session.scalars(select(FinetuningJob).where(FinetuningJob.job_name == spec.job_name)).one()


def _write_spec(spec: TrainingSpec) -> None:
    spec.output.mkdir(parents=True, exist_ok=True)
    partial = spec.output / "spec.json.partial"
    partial.write_text(spec.model_dump_json(indent=2) + "\n", encoding="utf-8")
    partial.replace(spec.output / "spec.json")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
