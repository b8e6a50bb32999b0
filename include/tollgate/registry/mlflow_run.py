"""One MLflow run a job: what was chosen, how the training goes, what came out.

The run begins with the training (:mod:`tollgate.registry.mlflow_run_stream`) and ends when the model is registered. A
job that is logged again finds its run by a tag and writes what is missing. A point's time is that of its line in
``progress.jsonl``, so that a repeated point is the same point.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from tollgate import __version__
from tollgate.registry.mlflow_server import answering, connect
from tollgate.settings import PROJECT
from tollgate.training.curves import write_losses
from tollgate.training.progress import FILE, Point, RunProgress, read_progress

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

JOB_TAG = "tollgate.job"
SENT = "mlflow.json"
"""File in the job folder: which points MLflow has."""

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
class JobStart:
    """What is known about a job before it begins.

    Args:
        name: Unique name of the job; one MLflow run belongs to it.
        experiment: MLflow experiment, by convention the model's name.
        folder: Job folder with ``progress.jsonl``.
        parameters: Hyperparameters and whatever else was chosen.
        dataset: What it learns from.
    """

    name: str
    experiment: str
    folder: Path
    parameters: Mapping[str, Any] = field(default_factory=dict)
    dataset: DatasetUse | None = None


@dataclass(frozen=True, kw_only=True)
class JobRecord(JobStart):
    """What MLflow is to know about a finished job.

    Args:
        model_folder: Folder of the adapter or of the full weights.
        artifact: Name of that folder among the run's artifacts: ``adapter`` or ``model``.
        metrics: Single figures, such as those of the evaluation.
        evaluation: The evaluation's report, or the folder of all its files; logged as ``evaluation``.
        verdict: ``pass``, ``inconclusive`` or ``fail``.
        reasons: The verdict's reasons, in words.
    """

    model_folder: Path
    artifact: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluation: Path | None = None
    verdict: str | None = None
    reasons: Sequence[str] = ()


class SentPoints(BaseModel):
    """What MLflow has of a job: its run, and of every figure the last step that was sent.

    It stands in the job folder, so that whoever goes on, after a crash or when MLflow is back, sends what is missing.
    Steps that a job did twice are sent once.
    """

    run_id: str
    steps: dict[str, int] = {}

    @classmethod
    def read(cls, folder: Path, run_id: str) -> SentPoints:
        """What was sent to this run; nothing where the note is missing, unreadable or about another run."""
        try:
            sent = cls.model_validate_json((folder / SENT).read_bytes())
        except (OSError, ValidationError):
            return cls(run_id=run_id)
        return sent if sent.run_id == run_id else cls(run_id=run_id)

    def write(self, folder: Path) -> None:
        """Keep the note in the job folder, as a whole."""
        partial = folder / f".{SENT}.{os.getpid()}"
        partial.write_text(self.model_dump_json() + "\n", encoding="utf-8")
        partial.replace(folder / SENT)

    def missing(self, progress: RunProgress) -> list[tuple[str, Point]]:
        """The points that were not sent yet, with the names of their figures, by step."""
        found = [
            (name, point)
            for name in progress.points
            for point in progress.series(name)
            if point.step > self.steps.get(name, -1)
        ]
        return sorted(found, key=lambda entry: entry[1].step)


def log_job(job: JobRecord, client: MlflowClient | None = None) -> str:
    """Write the job's run: parameters, data set, metric series, picture, model files, evaluation, verdict.

    Returns:
        The run's id; the same for the same job, however often it is logged.

    Raises:
        BadInputError: A line of ``progress.jsonl`` is no JSON object.
        ServiceUnavailableError: MLflow did not answer.
    """
    client = client or connect()
    with answering():
        run = find_run(client, job) or create_run(client, job)
        run_id = run.info.run_id
        describe_run(client, run, job)
        _log_outcome(client, run, job)
        send_points(client, run, job.folder, read_progress(job.folder / FILE))
        log_picture(client, run_id, job.folder)
        _upload(client, run_id, job.model_folder, job.artifact)
        _log_evaluation(client, run_id, job.evaluation)
        if run.info.status != "FINISHED":
            client.set_terminated(run_id, "FINISHED")
    return run_id


def find_run(client: MlflowClient, job: JobStart) -> Run | None:
    """The job's run, if it has one."""
    experiment = _experiment(client, job.experiment)
    known = client.search_runs([experiment], f"tags.`{JOB_TAG}` = '{job.name}'", max_results=1)
    return known[0] if known else None


