"""How fast this team's devices train: read from what their own past runs took, never from a data sheet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tollgate.errors import BadInputError
from tollgate.training.estimate_tokens import Epoch
from tollgate.training.memory import Device, checkpoints_activations, trained_parameters
from tollgate.training.model_shape import ModelShape, read_shape
from tollgate.training.parsing import parse_spec
from tollgate.training.spec import TrainingSpec

MOST_RUNS = 8
"""Newest matching runs that a rate is made from: libraries and machines change."""


@dataclass(frozen=True)
class PastRun:
    """A run that ended well, and what it measured of itself (``measured`` in ``result.json``)."""

    name: str
    spec: TrainingSpec
    shape: ModelShape
    measured: dict[str, Any]
    ended: float


@dataclass(frozen=True)
class Rate:
    """Seconds of a step: ``per_pass`` for each forward and backward pass, and ``per_flop`` for what it computes.

    Args:
        per_pass: Seconds of a pass, however small.
        per_flop: Seconds of a floating-point operation.
        cpu_per_wall: Processor seconds that a second took.
        runs: Names of the runs that it was made from, the newest first.
        device_name: The device of the newest.
        framework: Bytes of a process beside its model, in the newest run.
    """

    per_pass: float
    per_flop: float
    cpu_per_wall: float
    runs: tuple[str, ...]
    device_name: str
    framework: int

    def seconds(self, passes: float, flops: float) -> float:
        """Seconds of ``passes`` that compute ``flops`` altogether."""
        return self.per_pass * passes + self.per_flop * flops


def operations(shape: ModelShape, spec: TrainingSpec, tokens: float, squares: float, device: Device) -> float:
    """Floating-point operations of a forward and backward pass as it is run, computing twice included.

    Two for each parameter and token forward; the same backward for the inputs' gradients, and once more for those of
    the weights, where they are trained (Kaplan et al. 2020, arXiv:2001.08361, section 2.1). Attention's products: 4 x
    width x length^2 a block (Chowdhery et al. 2022, arXiv:2204.02311, appendix B); half of it for a single row, where
    PyTorch's attention skips what the causal mask hides, which it does not under a mask of padding. The loss computes
    the output layer once more in its backward (TRL's chunked loss).

    Args:
        shape: The base model.
        spec: The job.
        tokens: Tokens of the pass, padding included.
        squares: Sum of the squared lengths of its rows.
        device: Where it runs.
    """
    linear, head = 2 * shape.multiplied * tokens, 2 * shape.vocabulary * shape.hidden * tokens
    skipped = 0.5 if spec.batch_size == 1 and not spec.packing else 1.0
    attention = 4 * shape.layers * shape.query * squares * skipped
    trained = 2 * trained_parameters(shape, spec) * tokens
    forward = linear + attention + (0 if spec.method == "full" else trained)
    backward = forward + attention + (linear if spec.method == "full" else trained)
    again = forward - head if checkpoints_activations(spec, device) else 0
    return forward + backward + again + head


def past_runs(folders: Iterable[Path]) -> Iterator[PastRun]:
    """Every run under ``folders`` that measured itself, the newest first; what cannot be read is passed over.

    Args:
        folders: Folders of job folders.
    """
    results = [path for folder in folders for path in folder.glob("*/result.json")]
    for path in sorted(results, key=lambda path: path.stat().st_mtime, reverse=True):
        if run := _read(path):
            yield run


def _read(path: Path) -> PastRun | None:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        measured = result.get("measured") or {}
        if result.get("status") != "succeeded" or not measured.get("samples"):
            return None
        spec = parse_spec(json.loads((path.parent / "spec.json").read_text(encoding="utf-8")))
        shape = read_shape(spec.base_model)
    except (OSError, ValueError, AttributeError, BadInputError):
        return None
    return PastRun(path.parent.name, spec, shape, measured, path.stat().st_mtime)


def matches(run: PastRun, shape: ModelShape, spec: TrainingSpec, device: Device) -> bool:
    """Whether a run's speed says something about ``spec``: same base's shape, library, method, arithmetic, device."""
    return (
        run.shape.signature == shape.signature
        and run.measured.get("device") == device
        and all(
            getattr(run.spec, name) == getattr(spec, name)
            for name in ("backend", "method", "precision", "distribution", "processes")
        )
    )


def measured_rate(runs: Iterable[PastRun], shape: ModelShape, spec: TrainingSpec, device: Device) -> Rate | None:
    """The rate of the newest matching runs on the device of the newest; None where nothing matches.

    Batch, length, rank and checkpointing may differ: they are in the operations. What a pass costs beside them is
    found from how the steps' times follow their sizes, by least squares over relative errors, none below zero.
    """
    found: list[PastRun] = []
    for run in runs:
        if len(found) < MOST_RUNS and matches(run, shape, spec, device):
            same = not found or _machine(run) == _machine(found[0])
            found += [run] if same else []
    if not found:
        return None
    steps = [step for run in found for step in _steps(run, device)]
    per_pass, per_flop = _fit(steps)
    wall, cpu = (sum(run.measured[name] for run in found) for name in ("seconds", "cpu_seconds"))
    busy = cpu / wall if wall and cpu else 1.0
    share = busy if device == "cpu" else 1.0  # the steps of a CPU were fitted in processor seconds
    newest = found[0]
    return Rate(
        per_pass=per_pass / share,
        per_flop=per_flop / share,
        cpu_per_wall=busy,
        runs=tuple(run.name for run in found),
        device_name=newest.measured["device_name"],
        framework=newest.measured["framework_bytes"],
    )


def _machine(run: PastRun) -> tuple[Any, Any]:
    return run.measured.get("device_name"), run.measured.get("threads")


def _steps(run: PastRun, device: Device) -> list[tuple[float, float, float]]:
    """Passes, operations and seconds of each sampled step.

    Seconds of the processor on a CPU, where others make the clock's differ several-fold from step to step.
    """
    return [
        (passes, operations(run.shape, run.spec, tokens, squares, device), cpu if device == "cpu" else seconds)
        for passes, tokens, squares, seconds, cpu in run.measured["samples"]
        if seconds > 0 and cpu > 0
    ]


def _fit(steps: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    from scipy.optimize import nnls

    passes, flops, seconds = (np.array(column, dtype=np.float64) for column in zip(*steps, strict=True))
    unit = flops.mean()  # both columns of one size, or the solver sees one of them only
    weights = 1 / seconds
    (per_pass, per_unit), _ = nnls(np.stack([passes * weights, flops / unit * weights], axis=1), np.ones(len(seconds)))
    # Relative errors lean to the quick steps; what all steps took together must come out.
    scale = seconds.sum() / (per_pass * passes + per_unit * flops / unit).sum()
    return float(per_pass * scale), float(per_unit * scale / unit)


def epoch_operations(shape: ModelShape, spec: TrainingSpec, of_epoch: Epoch, device: Device) -> float:
    """Operations of one process in an epoch."""
    return of_epoch.batches * operations(shape, spec, of_epoch.computed, of_epoch.squares, device)
