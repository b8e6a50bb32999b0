"""What fields of a specification demand of each other, of the base model and of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tollgate.errors import Problem
from tollgate.training.backends import LIMITS

if TYPE_CHECKING:
    from tollgate.training.model_shape import ModelShape
    from tollgate.training.spec import TrainingSpec

QUANTIZATION_BLOCK = 64
"""Weights that share a scale in bitsandbytes' 4-bit form (bnb_4bit_blocksize, fixed at 64 by transformers)."""


def contradictions(spec: TrainingSpec, wrong: frozenset[str] = frozenset()) -> list[Problem]:
    """Fields that cannot hold together.

    Args:
        spec: The specification.
        wrong: Fields that hold a stand-in as what was given is wrong by itself; rules that need them are passed over.

    Returns:
        One problem for each rule that does not hold, named after the field to change.
    """
    found = [problem for fields, rule in _RULES if wrong.isdisjoint(fields) and (problem := rule(spec))]
    return [*found, *not_honoured(spec, wrong)]


def not_honoured(spec: TrainingSpec, wrong: frozenset[str] = frozenset()) -> list[Problem]:
    """Fields whose values the specification's backend cannot honour.

    Args:
        spec: The specification.
        wrong: Fields that are not looked at, as what was given is wrong by itself.

    Returns:
        One problem for each such field, with what the backend allows.
    """
    if "backend" in wrong:
        return []
    return [
        Problem(field, repr(value), f"{limit.expected} with the backend {spec.backend}; trl honours every value")
        for field, limit in LIMITS[spec.backend].items()
        if field not in wrong and not limit.honours(value := getattr(spec, field))
    ]


def _gain_needs_patience(spec: TrainingSpec) -> Problem | None:
    if spec.early_stopping_minimum_gain > 0 and spec.early_stopping_patience is None:
        expected = "a number of measurements from 1 to 1000, as early_stopping_minimum_gain is set"
        return Problem("early_stopping_patience", "None", expected)
    return None


def _patience_needs_measurements(spec: TrainingSpec) -> Problem | None:
    if spec.early_stopping_patience is None or spec.max_steps is None or spec.eval_steps <= spec.max_steps:
        return None
    return Problem("eval_steps", str(spec.eval_steps), f"1 to {spec.max_steps} (max_steps), for early stopping to act")


def _warmup_must_warm(spec: TrainingSpec) -> Problem | None:
    if spec.lr_scheduler == "constant_with_warmup" and spec.warmup_fraction == 0:
        return Problem("warmup_fraction", "0", "above 0 and below 1 with constant_with_warmup; else choose constant")
    return None


def _layers_are_named(spec: TrainingSpec) -> Problem | None:
    named = spec.target_modules
    if spec.method == "full" or (named if isinstance(named, str) else all(named) and len(named)):
        return None
    return Problem("target_modules", repr(named), "all-linear, a pattern, or a list of layer names")


def _only_adapters_are_merged(spec: TrainingSpec) -> Problem | None:
    if spec.method != "full" or not spec.is_merged:
        return None
    expected = "adapter; the method full leaves full weights, and only lora and qlora leave an adapter to merge"
    return Problem("serve_adapter_as", repr(spec.serve_adapter_as), expected)


Rule = Callable[["TrainingSpec"], Problem | None]

_RULES: tuple[tuple[tuple[str, ...], Rule], ...] = (
    (("early_stopping_patience", "early_stopping_minimum_gain"), _gain_needs_patience),
    (("early_stopping_patience", "max_steps", "eval_steps"), _patience_needs_measurements),
    (("lr_scheduler", "warmup_fraction"), _warmup_must_warm),
    (("method", "target_modules"), _layers_are_named),
    (("method", "serve_adapter_as"), _only_adapters_are_merged),
)


def base_contradictions(spec: TrainingSpec, shape: ModelShape, device: str, longest: int) -> list[Problem]:
    """Fields that this base model, on this kind of device, cannot bear.

    Args:
        spec: The specification.
        shape: The base model.
        device: ``cpu`` or ``gpu``.
        longest: Tokens of the longest row; positions within a packed sequence begin anew with each row.
    """
    return list(_base_problems(spec, shape, device, longest))


def _base_problems(spec: TrainingSpec, shape: ModelShape, device: str, longest: int) -> Iterator[Problem]:
    if shape.positions and min(spec.max_length, longest) > shape.positions:
        expected = f"8 to {shape.positions}, the base model's positions, as a row has {longest} tokens"
        yield Problem("max_length", str(spec.max_length), expected)
    if spec.method != "full" and not shape.targets(spec.target_modules):
        known = ", ".join(sorted({layer.name.rsplit(".", 1)[-1] for layer in shape.linear}))
        yield Problem("target_modules", repr(spec.target_modules), f"all-linear, or layers of the base: {known}")
    # Measured with bitsandbytes 0.50: its CPU kernels unpack other widths wrongly without a word, with a relative
    # error of 0.25 to 0.5 where it should be 0.09.
    odd = sorted({layer.inputs for layer in shape.linear if layer.inputs % QUANTIZATION_BLOCK})
    if spec.method == "qlora" and device == "cpu" and odd:
        expected = f"lora: on a CPU qlora needs layer widths that are multiples of {QUANTIZATION_BLOCK}, not {odd}"
        yield Problem("method", "'qlora'", expected)


def row_contradictions(spec: TrainingSpec, steps: int, rows: Mapping[str, int]) -> list[Problem]:
    """Fields that do not fit the number of rows.

    Args:
        spec: The specification.
        steps: Optimiser steps of the whole training.
        rows: Rows of the dataset version by part.
    """
    problems = [
        Problem("dataset", f"no rows in its {part} part", "at least 1")
        for part in ("train", "validation")
        if not rows.get(part)
    ]
    if rows.get("train") and spec.processes > rows["train"]:
        expected = f"1 to {rows['train']}, the rows of the training part"
        problems.append(Problem("processes", str(spec.processes), expected))
    if spec.early_stopping_patience is not None and spec.max_steps is None and spec.eval_steps > steps > 0:
        expected = f"1 to {steps}, the steps of this training, for early stopping to act"
        problems.append(Problem("eval_steps", str(spec.eval_steps), expected))
    return problems


def stand_ins(values: Mapping[str, Any], wrong: frozenset[str]) -> dict[str, Any]:
    """The values with those that are wrong replaced, so that rules about the others can still be looked at."""
    paths = dict.fromkeys(("base_model", "dataset", "output"), "/")
    texts = {"job_name": "job", "dataset_reference": "dataset"}
    kept = {name: value for name, value in values.items() if name not in wrong}
    return {**paths, **texts, **kept}
