"""What a training will need, take and cost, said before it starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tollgate.errors import BadInputError, Problem
from tollgate.settings import Settings
from tollgate.training import merging, rates
from tollgate.training.estimate_fit import settings_that_fit
from tollgate.training.estimate_tokens import Epoch, RowLengths, epoch, row_lengths, total_steps
from tollgate.training.memory import (
    EVALUATION_ROWS,
    Device,
    Lengths,
    Memory,
    Phase,
    checkpoints_activations,
    estimate_memory,
    trained_parameters,
)
from tollgate.training.model_shape import ModelShape, UnknownShapeError, read_shape
from tollgate.training.rules import base_contradictions, row_contradictions
from tollgate.training.spec import TrainingSpec

GIGABYTE = 1e9
MEASUREMENTS = "measurements"
"""Folder under the home for runs of ``tollgate estimate --measure``, in the form of job folders."""


class MemoryEstimate(BaseModel):
    """Memory of one process, in bytes; ``limit`` is what it may have at most, where that is known."""

    parts: dict[str, int]
    peak: int
    phase: Phase = Field(description="When the peak is.")
    processes: int = Field(description="Processes that share the limit.")
    limit: int | None
    limit_from: str
    fits: bool | None


class MergingEstimate(BaseModel):
    """What merging the adapter needs once the training is over: the host's memory, no device's, and disk; in bytes."""

    memory: int
    disk: int = Field(description="The merged weights; as many bytes as the base's.")
    limit: int | None
    limit_from: str
    fits: bool


class TimeEstimate(BaseModel):
    """Steps, tokens and, where a rate was measured, seconds."""

    steps: int
    steps_per_epoch: int
    tokens_per_epoch: int = Field(description="Tokens of the rows, without padding.")
    computed_tokens_per_step: int = Field(description="With padding, over all processes.")
    rows: int
    rows_counted: int = Field(description="Rows that were tokenized.")
    seconds_per_step: float | None = None
    cpu_seconds_per_step: float | None = None
    tokens_per_second: float | None = Field(None, description="Of computed tokens.")
    seconds_per_epoch: float | None = None
    evaluation_seconds: float | None = None
    total_seconds: float | None = None
    measured_by: tuple[str, ...] = Field((), description="Past runs that the rate is from.")


class CostEstimate(BaseModel):
    """What the training costs by the settings' prices."""

    amount: float
    currency: str
    basis: str


class Estimate(BaseModel):
    """What is known about a training before it starts."""

    model_config = ConfigDict(protected_namespaces=())

    base_model: str
    dataset: str
    method: str
    device: Device
    device_name: str | None
    distribution: str
    processes: int
    gradient_checkpointing: bool
    total_parameters: int
    trainable_parameters: int
    trainable_share: float
    memory: MemoryEstimate
    merging: MergingEstimate | None = Field(None, description="None where no adapter is merged.")
    time: TimeEstimate | None
    cost: CostEstimate | None
    would_fit: list[dict[str, Any]] = Field([], description="Fields to set, where it does not fit.")
    notes: list[str] = Field([], description="What could not be counted, and why.")

    @property
    def fits(self) -> bool | None:
        """Whether the training fits, and the merging after it; None where there is no limit to compare with."""
        return False if self.merging and not self.merging.fits else self.memory.fits


@dataclass(frozen=True)
class _Rows:
    """Lengths of both parts, as far as they could be counted, and how many rows there are."""

    counts: dict[str, int]
    training: RowLengths | None
    evaluation: RowLengths | None
    note: str | None

    @property
    def longest(self) -> int:
        """Tokens of the longest row; 0 where none were counted."""
        return max((part.longest for part in (self.training, self.evaluation) if part), default=0)


def device_of(settings: Settings) -> Device:
    """Where jobs run by the settings."""
    return "gpu" if settings.gpu_ids else "cpu"


