"""TRL, the default: it is called with the specification's values themselves, so there is no file between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tollgate.training.spec import TrainingSpec
from trainer.backends.base import Backend

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from trainer.resumable import Resumable
    from trainer.stop import Stop


class Trl(Backend):
    """See :mod:`trainer.sft`."""

    name = "trl"

    def build_trainer(self, spec: TrainingSpec, callbacks: list[TrainerCallback], stop: Stop) -> Resumable:
        """As in :class:`Backend`."""
        from trainer.sft import build_trainer

        return build_trainer(spec, callbacks, stop)


BACKEND = Trl()
