"""Progress of a training run as JSON lines, one object a line, written the moment it is known."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tollgate.training.progress import Phase, ProgressLine, perplexity

_TOKENS = ("num_tokens", "num_input_tokens_seen")
"""What TRL, and what transformers, calls the number of tokens so far."""
_COUNTERS = frozenset({"epoch", "eval_num_tokens", "train_tokens_per_second", "ppl", "eval_ppl", *_TOKENS})
"""What the trainer logs beside its figures and a line says in another way."""
MEMORY = "memory/"
"""How Axolotl's names for memory begin. A line says it in another way, and MLflow takes no brackets in a name."""


class ProgressWriter(TrainerCallback):
    """Append what the trainer logs to ``progress.jsonl``, and print it in words.

    The first line is there before the first step; further ones follow at every report of the trainer, and where it
    begins to evaluate or to save. A line holds the fields of :class:`tollgate.training.progress.ProgressLine` and every
    other number that was logged; what is no finite number stands as text (``"NaN"``), which JSON has no number for. A
    resumed run appends to the same file.

    Args:
        path: The file, ``progress.jsonl`` in the job folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = time.monotonic()
        self._first_step = 0
        self._phase: Phase = "training"
        self._rate = _TokenRate()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the first line. The estimate of the time left counts the steps of this process alone."""
        self._started, self._first_step = time.monotonic(), state.global_step
        self._rate = _TokenRate(state.num_input_tokens_seen)
        if state.is_world_process_zero:
            _cut_torn_line(self._path)
        self._enter("training", state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Say that a checkpoint is written now, where no evaluation comes before it."""
        self._rate.step_ended()
        if control.should_save and not control.should_evaluate:
            self._enter("saving", state)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say once that the validation loss is being measured."""
        if self._phase != "evaluating":
            self._enter("evaluating", state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the evaluation's time out of the rate; say that a checkpoint follows, or the training goes on."""
        self._rate.interrupted()
        self._enter("saving" if control.should_save else "training", state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Say that the training goes on."""
        self._rate.interrupted()
        self._enter("training", state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write what was logged. Every process computes the rate, one of them writes."""
        given = {name: value for name, value in (logs or {}).items() if isinstance(value, int | float)}
        figures = {
            name: value for name, value in given.items() if name not in _COUNTERS and not name.startswith(MEMORY)
        }
        if "loss" in figures:
            figures["perplexity"] = perplexity(figures["loss"])
            if (tokens := next((given[name] for name in _TOKENS if name in given), None)) is not None:
                figures |= self._rate.since_last(tokens)
        if "eval_loss" in figures:
            figures["eval_perplexity"] = perplexity(figures["eval_loss"])
        self._write(state, figures)

    def _enter(self, phase: Phase, state: TrainerState) -> None:
        self._phase = phase
        self._write(state, {})

    def _write(self, state: TrainerState, figures: dict[str, float]) -> None:
        if not state.is_world_process_zero:
            return
        line = {**self._position(state), "phase": self._phase, **_device_figures(), **figures}
        line = {name: _json_number(value) for name, value in line.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if figures or self._phase != "training" or state.global_step == self._first_step:
            print(ProgressLine.model_validate(line).in_words(), flush=True)  # ruff: ignore[T201]

    def _position(self, state: TrainerState) -> dict[str, Any]:
        seconds = time.monotonic() - self._started
        done = state.global_step - self._first_step
        left = max(state.max_steps - state.global_step, 0)
        return {
            "step": state.global_step,
            "max_steps": state.max_steps,
            "percent": round(100.0 * state.global_step / max(state.max_steps, 1), 1),
            "epoch": round(state.epoch or 0.0, 4),
            "seconds": round(seconds, 1),
            "eta_seconds": round(seconds / done * left, 1) if done else None,
            "time": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
        }


class _TokenRate:
    """Tokens per second of training: what evaluations and checkpoints took is left out.

    Args:
        tokens: How many an earlier attempt has trained on already.
    """

    def __init__(self, tokens: float = 0.0) -> None:
        self._since = self._step_ended = time.monotonic()
        self._idle = 0.0
        self._tokens = tokens

    def step_ended(self) -> None:
        """A step is done; what follows until the next call of :meth:`interrupted` was no training."""
        self._step_ended = time.monotonic()

    def interrupted(self) -> None:
        """An evaluation or a checkpoint is done."""
        now = time.monotonic()
        self._idle += now - self._step_ended
        self._step_ended = now

    def since_last(self, tokens: float) -> dict[str, float]:
        """The rate since the last call as ``tokens_per_second``, from all tokens of this process so far."""
        now = time.monotonic()
        seconds = now - self._since - self._idle
        rate = {"tokens_per_second": round((tokens - self._tokens) / seconds, 1)} if seconds > 0 else {}
        self._since, self._idle, self._tokens = now, 0.0, tokens
        return rate


def _device_figures() -> dict[str, float]:
    """Peak memory in bytes, and where a GPU says so, how busy it is in percent."""
    if not torch.cuda.is_available():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"memory_bytes": peak if sys.platform == "darwin" else peak * 1024}
    figures: dict[str, float] = {"memory_bytes": max(map(torch.cuda.max_memory_allocated, _devices()))}
    # NVIDIA's management library may be missing, or not know the device.
    with contextlib.suppress(ImportError, RuntimeError):
        figures["gpu_utilization"] = max(map(torch.cuda.utilization, _devices()))
    return figures


def _devices() -> range:
    return range(torch.cuda.device_count())


def _json_number(value: Any) -> Any:
    """The value as JSON can hold it; pydantic reads the texts as the numbers that they name."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _cut_torn_line(path: Path) -> None:
    """Take away the line that a killed process began, so that the next one does not grow onto it."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rpartition(b"\n")
        if whole[2]:
            with path.open("r+b") as file:
                file.truncate(len(whole[0]) + len(whole[1]))
