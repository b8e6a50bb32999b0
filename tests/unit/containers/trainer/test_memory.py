"""What a real run measures of itself, and that the estimate counts what the run counted."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.unit.containers.trainer.trainings import launch, write_spec

from tollgate.settings import Settings
from tollgate.training.estimate import estimate
from tollgate.training.estimate_measure import measure
from tollgate.training.model_shape import read_shape
from tollgate.training.parsing import parse_spec

STEPS = 16


@pytest.fixture
def trained(tmp_path: Path, ml_python: Path, base_model: Path, dataset: Path) -> tuple[Path, dict[str, Any]]:
    """One whole epoch: 64 rows, 4 at a time."""
    folder = write_spec(tmp_path / "jobs" / "one", base_model, dataset, max_steps=STEPS, save_steps=100)
    output, _ = launch(ml_python, folder).communicate(timeout=300)
    assert (folder / "result.json").exists(), output
    return folder, json.loads((folder / "result.json").read_text(encoding="utf-8"))


def test_a_run_measures_itself_and_the_estimate_agrees_with_what_it_counted(tmp_path, trained, base_model):
    folder, result = trained
    measured = result["measured"]
    assert (measured["device"], measured["steps"], measured["passes"]) == ("cpu", STEPS - 1, STEPS - 1)
    assert len(measured["samples"]) == STEPS - 1
    assert measured["seconds_per_step"] * (STEPS - 1) == pytest.approx(measured["seconds"], rel=1e-3)
    assert measured["peak_memory_bytes"] > measured["framework_bytes"] > 10**8

    spec = parse_spec(json.loads((folder / "spec.json").read_text()))
    found = estimate(spec, Settings(home=tmp_path))
    assert found.total_parameters == result["total_parameters"]
    assert found.trainable_parameters == result["trainable_parameters"]
    assert found.time is not None
    assert found.time.rows_counted == 64
    assert found.time.computed_tokens_per_step == pytest.approx(measured["tokens"] / measured["steps"], rel=0.02)
    assert found.time.measured_by == ("one",)
    assert found.time.cpu_seconds_per_step == pytest.approx(measured["cpu_seconds_per_step"], rel=0.1)
    assert read_shape(base_model).linear_parameters > 0


def test_rows_are_as_long_as_transformers_makes_them(ml_python, base_model, dataset):
    from tollgate.training.estimate_tokens import row_lengths

    script = (
        "import sys, json, pandas; from transformers import AutoTokenizer;"
        "t = AutoTokenizer.from_pretrained(sys.argv[1]);"
        "rows = pandas.read_parquet(sys.argv[2])['messages'];"
        "print(json.dumps([len(t.apply_chat_template(list(row), return_dict=True)['input_ids']) for row in rows]))"
    )
    command = [ml_python, "-c", script, base_model, dataset / "train.parquet"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=200)
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert row_lengths(dataset / "train.parquet", base_model).tokens.tolist() == theirs


def test_a_measurement_gives_the_first_estimate_its_rate(tmp_path, ml_python, base_model, dataset):
    folder = write_spec(tmp_path / "asked", base_model, dataset, max_steps=None, epochs=10, batch_size=2)
    spec = parse_spec(json.loads((folder / "spec.json").read_text()))
    home = Settings(home=tmp_path / "home", ml_python=ml_python)
    before = estimate(spec, home).time
    assert before is not None
    assert before.total_seconds is None
    kept = measure(spec, home, steps=3)
    assert sorted(path.name for path in kept.iterdir()) == ["job.log", "progress.jsonl", "result.json", "spec.json"]
    time = estimate(spec, home).time
    assert time is not None
    assert time.measured_by == (kept.name,)
    assert time.steps == 320
    assert time.total_seconds is not None
    assert time.total_seconds > 320 * 0.9 * (time.seconds_per_step or 1)