def estimate(spec: TrainingSpec, settings: Settings, device: Device | None = None) -> Estimate:
    """Estimate a training.

    Args:
        spec: The job; its base model and dataset version must be there.
        settings: Limits, prices, and where past runs are.
        device: ``cpu`` or ``gpu``; by default what the settings name.

    Raises:
        BadInputError: Base model or dataset cannot be read.
    """
    device = device or device_of(settings)
    shape = read_shape(spec.base_model)
    rows = _rows(spec)
    rate = rates.measured_rate(past_runs(settings), shape, spec, device)
    memory, suggestions = _memory(shape, spec, rows, settings, device, rate)
    of_epoch = epoch(spec, rows.training) if rows.training else None
    time = _time(shape, spec, rows, of_epoch, rate, device) if of_epoch else None
    trained = trained_parameters(shape, spec)
    total = shape.parameters + (trained if spec.method != "full" else 0)
    return Estimate(
        base_model=str(spec.base_model),
        dataset=spec.dataset_reference,
        method=spec.method,
        device=device,
        device_name=rate.device_name if rate else None,
        distribution=spec.distribution,
        processes=spec.processes,
        gradient_checkpointing=checkpoints_activations(spec, device),
        total_parameters=total,
        trainable_parameters=trained,
        trainable_share=trained / total,
        memory=memory,
        merging=_merging(spec, settings),
        time=time,
        cost=_cost(time, spec, settings, device),
        would_fit=suggestions,
        notes=list(_notes(rows, rate, device)),
    )


def what_cannot_run(spec: TrainingSpec, settings: Settings, device: Device | None = None) -> list[Problem]:
    """What base model, rows and memory say against a specification; empty where it can start.

    Args:
        spec: A valid specification, whose base model and dataset are there.
        settings: The memory there is, and whether to refuse what needs more.
        device: Where the job will run; by default what the settings name. A job that asks for no GPU runs on the CPU
            also where some are configured, and then the host's memory counts.
    """
    device = device or device_of(settings)
    problems: list[Problem] = []
    if settings.memory_check == "refuse" and (merged := _merging(spec, settings)) and not merged.fits:
        problems.append(_too_large_to_merge(merged))
    try:
        rows = _rows(spec)
        steps = total_steps(spec, epoch(spec, rows.training)) if rows.training and rows.training.counted else 0
        problems += row_contradictions(spec, steps, rows.counts)
        shape = read_shape(spec.base_model)
    except UnknownShapeError:
        return problems  # nothing can be said about its memory, and so nothing against it
    except BadInputError as error:
        return [*problems, *error.problems]
    problems = base_contradictions(spec, shape, device, rows.longest) + problems
    if problems or settings.memory_check != "refuse":
        return problems
    memory, suggestions = _memory(shape, spec, rows, settings, device, None)
    return [_too_large(memory, suggestions)] if memory.fits is False else []


def _merging(spec: TrainingSpec, settings: Settings) -> MergingEstimate | None:
    if not spec.is_merged:
        return None
    needed, (limit, limit_from) = merging.memory_bytes(spec.base_model), _limit(settings, "cpu")
    return MergingEstimate(
        memory=needed,
        disk=merging.weights_bytes(spec.base_model),
        limit=limit,
        limit_from=limit_from,
        fits=limit is None or needed <= limit,
    )


def _too_large_to_merge(merged: MergingEstimate) -> Problem:
    value = f"merged, which needs {merged.memory / GIGABYTE:.1f} GB of the host's memory after the training"
    expected = (
        f"at most {(merged.limit or 0) / GIGABYTE:.1f} GB ({merged.limit_from}); or adapter. "
        "TOLLGATE_MEMORY_CHECK=warn starts it all the same"
    )
    return Problem("serve_adapter_as", value, expected)


def past_runs(settings: Settings) -> Iterable[rates.PastRun]:
    """The jobs and measurements of this home, the newest first."""
    return rates.past_runs((settings.jobs, settings.home / MEASUREMENTS))


