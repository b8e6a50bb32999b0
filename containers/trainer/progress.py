"""Progress of a training run as JSON lines, one object a line, written the moment it is known."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class ProgressWriter(TrainerCallback):
    """Append what the trainer logs to ``progress.jsonl``.

    A line holds ``step``, ``max_steps``, ``percent`` (0-100), ``epoch``, ``seconds`` since the start of this process,
    ``eta_seconds``, and whatever was logged: ``loss``, ``eval_loss`` with ``eval_perplexity``, ``learning_rate``,
    ``grad_norm``. A resumed run appends to the same file.

    Args:
        path: The file, ``progress.jsonl`` in the job folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = time.monotonic()
        self._first_step: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember where this process starts, so that the estimate counts only its own steps."""
        self._started, self._first_step = time.monotonic(), state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write one line and print the same in words."""
        if not state.is_world_process_zero:
            return
        figures = {name: value for name, value in (logs or {}).items() if isinstance(value, (int, float))}
        if "eval_loss" in figures:
            figures["eval_perplexity"] = math.exp(min(figures["eval_loss"], 50.0))
        line = {**self._position(state), **figures}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(_in_words(line), flush=True)  # ruff: ignore[T201]

    def _position(self, state: TrainerState) -> dict[str, Any]:
        seconds = time.monotonic() - self._started
        done = state.global_step - (self._first_step or 0)
        left = max(state.max_steps - state.global_step, 0)
        return {
            "step": state.global_step,
            "max_steps": state.max_steps,
            "percent": round(100.0 * state.global_step / max(state.max_steps, 1), 1),
            "seconds": round(seconds, 1),
            "eta_seconds": round(seconds / done * left, 1) if done else None,
        }


def _in_words(line: dict[str, Any]) -> str:
    parts = [f"step {line['step']}/{line['max_steps']} ({line['percent']:.0f} %)"]
    for key, name in (("loss", "loss"), ("eval_loss", "validation loss"), ("eval_perplexity", "perplexity")):
        if key in line:
            parts.append(f"{name} {line[key]:.4f}")
    if line["eta_seconds"] is not None and line["step"] < line["max_steps"]:
        parts.append(f"about {line['eta_seconds']:.0f} s left")
    return ", ".join(parts)