def create_run(client: MlflowClient, job: JobStart) -> Run:
    """Begin the job's run, with the code's version in its tags."""
    from mlflow.utils.git_utils import get_git_commit

    tags = {JOB_TAG: job.name, "tollgate.code_version": __version__}
    if commit := get_git_commit(str(PROJECT)):
        tags["mlflow.source.git.commit"] = commit  # MLflow's pages show it
    return client.create_run(_experiment(client, job.experiment), tags=tags, run_name=job.name)


def describe_run(client: MlflowClient, run: Run, job: JobStart) -> None:
    """Write what was chosen and what the job learns from. Parameters that the run has stand: MLflow changes none."""
    from mlflow.entities import Param

    params = [
        Param(name, str(value)[:LONGEST_PARAM]) for name, value in job.parameters.items() if name not in run.data.params
    ]
    for first in range(0, len(params), PARAMS_PER_CALL):
        client.log_batch(run.info.run_id, params=params[first : first + PARAMS_PER_CALL])
    if job.dataset is not None:
        client.set_tag(run.info.run_id, "tollgate.dataset", f"{job.dataset.name}@{job.dataset.version}")
        _log_dataset(client, run.info.run_id, job.dataset)


def send_points(client: MlflowClient, run: Run, folder: Path, progress: RunProgress) -> int:
    """Send the points that the run does not have yet, oldest first, and note in the job folder how far it came.

    Returns:
        How many were sent.
    """
    from mlflow.entities import Metric

    sent = SentPoints.read(folder, run.info.run_id)
    missing = sent.missing(progress)
    for first in range(0, len(missing), METRICS_PER_CALL):
        batch = missing[first : first + METRICS_PER_CALL]
        metrics = [Metric(name, point.value, _time_of(point, run), point.step) for name, point in batch]
        client.log_batch(run.info.run_id, metrics=metrics)
        sent.steps |= {name: point.step for name, point in batch}
        sent.write(folder)
    return len(missing)


def log_picture(client: MlflowClient, run_id: str, folder: Path) -> None:
    """Draw the losses into the job folder and keep the picture with the run; a job without progress has none."""
    if (folder / FILE).is_file():
        client.log_artifact(run_id, str(write_losses(folder)))


def _time_of(point: Point, run: Run) -> int:
    """Milliseconds since 1970: when the line was written, for lines without a time by the job's own clock."""
    if point.line.time is not None:
        return int(point.line.time.astimezone(dt.UTC).timestamp() * 1000)
    return int(run.info.start_time) + int(1000 * (point.line.seconds or 0.0))


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


def _log_outcome(client: MlflowClient, run: Run, job: JobRecord) -> None:
    from mlflow.entities import Metric, RunTag

    tags = {"tollgate.verdict": job.verdict, "tollgate.reasons": "\n".join(job.reasons)[:LONGEST_TAG]}
    metrics = [Metric(name, float(value), run.info.start_time, 0) for name, value in job.metrics.items()]
    client.log_batch(run.info.run_id, tags=[RunTag(name, value) for name, value in tags.items() if value])
    for first in range(0, len(metrics), METRICS_PER_CALL):
        client.log_batch(run.info.run_id, metrics=metrics[first : first + METRICS_PER_CALL])


def _log_dataset(client: MlflowClient, run_id: str, used: DatasetUse) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=f"{used.name}@{used.version}",
        digest=used.content_hash[:LONGEST_DIGEST],
        source_type="local",
        source=json.dumps({"uri": str(used.folder)}),
    )
    tags = [InputTag("mlflow.data.context", "training"), InputTag("tollgate.content_hash", used.content_hash)]
    client.log_inputs(run_id, [DatasetInput(dataset, tags)])


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