def in_words(changes: dict[str, Any]) -> str:
    """Fields to set, as people and ``more_hyperparameters`` write them."""
    return ", ".join(f"{name}={'true' if value is True else value}" for name, value in changes.items())


def _too_large(memory: MemoryEstimate, suggestions: list[dict[str, Any]]) -> Problem:
    largest = sorted(memory.parts.items(), key=lambda part: -part[1])[:3]
    needed = memory.peak * memory.processes / GIGABYTE
    parts = ", ".join(f"{name} {value / GIGABYTE:.1f}" for name, value in largest)
    ways = "; or ".join(map(in_words, suggestions)) or "none was found; choose a smaller base model"
    expected = (
        f"at most {(memory.limit or 0) / GIGABYTE:.1f} GB ({memory.limit_from}). Settings that fit: {ways}. "
        "TOLLGATE_MEMORY_CHECK=warn starts it all the same"
    )
    return Problem("memory", f"{needed:.1f} GB needed ({parts})", expected)


def _rows(spec: TrainingSpec) -> _Rows:
    counts = {part: _height(spec, part) for part in ("train", "validation")}
    if not (spec.base_model / "tokenizer.json").is_file():
        return _Rows(counts, None, None, "There is no tokenizer.json, so no tokens were counted.")
    try:
        training, evaluation = (row_lengths(spec.dataset / f"{part}.parquet", spec.base_model) for part in counts)
    except BadInputError as error:
        return _Rows(counts, None, None, f"No tokens were counted. {error}")
    return _Rows(counts, training, evaluation, None)


def _height(spec: TrainingSpec, part: str) -> int:
    import polars as pl

    file = spec.dataset / f"{part}.parquet"
    try:
        return int(pl.scan_parquet(file).select(pl.len()).collect().item())
    except (OSError, pl.exceptions.PolarsError) as error:
        problem = Problem("dataset", f"unreadable {file}", "a part of a dataset version")
        raise BadInputError("The dataset cannot be read.", [problem]) from error


def _memory(
    shape: ModelShape, spec: TrainingSpec, rows: _Rows, settings: Settings, device: Device, rate: rates.Rate | None
) -> tuple[MemoryEstimate, list[dict[str, Any]]]:
    lengths = Lengths(
        rows.training.longest if rows.training else spec.max_length,
        rows.evaluation.longest if rows.evaluation else spec.max_length,
        rows.counts["validation"],
    )
    limit, limit_from = _limit(settings, device)
    framework = rate.framework if rate and device == "cpu" else None

    def needed(one: TrainingSpec) -> Memory:
        return estimate_memory(shape, one, lengths, device, framework)

    def sharing(one: TrainingSpec) -> int:
        return one.processes if device == "cpu" else 1

    def fits(one: TrainingSpec) -> bool:
        if limit is not None and needed(one).peak * sharing(one) > limit:
            return False
        return not base_contradictions(one, shape, device, rows.longest)

    memory = needed(spec)
    fitting = None if limit is None else memory.peak * sharing(spec) <= limit
    ways = settings_that_fit(spec, fits, device, len(settings.gpu_ids), lengths.training) if fitting is False else []
    return (
        MemoryEstimate(
            parts=memory.parts(),
            peak=memory.peak,
            phase=memory.phase,
            processes=sharing(spec),
            limit=limit,
            limit_from=limit_from,
            fits=fitting,
        ),
        ways,
    )


def _limit(settings: Settings, device: Device) -> tuple[int | None, str]:
    """Bytes that there are, and where that is known from."""
    if device == "gpu":
        known = settings.gpu_memory_gb
        return (
            (round(known * GIGABYTE), "TOLLGATE_GPU_MEMORY_GB")
            if known
            else (None, "TOLLGATE_GPU_MEMORY_GB is not set")
        )
    import psutil
    from docker.errors import DockerException
    from docker.utils import parse_bytes

    try:
        allowed = int(parse_bytes(settings.job_memory))
    except DockerException as error:
        problem = Problem("TOLLGATE_JOB_MEMORY", repr(settings.job_memory), "a size such as 16g")
        raise BadInputError("The settings are wrong (environment or .env).", [problem]) from error
    there = int(psutil.virtual_memory().total)
    return (allowed, "TOLLGATE_JOB_MEMORY") if allowed <= there else (there, "this machine's memory")


