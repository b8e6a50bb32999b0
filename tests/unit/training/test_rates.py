"""Rates from past runs: which count, and what is learnt from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.training.example_base import write_base_model
from tests.unit.training.past_run import FRAMEWORK, PER_FLOP, PER_PASS, write_run
from tests.unit.training.test_model_shape import write_qwen3_8b
from tests.unit.training.test_spec import VALUES

from tollgate.training import rates
from tollgate.training.model_shape import read_shape
from tollgate.training.parsing import parse_spec
from tollgate.training.spec import TrainingSpec


@pytest.fixture
def spec(tmp_path: Path) -> TrainingSpec:
    return parse_spec({**VALUES, "base_model": str(write_base_model(tmp_path / "base", hidden=256))})


def rate(tmp_path: Path, spec: TrainingSpec, device: Any = "cpu") -> rates.Rate | None:
    return rates.measured_rate(rates.past_runs([tmp_path / "jobs"]), read_shape(spec.base_model), spec, device)


def test_what_a_pass_and_an_operation_take_is_found_from_the_steps(tmp_path: Path, spec: TrainingSpec) -> None:
    write_run(tmp_path / "jobs", spec, "one")
    found = rate(tmp_path, spec)
    assert found is not None
    assert (found.per_pass, found.per_flop) == (pytest.approx(PER_PASS, rel=0.01), pytest.approx(PER_FLOP, rel=0.01))
    assert (found.runs, found.framework) == (("one",), FRAMEWORK)


def test_another_batch_length_and_rank_follow_from_the_operations(tmp_path: Path, spec: TrainingSpec) -> None:
    write_run(tmp_path / "jobs", spec, "one")
    other = spec.model_copy(update={"batch_size": 32, "lora_rank": 64, "max_length": 512})
    found = rate(tmp_path, other)
    assert found is not None
    flops = rates.operations(read_shape(spec.base_model), other, 32 * 400, 32 * 400**2, "cpu")
    assert found.seconds(3, 3 * flops) == pytest.approx(3 * (PER_PASS + PER_FLOP * flops), rel=0.01)


def test_on_a_shared_cpu_the_clock_is_slower_by_what_others_took(tmp_path: Path, spec: TrainingSpec) -> None:
    write_run(tmp_path / "jobs", spec, "one", busy=0.25)
    found = rate(tmp_path, spec)
    assert found is not None
    assert found.cpu_per_wall == pytest.approx(0.25)
    assert found.per_pass == pytest.approx(4 * PER_PASS, rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [{"method": "full"}, {"precision": "bf16"}, {"distribution": "ddp", "processes": 2}],
)
def test_runs_of_another_kind_say_nothing(tmp_path: Path, spec: TrainingSpec, changes: dict[str, Any]) -> None:
    write_run(tmp_path / "jobs", spec, "one")
    assert rate(tmp_path, parse_spec({**spec.model_dump(), **changes})) is None


def test_runs_on_another_device_or_shape_say_nothing(tmp_path: Path, spec: TrainingSpec) -> None:
    write_run(tmp_path / "jobs", spec, "one")
    assert rate(tmp_path, spec, "gpu") is None
    larger = write_base_model(tmp_path / "larger", hidden=256, layers=3)
    assert rate(tmp_path, spec.model_copy(update={"base_model": larger})) is None


def test_only_runs_on_the_newest_runs_machine_count(tmp_path: Path, spec: TrainingSpec) -> None:
    write_run(tmp_path / "jobs", spec, "old", ended=1, threads=8)
    write_run(tmp_path / "jobs", spec, "new", ended=3)
    write_run(tmp_path / "jobs", spec, "middle", ended=2)
    found = rate(tmp_path, spec)
    assert found is not None
    assert found.runs == ("new", "middle")


def test_runs_that_failed_or_did_not_measure_are_passed_over(tmp_path: Path, spec: TrainingSpec) -> None:
    (write_run(tmp_path / "jobs", spec, "failed") / "result.json").write_text('{"status": "failed"}')
    (write_run(tmp_path / "jobs", spec, "broken") / "spec.json").write_text("{")
    (write_run(tmp_path / "jobs", spec, "earlier") / "result.json").write_text('{"status": "succeeded"}')
    (write_run(tmp_path / "jobs", spec, "list") / "result.json").write_text("[]")
    write_run(tmp_path / "jobs", spec, "gone").joinpath("result.json").unlink()
    assert rate(tmp_path, spec) is None


def test_operations_of_a_known_model(tmp_path: Path) -> None:
    """6 N D for full fine-tuning, 4 N D for LoRA, and 2 N D more with checkpointing, where rows are short."""
    spec = parse_spec({**VALUES, "base_model": str(write_qwen3_8b(tmp_path / "base"))})
    shape = read_shape(spec.base_model)
    head = 2 * shape.vocabulary * shape.hidden * 1000

    def times(device: Any = "cpu", **changes: Any) -> float:
        changed = parse_spec({**spec.model_dump(), **changes})
        return (rates.operations(shape, changed, 1000, 0, device) - head) / (2 * shape.multiplied * 1000)

    assert times(method="full") == pytest.approx(3, rel=0.1)  # the embedding is trained and not multiplied
    assert times(method="lora") == pytest.approx(2, rel=0.02)
    assert times(method="lora", device="gpu") == pytest.approx(3, rel=0.1)
    attention = rates.operations(shape, spec, 0, 2048**2, "cpu")
    assert attention == 36 * 4096 * 2048**2 * 4 * 3, "forward once, backward twice"
    alone = spec.model_copy(update={"batch_size": 1})
    assert rates.operations(shape, alone, 0, 2048**2, "cpu") == attention / 2, "only what the causal mask shows"
