"""Stop when the validation loss has stopped falling, and remember where it was lowest."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

REMEMBERED = ("best_loss", "best_step", "reference_loss", "without_gain", "measured_step", "reason")


class EarlyStopping(TrainerCallback):
    """Ends the training after so many measurements without a gain, and has the checkpoint of the lowest loss saved.

    A gain is a loss lower than the last gain's by more than ``minimum_gain``. Transformers' own callback compares with
    the last measurement that was any lower, so a loss that falls steadily in steps below the minimum never counts for
    it; here such falls add up (as in Keras and Lightning). A loss that is not a number is no gain.

    Args:
        patience: Measurements without a gain after which the training ends, 1 or more.
        minimum_gain: A smaller fall of the loss is no gain, 0 or more.

    Attributes:
        best_loss: The lowest validation loss so far.
        best_step: The step at which it was measured.
        reason: Why the training ended; None while it goes on.
    """

    def __init__(self, patience: int, minimum_gain: float) -> None:
        self._patience = patience
        self._minimum_gain = minimum_gain
        self.best_loss: float | None = None
        self.best_step: int | None = None
        self.reference_loss: float | None = None
        self.without_gain = 0
        self.measured_step: int | None = None
        self.reason: str | None = None

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at one measurement; a step counts once."""
        loss = (metrics or {}).get("eval_loss")
        if loss is None or state.global_step == self.measured_step:
            return
        self.measured_step = state.global_step
        if not math.isnan(loss) and (self.best_loss is None or loss < self.best_loss):
            self.best_loss, self.best_step = loss, state.global_step
            control.should_save = True
        self._count(loss)
        if self.without_gain >= self._patience and state.global_step < state.max_steps:
            self._end(state.global_step)
            control.should_save = control.should_training_stop = True

    def state(self) -> dict[str, Any]:
        """What a resumed training must know, for JSON."""
        return {name: getattr(self, name) for name in REMEMBERED}

    def restore(self, remembered: dict[str, Any]) -> None:
        """Take up the state of a checkpoint. More patience or a smaller minimum than before counts from now on."""
        for name in REMEMBERED:
            setattr(self, name, remembered.get(name, getattr(self, name)))
        if self.without_gain < self._patience:
            self.reason = None

    def forget_best(self) -> None:
        """The best checkpoint is gone: look for a best one anew."""
        self.best_loss = self.best_step = None

    def _count(self, loss: float) -> None:
        lower = self.reference_loss is None or loss < self.reference_loss - self._minimum_gain
        if lower and not math.isnan(loss):
            self.reference_loss, self.without_gain = loss, 0
        else:
            self.without_gain += 1

    def _end(self, step: int) -> None:
        lowest = "none was a number"
        if self.best_loss is not None:
            lowest = f"the lowest was {self.best_loss:.4f} at step {self.best_step}"
        self.reason = (
            f"Stopped early at step {step}: {self.without_gain} measurements of the validation loss without a gain of "
            f"more than {self._minimum_gain:g}; {lowest}."
        )
        print(self.reason, flush=True)  # ruff: ignore[T201]