def _time(
    shape: ModelShape, spec: TrainingSpec, rows: _Rows, of_epoch: Epoch, rate: rates.Rate | None, device: Device
) -> TimeEstimate:
    assert rows.training is not None
    steps = total_steps(spec, of_epoch)
    passes = of_epoch.batches / of_epoch.steps
    known = {
        "steps": steps,
        "steps_per_epoch": of_epoch.steps,
        "tokens_per_epoch": of_epoch.tokens,
        "computed_tokens_per_step": round(of_epoch.computed * passes * spec.processes),
        "rows": rows.training.rows,
        "rows_counted": rows.training.counted,
    }
    if rate is None:
        return TimeEstimate(**known)
    operations = rates.operations(shape, spec, of_epoch.computed, of_epoch.squares, device)
    step = rate.seconds(passes, passes * operations)
    evaluated = _evaluation_seconds(shape, spec, rows.evaluation, rate) * (steps // spec.eval_steps + 1)
    return TimeEstimate(
        **known,
        seconds_per_step=step,
        cpu_seconds_per_step=step * rate.cpu_per_wall,
        tokens_per_second=of_epoch.computed * passes * spec.processes / step,
        seconds_per_epoch=step * of_epoch.steps,
        evaluation_seconds=evaluated,
        total_seconds=step * steps + evaluated,
        measured_by=rate.runs,
    )


def _evaluation_seconds(shape: ModelShape, spec: TrainingSpec, lengths: RowLengths | None, rate: rates.Rate) -> float:
    """Seconds of one measurement of the validation loss: a third of a full training pass, whatever the method."""
    if lengths is None or not lengths.counted:
        return 0.0
    changes = {"method": "full", "batch_size": max(spec.batch_size, EVALUATION_ROWS), "gradient_checkpointing": False}
    whole = spec.model_copy(update={**changes, "packing": False})
    of_part = epoch(whole, lengths)
    operations = rates.operations(shape, whole, of_part.computed, of_part.squares, "cpu") / 3
    return rate.seconds(of_part.batches / 3, of_part.batches * operations)


def _cost(time: TimeEstimate | None, spec: TrainingSpec, settings: Settings, device: Device) -> CostEstimate | None:
    if time is None or time.total_seconds is None:
        return None
    devices = spec.processes if device == "gpu" else 1
    hours = time.total_seconds / 3600 * devices
    if device == "gpu" and settings.gpu_hour_price is not None:
        basis = f"{hours:.2f} GPU hours at {settings.gpu_hour_price:g}"
        return CostEstimate(amount=hours * settings.gpu_hour_price, currency=settings.currency, basis=basis)
    if settings.kwh_price is not None and settings.device_watts is not None:
        energy = hours * settings.device_watts / 1000
        basis = f"{energy:.3f} kWh at {settings.kwh_price:g}"
        return CostEstimate(amount=energy * settings.kwh_price, currency=settings.currency, basis=basis)
    return None


def _notes(rows: _Rows, rate: rates.Rate | None, device: Device) -> Iterable[str]:
    if rows.note:
        yield f"{rows.note} Memory is that of rows of max_length."
    elif rows.training and rows.training.counted < rows.training.rows:
        yield f"Tokens were counted of {rows.training.counted:,} rows, evenly spread, and scaled to all."
    if rate is None:
        yield (
            "No past run on this kind of device has the same shape of the base, method, precision and distribution, "
            "so nothing is said about time. Add --measure to train a few steps now."
        )
    if device == "gpu":
        yield "The formulas for GPUs were not compared with a GPU yet; those for CPUs were."
