"""What a job writes into ``progress.jsonl``, shown where people look: the task's log, its state store, and MLflow."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from airflow.sdk.exceptions import AirflowTaskTimeout

from jobs.errors import JobError, JobStoppedError
from tollgate.training.curves import write_losses
from tollgate.training.progress import FILE, ProgressLine, ProgressReader, RunProgress

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk.types import Logger

    from tollgate.registry.mlflow_run_stream import Ending, RunStream

PROGRESS_KEY = "progress"
"""Key in Airflow's task state store: where the job is, as small JSON."""

LOOK_SECONDS = 0.4
REMEMBERED = 200


class ProgressMirror:
    """While it is entered, shows every new line within a second; at the end it draws the losses.

    A trainer prints its progress itself, as a rule, and the operator hands its log on: such a line is not said twice.

    Args:
        folder: The job folder.
        store: Airflow's task state store; None: there is none.
        log: The task's log.
        stream: The job's MLflow run; None: MLflow gets nothing.
    """

    def __init__(self, folder: Path, store: Any, log: Logger, stream: RunStream | None = None) -> None:
        self._folder = folder
        self._store = store
        self._log = log
        self._stream = stream
        self._reader = ProgressReader(folder / FILE)
        self._progress = RunProgress()
        self._unsaid: list[str] = []
        self._heard: deque[str] = deque(maxlen=REMEMBERED)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def heard(self, line: str) -> None:
        """A line of the job's log that the operator has handed on."""
        self._heard.append(line.strip())

    def __enter__(self) -> Self:
        self._look(aloud=False)  # what an earlier attempt saw is in its log, and in the job's, which is told again
        if self._stream is not None:
            self._stream.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._look()
        self._say()
        if (self._folder / FILE).is_file():
            self._draw()
        if self._stream is not None and not self._stream.close(_ending(kind)):
            self._log.warning("MLflow lacks figures of this job; the next attempt or the registration sends them.")

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self._say()  # of the look before: by now the job's own words would have come
            self._look()

    def _look(self, *, aloud: bool = True) -> None:
        lines = self._reader.read()
        if not lines:
            return
        self._progress.extend(lines)
        if aloud:
            self._unsaid += [line.in_words() for line in lines if _is_worth_saying(line)]
        self._keep(lines[-1])
        if self._stream is not None:
            self._stream.wake()

    def _keep(self, line: ProgressLine) -> None:
        """Into the store, with the newest of every figure, for one line has the training's loss and another has not."""
        if self._store is None:
            return
        newest = {name: self._progress.newest(name) for name in self._progress.points}
        whole = ProgressLine.model_validate({**newest, **line.model_dump(exclude_none=True)})
        try:
            self._store.set(PROGRESS_KEY, whole.place)
        except Exception as error:  # Airflow's API server may be away; the job must not notice
            self._log.warning("The progress could not be kept: %r", error)

    def _say(self) -> None:
        for words in self._unsaid:
            if words not in self._heard:
                self._log.info("%s", words)
        self._unsaid.clear()

    def _draw(self) -> None:
        try:
            self._log.info("Losses: %s", write_losses(self._folder))
        except OSError as error:
            self._log.warning("The losses could not be drawn: %s", error)


def _is_worth_saying(line: ProgressLine) -> bool:
    return line.loss is not None or line.eval_loss is not None or line.phase != "training"


def _ending(kind: type[BaseException] | None) -> Ending | None:
    """How MLflow calls the end; None where the job succeeded, or may still run."""
    if kind is None:
        return None
    if issubclass(kind, JobStoppedError | AirflowTaskTimeout):
        return "KILLED"
    return "FAILED" if issubclass(kind, JobError) else None
