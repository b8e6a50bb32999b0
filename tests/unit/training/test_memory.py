"""Memory by part, held to what is known of it without a formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.training.example_base import write_base_model
from tests.unit.training.test_model_shape import write_qwen3_8b
from tests.unit.training.test_spec import VALUES

from tollgate.training.memory import (
    CPU_SPREAD,
    GPU_FRAGMENTATION,
    GPU_FRAMEWORK_BYTES,
    Lengths,
    Memory,
    estimate_memory,
)
from tollgate.training.model_shape import ModelShape, read_shape
from tollgate.training.parsing import parse_spec


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelShape:
    return read_shape(write_qwen3_8b(tmp_path_factory.mktemp("qwen3-8b")))


def memory(base: ModelShape, device: Any = "gpu", longest: int = 2048, **changes: Any) -> Memory:
    spec = parse_spec({**VALUES, "precision": "bf16", "batch_size": 4, **changes})
    return estimate_memory(base, spec, Lengths(longest, 16), device)


def test_weights_and_states_of_each_method(base: ModelShape) -> None:
    total, trained = base.parameters, base.adapter_parameters(16, "all-linear")
    full, lora, qlora = (memory(base, method=method) for method in ("full", "lora", "qlora"))
    assert (full.weights, full.adapter, full.gradients, full.optimizer) == (2 * total, 0, 2 * total, 4 * total)
    assert (lora.weights, lora.adapter, lora.optimizer) == (2 * total, 4 * trained, 8 * trained)
    rest = total - base.linear_parameters
    assert qlora.weights == pytest.approx(2 * rest + base.linear_parameters * 4.127 / 8)
    assert qlora.adapter == 2 * trained
    assert full.peak > lora.peak > qlora.peak


def test_full_fine_tuning_with_zero_takes_16_bytes_a_parameter_over_the_devices(base: ModelShape) -> None:
    """Rajbhandari et al. 2020, table 1: (2 + 2 + K) bytes with K = 12, shared as far as the stage says."""
    states = {}
    for stage in ("zero2", "zero3"):
        found = memory(base, method="full", distribution=stage, processes=8)
        states[stage] = (found.weights + found.gradients + found.optimizer) / base.parameters
    assert states["zero2"] == pytest.approx(2 + 14 / 8)
    assert states["zero3"] == pytest.approx(16 / 8)


def test_a_copy_on_each_device_shares_nothing_and_fsdp_shares_all(base: ModelShape) -> None:
    alone = memory(base, method="full")
    copies = memory(base, method="full", distribution="ddp", processes=4)
    assert (copies.weights, copies.optimizer) == (alone.weights, alone.optimizer)
    assert copies.gradients == 2 * alone.gradients
    shared = memory(base, method="full", distribution="fsdp", processes=4)
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(shared, part) == pytest.approx(getattr(alone, part) / 4)


def test_activations_grow_with_rows_and_length_and_checkpointing_keeps_the_inputs_of_blocks(base: ModelShape) -> None:
    kept = memory(base, gradient_checkpointing=False)
    assert memory(base, gradient_checkpointing=False, batch_size=8).activations == pytest.approx(2 * kept.activations)
    assert memory(base, gradient_checkpointing=False, longest=1024).activations == pytest.approx(kept.activations / 2)
    again = memory(base, gradient_checkpointing=True)
    assert again.activations < kept.activations / 10
    assert memory(base).activations == again.activations, "on a GPU unless told"
    assert memory(base, "cpu").activations == pytest.approx(CPU_SPREAD * kept.activations)
    inputs = 36 * 4 * 2048 * 4096 * 2
    assert inputs < again.activations < 2.2 * inputs


def test_packed_sequences_are_full_and_other_rows_as_long_as_the_longest(base: ModelShape) -> None:
    short = memory(base, longest=100)
    assert memory(base, longest=100, packing=True).activations > 10 * short.activations
    assert memory(base, longest=9000).activations == memory(base, longest=2048).activations, "cut at max_length"


def test_the_peak_counts_gradients_beside_activations_only_where_both_are_there(base: ModelShape) -> None:
    changes: dict[str, Any] = {"method": "full", "gradient_checkpointing": True}
    once, summed = memory(base, **changes), memory(base, **changes, gradient_accumulation=2)
    states = once.weights + once.optimizer
    passing = once.activations + once.logits + once.workspace
    rest = GPU_FRAMEWORK_BYTES
    assert once.peak == pytest.approx(rest + (states + max(once.gradients, passing)) * GPU_FRAGMENTATION)
    assert summed.peak == pytest.approx(rest + (states + once.gradients + passing) * GPU_FRAGMENTATION)


def test_a_large_validation_batch_may_be_what_counts(base: ModelShape) -> None:
    spec = parse_spec({**VALUES, "precision": "bf16", "batch_size": 1})
    found = estimate_memory(base, spec, Lengths(16, 2048), "gpu")
    assert found.phase == "evaluation"
    assert found.peak > estimate_memory(base, spec, Lengths(16, 16), "gpu").peak


# Measured with the trainer on 2 cores: bases of random weights (width, blocks, heads, key and value heads, width of a
# head, of the MLP, vocabulary), six steps with adapters of rank 16 on every linear layer and a validation. Framework
# and peak in 10^6 bytes resident (VmRSS when training begins, less the model; VmHWM).
Base = tuple[int, int, int, int, int, int, int]
TINY, SMALL = (192, 2, 6, 3, 32, 576, 2048), (384, 6, 6, 3, 64, 1152, 8192)
MEASURED: list[tuple[Base, str, int, Lengths, int, int]] = [
    ((64, 4, 2, 2, 32, 192, 1024), "qlora", 8, Lengths(693, 522, 12), 502, 1033),
    (TINY, "qlora", 16, Lengths(161, 121, 12), 465, 885),
    (TINY, "qlora", 4, Lengths(153, 157, 64), 476, 821),
    ((256, 8, 4, 2, 64, 768, 4096), "qlora", 2, Lengths(693, 522, 12), 506, 1457),
    (SMALL, "qlora", 4, Lengths(161, 121, 12), 500, 973),
    (SMALL, "qlora", 4, Lengths(693, 522, 12), 535, 2143),
    (SMALL, "qlora", 4, Lengths(740, 655, 64), 558, 2365),
    ((512, 6, 8, 4, 64, 1536, 8192), "qlora", 1, Lengths(161, 121, 12), 557, 998),
    (SMALL, "lora", 4, Lengths(740, 655, 64), 441, 2001),
]


def shape_of(sizes: Base, folder: Path) -> ModelShape:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    config = dict(zip((*names, "intermediate_size", "vocab_size"), sizes, strict=True))
    return read_shape(write_base_model(folder, config["hidden_size"], config["num_hidden_layers"], **config))


@pytest.mark.parametrize(("sizes", "method", "batch_size", "lengths", "framework", "peak"), MEASURED)
def test_peaks_on_a_cpu_are_within_15_per_cent_of_those_measured(
    tmp_path: Path, sizes: Base, method: str, batch_size: int, lengths: Lengths, framework: int, peak: int
) -> None:
    base = shape_of(sizes, tmp_path)
    spec = parse_spec({**VALUES, "method": method, "batch_size": batch_size, "max_length": 1024})
    found = estimate_memory(base, spec, lengths, "cpu", framework * 10**6)
    assert found.peak == pytest.approx(peak * 10**6, rel=0.15)


def test_a_validation_batch_has_no_more_rows_than_the_validation_part(tmp_path: Path) -> None:
    spec, small = parse_spec({**VALUES, "batch_size": 1}), shape_of(SMALL, tmp_path)
    few, many, unknown = (estimate_memory(small, spec, Lengths(16, 655, rows), "cpu") for rows in (2, 500, None))
    assert few.peak < many.peak == unknown.peak


def test_what_training_leaves_is_there_while_a_cpu_validates(tmp_path: Path) -> None:
    spec, small = parse_spec({**VALUES, "batch_size": 1}), shape_of(SMALL, tmp_path)
    short, long = (estimate_memory(small, spec, Lengths(tokens, 655), "cpu") for tokens in (16, 512))
    assert short.phase == long.phase == "evaluation"
    assert long.peak - short.peak == pytest.approx(long.activations - short.activations, abs=2)
