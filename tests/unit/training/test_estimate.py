"""The estimate as a whole: from files to figures, and what cannot fit is refused with what would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.training.example_base import write_base_model
from tests.unit.training.past_run import PER_FLOP, PER_PASS, write_run
from tests.unit.training.test_estimate_tokens import write_rows
from tests.unit.training.test_spec import VALUES

from tollgate.errors import BadInputError
from tollgate.settings import Settings
from tollgate.training.estimate import estimate, what_cannot_run
from tollgate.training.parsing import parse_spec
from tollgate.training.spec import TrainingSpec


@pytest.fixture
def spec(tmp_path: Path) -> TrainingSpec:
    return made(tmp_path)


def made(tmp_path: Path, hidden: int = 256, layers: int = 2, **changes: Any) -> TrainingSpec:
    base = write_base_model(tmp_path / f"base-{hidden}", hidden, layers)
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    write_rows(data / "train.parquet", ["x" * (20 + number % 50) for number in range(100)])
    write_rows(data / "validation.parquet", ["x" * 30] * 10)
    return parse_spec({**VALUES, "base_model": str(base), "dataset": str(data), "batch_size": 8, **changes})


def home(tmp_path: Path, **changes: Any) -> Settings:
    return Settings(home=tmp_path / "home", **changes)


def test_parameters_steps_tokens_and_no_word_about_time_without_a_past_run(tmp_path: Path, spec: TrainingSpec) -> None:
    found = estimate(spec, home(tmp_path))
    trained = 2 * 16 * (2 * (256 + 256) + 2 * (256 + 128) + 3 * (256 + 1024))
    assert found.trainable_parameters == trained
    assert found.trainable_share == pytest.approx(trained / found.total_parameters)
    assert found.time is not None
    assert (found.time.rows, found.time.steps_per_epoch, found.time.steps) == (100, 13, 39)
    assert found.time.tokens_per_epoch == sum(20 + number % 50 + 19 for number in range(100))
    assert (found.time.total_seconds, found.cost) == (None, None)
    assert "--measure" in " ".join(found.notes)
    assert found.memory.fits is True


def test_time_and_cost_from_past_runs(tmp_path: Path, spec: TrainingSpec) -> None:
    settings = home(tmp_path, kwh_price=200.0, device_watts=500.0)
    write_run(settings.jobs, spec, "earlier")
    found = estimate(spec, settings)
    assert found.time is not None
    assert found.time.measured_by == ("earlier",)
    step, total = found.time.seconds_per_step, found.time.total_seconds
    assert step is not None
    assert total is not None
    assert step > PER_PASS
    assert total == pytest.approx(39 * step + (found.time.evaluation_seconds or 0))
    assert found.cost is not None
    assert found.cost.amount == pytest.approx(total / 3600 * 0.5 * 200)
    summed = estimate(spec.model_copy(update={"gradient_accumulation": 4}), settings)
    assert summed.time is not None
    assert summed.time.seconds_per_step == pytest.approx(step * 13 / 4, rel=0.01), "13 passes in 4 steps"


def test_gpu_hours_are_paid_for_every_device(tmp_path: Path, spec: TrainingSpec) -> None:
    settings = home(tmp_path, gpu_ids=[0, 1], gpu_hour_price=3.0, gpu_memory_gb=80)
    several = parse_spec({**spec.model_dump(), "distribution": "ddp", "processes": 2})
    write_run(settings.jobs, several, "earlier", device="gpu")
    found = estimate(several, settings)
    assert found.time is not None
    assert found.time.total_seconds is not None
    assert found.cost is not None
    assert found.cost.amount == pytest.approx(found.time.total_seconds / 3600 * 2 * 3)
    assert PER_FLOP > 0


def refusal(spec: TrainingSpec, settings: Settings) -> str:
    [problem] = what_cannot_run(spec, settings)
    assert problem.where == "memory"
    return str(problem)


def test_what_cannot_fit_is_refused_with_settings_that_do(tmp_path: Path) -> None:
    spec = made(tmp_path, batch_size=64, max_length=4096)
    write_rows(spec.dataset / "train.parquet", ["x" * 3000] * 64)
    settings = home(tmp_path, job_memory="2g")
    told = refusal(spec, settings)
    assert "TOLLGATE_JOB_MEMORY" in told
    ways = estimate(spec, settings).would_fit
    assert ways[0]["batch_size"] * ways[0]["gradient_accumulation"] == 64
    for way in ways:
        assert what_cannot_run(parse_spec({**spec.model_dump(), **way}), settings) == []
    bigger = {"batch_size": ways[0]["batch_size"] * 2, "gradient_accumulation": ways[0]["gradient_accumulation"] // 2}
    assert what_cannot_run(spec.model_copy(update=bigger), settings), "the largest batch that fits was chosen"
    assert what_cannot_run(spec, settings.model_copy(update={"memory_check": "warn"})) == []


def test_a_model_that_is_too_large_for_a_gpu_is_offered_4_bits_or_more_devices(tmp_path: Path) -> None:
    spec = made(tmp_path, hidden=4096, layers=24, precision="bf16", batch_size=1)
    alone = estimate(spec, home(tmp_path, gpu_ids=[0], gpu_memory_gb=8)).would_fit
    assert {"method": "qlora"} in alone
    several = estimate(spec, home(tmp_path, gpu_ids=[0, 1, 2, 3], gpu_memory_gb=8)).would_fit
    assert any(way.get("distribution") == "zero3" and way["processes"] <= 4 for way in several)
    assert all(way.get("distribution") != "zero3" for way in alone)


def test_merging_needs_the_host_s_memory_and_disk_and_none_of_a_gpu(tmp_path: Path) -> None:
    spec = made(tmp_path, method="qlora")
    merged = parse_spec({**spec.model_dump(), "serve_adapter_as": "merged"})
    settings = home(tmp_path, gpu_ids=[0], gpu_memory_gb=24)
    assert estimate(spec, settings).merging is None
    found = estimate(merged, settings)
    assert found.memory == estimate(spec, settings).memory
    assert found.merging is not None
    assert found.merging.disk == sum(path.stat().st_size for path in spec.base_model.glob("*.safetensors"))
    assert found.merging.memory > 2 * found.merging.disk
    needed = found.merging.memory
    tight = home(tmp_path, gpu_ids=[0], gpu_memory_gb=24, job_memory=f"{needed - 1}b")
    assert estimate(merged, tight).fits is False
    assert what_cannot_run(spec, tight) == []
    [problem] = what_cannot_run(merged, tight)
    assert problem.where == "serve_adapter_as"
    assert "TOLLGATE_JOB_MEMORY" in problem.expected
    assert what_cannot_run(merged, tight.model_copy(update={"memory_check": "warn"})) == []


def test_where_nothing_helps_it_says_so(tmp_path: Path, spec: TrainingSpec) -> None:
    assert "a smaller base model" in refusal(spec, home(tmp_path, job_memory="10m"))


def test_a_gpu_whose_memory_nobody_told_is_not_compared(tmp_path: Path, spec: TrainingSpec) -> None:
    settings = home(tmp_path, gpu_ids=[0])
    assert estimate(spec, settings).memory.fits is None
    assert what_cannot_run(spec, settings) == []


def test_a_job_without_a_gpu_is_held_to_the_hosts_memory_also_beside_gpus(tmp_path: Path, spec: TrainingSpec) -> None:
    small_gpu = home(tmp_path, gpu_ids=[0], gpu_memory_gb=0.01, job_memory="2g")
    assert "TOLLGATE_GPU_MEMORY_GB" in refusal(spec, small_gpu)
    assert what_cannot_run(spec, small_gpu, "cpu") == []
    small_host = home(tmp_path, gpu_ids=[0], gpu_memory_gb=80, job_memory="10m")
    assert what_cannot_run(spec, small_host, "gpu") == []
    [problem] = what_cannot_run(spec, small_host, "cpu")
    assert "TOLLGATE_JOB_MEMORY" in str(problem)


def test_processes_on_a_cpu_share_the_jobs_memory(tmp_path: Path, spec: TrainingSpec) -> None:
    settings = home(tmp_path, job_memory="2g")
    assert what_cannot_run(spec, settings) == []
    several = parse_spec({**spec.model_dump(), "distribution": "ddp", "processes": 4})
    assert "memory" in [problem.where for problem in what_cannot_run(several, settings)]


def test_without_a_tokenizer_memory_is_that_of_max_length(tmp_path: Path, spec: TrainingSpec) -> None:
    with_one = estimate(spec, home(tmp_path))
    (spec.base_model / "tokenizer.json").unlink()
    found = estimate(spec, home(tmp_path))
    assert found.time is None
    assert found.memory.parts["activations"] > 10 * with_one.memory.parts["activations"]
    assert "no tokenizer.json" in found.notes[0]


def test_a_base_or_dataset_that_cannot_be_read_is_a_problem(tmp_path: Path, spec: TrainingSpec) -> None:
    (spec.dataset / "train.parquet").write_bytes(b"no parquet")
    assert [problem.where for problem in what_cannot_run(spec, home(tmp_path))] == ["dataset"]
    with pytest.raises(BadInputError):
        estimate(spec, home(tmp_path))


def test_a_base_that_names_its_sizes_otherwise_is_not_refused_for_it(tmp_path: Path, spec: TrainingSpec) -> None:
    (spec.base_model / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"], "n_embd": 16}')
    assert what_cannot_run(spec, home(tmp_path)) == []
    with pytest.raises(BadInputError, match="hidden_size"):
        estimate(spec, home(tmp_path))


def test_the_estimate_is_json(tmp_path: Path, spec: TrainingSpec) -> None:
    found = json.loads(estimate(spec, home(tmp_path)).model_dump_json())
    assert found["memory"]["parts"]["weights"] > 0
