"""What a run really took: memory at most, seconds and tokens of its steps. The next estimate is made from it."""

from __future__ import annotations

import platform
import resource
import time
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SAMPLES = 24
"""Steps that are kept one by one; a result is handed on through Airflow and must stay small."""


class Measurement(TrainerCallback):
    """Measure the steps of this process and the memory of its device.

    A step is measured from the moment its rows are there until the weights have changed; evaluations and checkpoints
    lie outside. The first step, in which libraries set themselves up, is left out where there are more.
    """

    def __init__(self) -> None:
        self._framework = 0
        self._steps: list[list[float]] = []
        self._passes = self._tokens = self._squares = 0
        self._begin = self._cpu_begin = 0.0
        self._processes = 1
        self._hook: Any = None
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Count, from now on, the tokens of every forward pass, padding included: that is what is computed."""
        self._processes = args.world_size
        self._framework = max(0, psutil.Process().memory_info().rss - _bytes_on_cpu(model))
        self._hook = model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, model: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        tokens = named.get("input_ids")
        if model.training and tokens is not None:
            rows, length = tokens.shape
            self._passes += 1
            self._tokens += rows * length
            self._squares += rows * length**2

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clocks."""
        self._passes = self._tokens = self._squares = 0
        self._begin, self._cpu_begin = time.perf_counter(), time.process_time()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Read the clocks. TRL reads its figures from the device in every step, so nothing is left running there."""
        seconds, cpu = time.perf_counter() - self._begin, time.process_time() - self._cpu_begin
        self._steps.append([self._passes, self._tokens, self._squares, round(seconds, 6), round(cpu, 6)])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model as it was."""
        self._hook.remove()

    def figures(self) -> dict[str, Any]:
        """What was measured, as JSON values.

        Returns:
            ``device`` (cpu or gpu), ``device_name``, ``threads``, ``processes``; ``steps`` measured, and of these the
            sums ``passes``, ``tokens`` (padding included), ``seconds``, ``cpu_seconds``; ``seconds_per_step``,
            ``cpu_seconds_per_step``, ``tokens_per_second``; ``samples``: at most 24 steps as [passes, tokens, squares
            of the lengths, seconds, CPU seconds]; ``framework_bytes`` in memory beside the model when training began,
            and ``peak_memory_bytes``: resident on a CPU, reserved by PyTorch on a GPU, where ``peak_allocated_bytes``
            was in use. All of one process.
        """
        measured = self._steps[1:] if len(self._steps) > 1 else self._steps
        passes, tokens, _, seconds, cpu = (sum(step[place] for step in measured) for place in range(5))
        count = max(len(measured), 1)
        return {
            **_device(),
            "processes": self._processes,
            "steps": len(measured),
            "passes": int(passes),
            "tokens": int(tokens),
            "seconds": round(seconds, 4),
            "cpu_seconds": round(cpu, 4),
            "seconds_per_step": round(seconds / count, 6),
            "cpu_seconds_per_step": round(cpu / count, 6),
            "tokens_per_second": round(tokens / seconds, 2) if seconds else None,
            "samples": _thinned(measured),
            "framework_bytes": self._framework,
            **_peak(),
        }


def _bytes_on_cpu(model: torch.nn.Module) -> int:
    """Bytes of a model's weights in this machine's memory, shared ones once."""
    parts = (getattr(weight, "_local_tensor", weight) for weight in model.parameters())  # of weights that are shared
    storages = {part.untyped_storage().data_ptr(): part.untyped_storage() for part in parts}
    return sum(storage.nbytes() for storage in storages.values() if storage.device.type == "cpu")


def _device() -> dict[str, Any]:
    if torch.cuda.is_available():
        return {"device": "gpu", "device_name": torch.cuda.get_device_name(), "threads": torch.get_num_threads()}
    return {"device": "cpu", "device_name": platform.machine(), "threads": torch.get_num_threads()}


def _peak() -> dict[str, int]:
    if torch.cuda.is_available():
        return {
            "peak_memory_bytes": torch.cuda.max_memory_reserved(),
            "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
        }
    return {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}  # Linux counts kilobytes


def _thinned(steps: list[list[float]]) -> list[list[float]]:
    if len(steps) <= SAMPLES:
        return steps
    return [steps[round(place * (len(steps) - 1) / (SAMPLES - 1))] for place in range(SAMPLES)]
