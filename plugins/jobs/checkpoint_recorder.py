"""A running job's checkpoints as rows of ``training_checkpoints``, while they come."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tollgate.errors import ServiceUnavailableError
from tollgate.training.checkpoint_files import CHECKPOINTS, MANIFEST

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

LOOK_SECONDS = 1.0
"""Between two looks at the folder: a trainer that deletes old checkpoints keeps each for longer."""

PAUSE_SECONDS = 15.0
"""Between two tries while PostgreSQL is away."""


class CheckpointRecorder:
    """While it is entered, records every new checkpoint, from a thread of its own that holds nothing up.

    What could not be recorded is told once and tried again; at the end of the job ``candidate.serve`` or the failed
    task's callback records what is still missing.

    Args:
        folder: The job folder; where no row of ``finetuning_jobs`` names it, nothing is recorded.
        log: The task's log.
    """

    def __init__(self, folder: Path, log: Logger) -> None:
        self._folder = folder
        self._log = log
        self._recorded: dict[str, int] = {}
        self._away = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="checkpoints", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        next_look = 0.0
        while not self._ended.wait(LOOK_SECONDS):
            if time.monotonic() >= next_look:
                self._look()
                next_look = time.monotonic() + PAUSE_SECONDS if self._away else 0.0

    def _look(self) -> None:
        there = self._written()
        if there.items() <= self._recorded.items():
            return
        from tollgate.training.checkpoints import record_checkpoints_in  # heavy, and DAG files import this module

        try:
            record_checkpoints_in(self._folder)
        except ServiceUnavailableError as error:
            if not self._away:
                self._log.warning("The checkpoints are recorded later: %s", error)
            self._away = True
            return
        self._recorded, self._away = there, False

    def _written(self) -> dict[str, int]:
        """When each checkpoint was finished, by name: one of the same name may be written again."""
        found = {}
        for manifest in (self._folder / CHECKPOINTS).glob(f"checkpoint-*/{MANIFEST}"):
            try:
                found[manifest.parent.name] = manifest.stat().st_mtime_ns
            except FileNotFoundError:  # deleted to make room
                continue
        return found
