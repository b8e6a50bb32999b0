"""A job's MLflow run while the job trains: begun at once, its figures sent as they come, without ever holding it up.

A thread of its own talks to MLflow. What waits to be sent is not held in memory: it stands in ``progress.jsonl``, and
``mlflow.json`` says how far MLflow has it. Where MLflow is away, the thread tries again; what it could not send by the
job's end is sent by the next attempt or by the registration.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import ValidationError

from tollgate.dataset.versions import Manifest
from tollgate.errors import ServiceUnavailableError
from tollgate.registry import mlflow_server
from tollgate.registry.mlflow_run import (
    JOB_TAG,
    SENT,
    DatasetUse,
    JobStart,
    SentPoints,
    create_run,
    describe_run,
    find_run,
    log_picture,
    send_points,
)
from tollgate.registry.mlflow_server import answering
from tollgate.training.jobs import FORM_FIELDS
from tollgate.training.parsing import parse_spec
from tollgate.training.progress import FILE, ProgressReader, RunProgress
from tollgate.training.spec import TrainingSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FIRST_PAUSE = 2.0
LONGEST_PAUSE = 60.0
"""Seconds between two tries while MLflow is away; the pause doubles."""

PATIENCE = 15.0
"""Seconds that the end of a job waits for what is still to be sent."""

Ending = Literal["FAILED", "KILLED"]


class Log(Protocol):
    """Python's logger, or Airflow's."""

    def info(self, event: str, /, *values: Any) -> Any:
        """Tell what happened."""

    def warning(self, event: str, /, *values: Any) -> Any:
        """Tell what is not as it should be."""


def job_start(folder: Path, experiment: str) -> JobStart:
    """What MLflow is to know about a job before it begins, from its folder.

    Args:
        folder: The job folder with ``spec.json``.
        experiment: MLflow experiment, by convention the model's name.

    Raises:
        BadInputError: The specification is not valid.
        OSError: It is not readable.
    """
    spec = parse_spec(json.loads((folder / "spec.json").read_text(encoding="utf-8")))
    return JobStart(
        name=spec.job_name,
        experiment=experiment,
        folder=folder,
        parameters={"base_model": spec.base_model.name, **spec.model_dump(mode="json", include=set(FORM_FIELDS))},
        dataset=_dataset(spec),
    )


def _dataset(spec: TrainingSpec) -> DatasetUse | None:
    try:
        manifest = Manifest.model_validate_json((spec.dataset / "manifest.json").read_bytes())
    except (OSError, ValidationError):
        return None  # not made by prepare_dataset; the registration looks in PostgreSQL
    return DatasetUse(manifest.name, f"v{manifest.version}", manifest.content_hash, spec.dataset)


class RunStream:
    """Sends a running job's figures to its MLflow run, from a thread of its own; no method waits for MLflow.

    Args:
        folder: The job folder.
        experiment: MLflow experiment, by convention the model's name.
        connect: Makes a client; raises ``ServiceUnavailableError`` where MLflow does not answer.
        log: Told once when MLflow is away, and once when it is back.
    """

    def __init__(
        self,
        folder: Path,
        experiment: str,
        connect: Callable[[], MlflowClient] = mlflow_server.connect,
        log: Log | None = None,
    ) -> None:
        self._folder = folder
        self._experiment = experiment
        self._connect = connect
        self._log: Log = log or logging.getLogger(__name__)
        self._reader = ProgressReader(folder / FILE)
        self._progress = RunProgress()
        self._client: MlflowClient | None = None
        self._run: Run | None = None
        self._away = False
        self._ending: Ending | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start(self) -> None:
        """Begin: make or find the run, then send what there is."""
        self._thread.start()

    def wake(self) -> None:
        """Say that there are new lines."""
        self._wake.set()

    def close(self, ending: Ending | None = None, patience: float = PATIENCE) -> bool:
        """Send the rest with the picture of the losses, unless MLflow is away.

        Args:
            ending: How a job that did not succeed ended; None: the run stays open, for the registration ends it.
            patience: Seconds to wait for that at most.

        Returns:
            Whether all was sent.
        """
        self._ending = ending
        self._closing.set()
        self._wake.set()
        self._thread.join(patience)
        return not self._thread.is_alive() and not self._away

    def _work(self) -> None:
        pause = FIRST_PAUSE
        while True:
            self._wake.clear()
            closing = self._closing.is_set()  # after the line above, else a close in between would be missed
            try:
                self._send(closing)
            except ServiceUnavailableError as error:
                self._went_away(error)
                if closing:
                    return
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            except Exception as error:  # whatever it is, it must not reach the job
                self._away = True
                self._log.warning("MLflow gets no more figures of this job while it runs: %r", error)
                return
            if closing:
                return
            pause = FIRST_PAUSE
            self._wake.wait()

    def _send(self, closing: bool) -> None:
        with answering():
            if self._client is None or self._run is None:
                self._client = self._connect()
                self._run = self._begin(self._client)
            self._progress.extend(self._reader.read())
            send_points(self._client, self._run, self._folder, self._progress)
            if closing:
                log_picture(self._client, self._run.info.run_id, self._folder)
                if self._ending is not None:
                    self._client.set_terminated(self._run.info.run_id, self._ending)
        if self._away:
            self._away = False
            self._log.info("MLflow answers again; all figures are sent.")

    def _went_away(self, error: ServiceUnavailableError) -> None:
        if not self._away:
            self._log.warning("%s The training goes on; its figures are sent when MLflow is back.", error)
        self._away, self._client = True, None

    def _begin(self, client: MlflowClient) -> Run:
        """The job's run, open. A job that is trained anew, after its outputs were set aside, gets a run of its own."""
        job = job_start(self._folder, self._experiment)
        run = find_run(client, job)
        if run is not None and run.info.status == "FINISHED" and not (self._folder / SENT).exists():
            client.set_tag(run.info.run_id, JOB_TAG, f"{job.name} (earlier)")
            run = None
        run = run or create_run(client, job)
        SentPoints.read(self._folder, run.info.run_id).write(self._folder)
        describe_run(client, run, job)
        if run.info.status != "RUNNING":
            client.update_run(run.info.run_id, status="RUNNING")
        self._log.info("MLflow run %s: %s", run.info.run_id, self._experiment)
        return run
