"""Checkpoints on disk: which are whole, and stopping at a step's end when asked to."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end, or None.

    The trainer writes ``trainer_state.json`` last; a folder without it, or with half of it, was cut off by a crash.
    """
    found = sorted(folder.glob("checkpoint-*"), key=_step, reverse=True)
    return next((checkpoint for checkpoint in found if _is_whole(checkpoint)), None)


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdigit() else -1


def _is_whole(checkpoint: Path) -> bool:
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return state.get("global_step") == _step(checkpoint)


class StopOnSignal(TrainerCallback):
    """On SIGTERM save a checkpoint at the end of the running step and stop.

    Attributes:
        stopped: Whether the signal came before training was done.
    """

    def __init__(self) -> None:
        self.stopped = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask the trainer to save and stop, once the signal has come."""
        if args.world_size > 1:  # all must leave after the same step, or the others wait for ever
            flag = torch.tensor([int(self.stopped)], device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            self.stopped = bool(flag.item())
        if self.stopped:
            control.should_save = True
            control.should_training_stop = True
