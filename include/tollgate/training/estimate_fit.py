"""Settings with which a job would fit, found by trying: those first that change the training least."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tollgate.errors import BadInputError
from tollgate.training.memory import Device, checkpoints_activations
from tollgate.training.parsing import parse_spec
from tollgate.training.spec import TrainingSpec

MOST = 3
"""Ways that are shown; more of them would only be stronger."""

SHORTEST = 128
"""No rows are cut below this to make them fit."""

Changes = dict[str, Any]


def settings_that_fit(
    spec: TrainingSpec, fits: Callable[[TrainingSpec], bool], device: Device, gpus: int, longest: int
) -> list[Changes]:
    """Fields of the specification with which it would fit.

    A smaller batch comes with as much more accumulation, so that a step still learns from the same rows; checkpointing
    computes more and changes nothing; zero3 shares the weights among ``gpus``; qlora rounds them; a shorter
    ``max_length`` cuts rows and comes last.

    Args:
        spec: The specification that does not fit.
        fits: Whether a specification does.
        device: Where it runs.
        gpus: How many GPUs there are.
        longest: Tokens of the longest row.

    Returns:
        At most three ways, each the fields to set; none where nothing helps.
    """
    batch, checkpointing = list(_smaller_batches(spec)), list(_checkpointing(spec, device))
    shared, quantized = list(_shared(spec, device, gpus)), list(_lighter_methods(spec))
    shorter = list(_shorter(spec, longest))
    plans: tuple[Sequence[Sequence[Changes]], ...] = (
        (batch,),
        (checkpointing,),
        (checkpointing, batch),
        (shared,),
        (shared, checkpointing, batch),
        (quantized,),
        (quantized, checkpointing, batch),
        (shorter, checkpointing, batch),
        (shorter, quantized, checkpointing, batch),
    )
    found: list[Changes] = []
    for plan in plans:
        changes = _first(spec, plan, fits)
        if changes and not any(earlier.items() <= changes.items() for earlier in found):
            found.append(changes)
        if len(found) == MOST:
            break
    return found


def _first(
    spec: TrainingSpec, plan: Sequence[Sequence[Changes]], fits: Callable[[TrainingSpec], bool]
) -> Changes | None:
    if not all(plan):  # a lever that cannot be pulled: the plan without it is another one
        return None
    for combination in itertools.product(*plan):
        changes = {name: value for part in combination for name, value in part.items()}
        try:
            changed = parse_spec({**spec.model_dump(), **changes})
        except BadInputError:
            continue
        if fits(changed):
            return changes
    return None


def _smaller_batches(spec: TrainingSpec) -> Iterator[Changes]:
    rows = spec.batch_size * spec.gradient_accumulation
    for size in range(spec.batch_size - 1, 0, -1):
        if rows % size == 0 and rows // size <= 4096:
            yield {"batch_size": size, "gradient_accumulation": rows // size}


def _checkpointing(spec: TrainingSpec, device: Device) -> Iterator[Changes]:
    if not checkpoints_activations(spec, device):
        yield {"gradient_checkpointing": True}


def _shared(spec: TrainingSpec, device: Device, gpus: int) -> Iterator[Changes]:
    for processes in range(max(2, spec.processes), gpus + 1 if device == "gpu" else 0):
        if (spec.distribution, spec.processes) != ("zero3", processes):
            yield {"distribution": "zero3", "processes": processes}


def _lighter_methods(spec: TrainingSpec) -> Iterator[Changes]:
    if spec.method == "full":
        yield {"method": "lora"}
    if spec.method != "qlora":
        yield {"method": "qlora"}


def _shorter(spec: TrainingSpec, longest: int) -> Iterator[Changes]:
    length = min(spec.max_length, longest) if not spec.packing else spec.max_length
    while (length := length // 2) >= SHORTEST:
        yield {"max_length": length}
