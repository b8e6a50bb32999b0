"""One MLflow run a job: what was chosen, how the training went, what came out.

A job that is logged again finds its run and writes what is missing. Times of metrics are derived from the run's start
and the job's own clock, so that a repeated point is the same point.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tollgate.errors import BadInputError, Problem
from tollgate.registry.mlflow_server import answering, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

JOB_TAG = "tollgate.job"
POSITION = frozenset({"step", "max_steps", "percent", "seconds", "eta_seconds"})
"""Fields of a line of ``progress.jsonl`` that say where the job was, and are no metric of their own."""

METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100
LONGEST_PARAM = 6000
LONGEST_TAG = 8000
LONGEST_DIGEST = 36
"""Limits of MLflow's REST interface (``mlflow/utils/validation.py``), lengths in characters."""


@dataclass(frozen=True)
class DatasetUse:
    """The data set version that a job learned from."""

    name: str
    version: str
    content_hash: str
    folder: Path


@dataclass(frozen=True)
class JobRecord:
    """What MLflow is to know about a finished job.

    Args:
        name: Unique name of the job; one MLflow run belongs to it.
        experiment: MLflow experiment, by convention the model's name.
        folder: Job folder with ``progress.jsonl``.
        model_folder: Folder of the adapter or of the full weights.
        artifact: Name of that folder among the run's artifacts: ``adapter`` or ``model``.
        parameters: Hyperparameters and whatever else was chosen before the job.
        metrics: Single figures, such as those of the evaluation.
        dataset: What it learned from.
        evaluation: The evaluation's report, or the folder of all its files; logged as ``evaluation``.
        verdict: ``pass``, ``inconclusive`` or ``fail``.
        reasons: The verdict's reasons, in words.
    """

    name: str
    experiment: str
    folder: Path
    model_folder: Path
    artifact: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    dataset: DatasetUse | None = None
    evaluation: Path | None = None
    verdict: str | None = None
    reasons: Sequence[str] = ()


def log_job(job: JobRecord, client: MlflowClient | None = None) -> str:
    """Write the job's run: parameters, data set, metric series, model files, evaluation, verdict.

    Returns:
        The run's id; the same for the same job, however often it is logged.

    Raises:
        BadInputError: A line of ``progress.jsonl`` is no JSON object.
        ServiceUnavailableError: MLflow did not answer.
    """
    client = client or connect()
    with answering():
        run = _run_of(client, job)
        run_id = run.info.run_id
        _log_figures(client, run, job)
        _log_dataset(client, run_id, job.dataset)
        _upload(client, run_id, job.model_folder, job.artifact)
        _log_evaluation(client, run_id, job.evaluation)
        if run.info.status != "FINISHED":
            client.set_terminated(run_id, "FINISHED")
    return run_id


def _run_of(client: MlflowClient, job: JobRecord) -> Run:
    experiment = _experiment(client, job.experiment)
    known = client.search_runs([experiment], f"tags.`{JOB_TAG}` = '{job.name}'", max_results=1)
    return known[0] if known else client.create_run(experiment, tags={JOB_TAG: job.name}, run_name=job.name)


def _experiment(client: MlflowClient, name: str) -> str:
    from mlflow import MlflowException

    known = client.get_experiment_by_name(name)
    if known is not None:
        return known.experiment_id
    try:
        return client.create_experiment(name)
    except MlflowException:
        known = client.get_experiment_by_name(name)  # another job made it in between
        if known is None:
            raise
        return known.experiment_id


def _log_figures(client: MlflowClient, run: Run, job: JobRecord) -> None:
    from mlflow.entities import Metric, Param, RunTag

    metrics = _series(job.folder / "progress.jsonl", run.info.start_time)
    metrics += [Metric(name, float(value), run.info.start_time, 0) for name, value in job.metrics.items()]
    params = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in job.parameters.items()]
    tags = {"tollgate.verdict": job.verdict, "tollgate.reasons": "\n".join(job.reasons)[:LONGEST_TAG]}
    if job.dataset is not None:
        tags["tollgate.dataset"] = f"{job.dataset.name}@{job.dataset.version}"
    run_tags = [RunTag(name, value) for name, value in tags.items() if value]
    client.log_batch(run.info.run_id, tags=run_tags, params=params[:PARAMS_PER_CALL])
    for first in range(PARAMS_PER_CALL, len(params), PARAMS_PER_CALL):
        client.log_batch(run.info.run_id, params=params[first : first + PARAMS_PER_CALL])
    for first in range(0, len(metrics), METRICS_PER_CALL):
        client.log_batch(run.info.run_id, metrics=metrics[first : first + METRICS_PER_CALL])


def _series(path: Path, started_ms: int) -> list[Metric]:
    """Every number that the job reported; of a step that was repeated after a restart, the last report counts."""
    from mlflow.entities import Metric

    points: dict[tuple[str, int], Metric] = {}
    for line in _progress(path):
        step = int(line.get("step", 0))
        at = started_ms + int(1000 * float(line.get("seconds") or 0.0))
        for name, value in line.items():
            if name not in POSITION and isinstance(value, int | float) and not isinstance(value, bool):
                points[name, step] = Metric(name, float(value), at, step)
    return list(points.values())


def _progress(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        value = _object(line)
        if value is None:
            if not line.endswith("\n"):
                return  # the job was killed while it wrote this line
            where = f"{path.name}, line {number}"
            raise BadInputError("The job's progress is not readable.", [Problem(where, line[:80], "a JSON object")])
        yield value


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _log_dataset(client: MlflowClient, run_id: str, used: DatasetUse | None) -> None:
    if used is None:
        return
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=f"{used.name}@{used.version}",
        digest=used.content_hash[:LONGEST_DIGEST],
        source_type="local",
        source=json.dumps({"uri": str(used.folder)}),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def _log_evaluation(client: MlflowClient, run_id: str, evaluation: Path | None) -> None:
    if evaluation is None:
        return
    if evaluation.is_dir():
        client.log_artifacts(run_id, str(evaluation), "evaluation")
    else:
        client.log_artifact(run_id, str(evaluation), "evaluation")


def _upload(client: MlflowClient, run_id: str, folder: Path, artifact: str) -> None:
    """Upload a folder, unless all its files are there in full length: an earlier attempt may have come that far."""
    there = {Path(file.path).name: file.file_size for file in client.list_artifacts(run_id, artifact)}
    here = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
    has_folders = any(entry.is_dir() for entry in folder.iterdir())
    if has_folders or not here.items() <= there.items():
        client.log_artifacts(run_id, str(folder), artifact)
