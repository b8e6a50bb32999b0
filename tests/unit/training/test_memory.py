"""Memory by part, held to what is known of it without a formula."""

from __future__ import annotations

from typing import Any

import pytest
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
from tollgate.training.spec import parse_spec


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
