"""Whether this job shall stop: by SIGTERM, or by a file that somebody put into the job folder."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from types import FrameType

from tollgate.training.stopping import STOP_REQUEST, STOPPED

EXIT_STOPPED = 10


class Stop:
    """Listens for SIGTERM, and looks for the request's file whenever it is asked.

    While nothing is trained yet there is nothing to save, and the signal ends the process at once. From
    :meth:`training_begins` on it is only noted; the training ends at the end of its step.

    Args:
        job_folder: Where the request's file would lie.
    """

    def __init__(self, job_folder: Path) -> None:
        self._request = job_folder / STOP_REQUEST
        self._signalled = False
        self._training = False
        signal.signal(signal.SIGTERM, self._on_signal)

    @property
    def requested(self) -> bool:
        """Whether somebody has asked for a stop."""
        return self._signalled or self._request.exists()

    def training_begins(self) -> None:
        """From now on there is work to save."""
        self._training = True

    def acknowledge(self) -> None:
        """Turn the request into the record of why the job stopped, so that the next attempt does not stop again."""
        with contextlib.suppress(FileNotFoundError):  # another process of this training was faster, or a signal came
            self._request.replace(self._request.with_name(STOPPED))

    def forget(self) -> None:
        """Drop a request that came too late: the job is done."""
        self._request.unlink(missing_ok=True)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        if not self._training:
            os.write(1, b"Stopped before the first step; there is nothing new to save.\n")
            os._exit(EXIT_STOPPED)  # imports and model loading would swallow an exception, or take minutes to end
