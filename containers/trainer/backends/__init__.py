"""The libraries that can run a training, one file each, behind one contract."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tollgate.training.spec import TrainingSpec
from trainer.backends.base import Backend

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from trainer.resumable import Resumable
    from trainer.stop import Stop


def backend_of(name: str) -> Backend:
    """The backend of a name: the object ``BACKEND`` of the file of this name in this folder."""
    backend: Backend = importlib.import_module(f"{__name__}.{name}").BACKEND
    return backend


def build_trainer(spec: TrainingSpec, callbacks: list[TrainerCallback], stop: Stop) -> Resumable:
    """Put together model, data and settings by the specification's backend, ready for ``train()``.

    Args:
        spec: The job.
        callbacks: Called back while training, for example to write progress.
        stop: Whether to stop.

    Returns:
        A trainer whose checkpoints go to ``<output>/checkpoints``.

    Raises:
        BadInputError: The library is not installed here, its own validator refuses the configuration, or it would
            train on other rows than those of the dataset version.
    """
    return backend_of(spec.backend).build_trainer(spec, callbacks, stop)
