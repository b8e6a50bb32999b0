"""Every backend trains for real, in an environment of its own, and leaves what TRL leaves.

``TOLLGATE_BACKEND_PYTHONS`` names the environments, else ``.venv-<backend>``; without one its tests are skipped.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import polars
import pytest
import yaml
from tests.unit.containers.trainer.trainings import (
    ForkServer,
    error,
    figures,
    launch,
    repeated_differently,
    result,
    said,
    write_spec,
)

from tollgate.serving.adapter import check_adapter
from tollgate.settings import PROJECT, settings
from tollgate.training.backends import LIMITS, BackendName
from tollgate.training.progress import read_progress

IMPORTS = {
    "axolotl": "import os; os.environ['AXOLOTL_DO_NOT_TRACK'] = '1'; "
    "import axolotl.cli.config, axolotl.core.builders, axolotl.core.trainers, axolotl.train",
    "llamafactory": "from trainer.backends.llamafactory import do_without_sound; do_without_sound(); "
    "import llamafactory.data, llamafactory.model, llamafactory.train.sft.trainer",
}
CHECK = """
import sys
from pathlib import Path
from tollgate.errors import BadInputError
from trainer.backends import backend_of
try:
    backend_of(sys.argv[1]).check(Path(sys.argv[2]))
except BadInputError as error:
    sys.exit(f"refused: {error}")
"""
WRONG: dict[str, tuple[dict[str, object], str]] = {
    "axolotl": ({"lora_alpha": "many"}, "lora_alpha"),
    # Its parser looks at names and at what contradicts each other, not at types; those are the specification's.
    "llamafactory": ({"finetuning_type": "full", "quantization_bit": 4}, "only compatible with the LoRA"),
}
PATIENCE_SECONDS = 900.0
FIGURES = ("loss", "eval_loss", "grad_norm", "learning_rate", "train_loss")


@pytest.fixture(scope="module", params=list(IMPORTS))
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if not settings().python_of(name).exists():
        pytest.skip(f"{settings().python_of(name)} is not there; docs/backends.md tells how to make it")
    return name


@pytest.fixture(scope="module")
def server(backend: str) -> Iterator[ForkServer]:
    server = ForkServer(settings().python_of(backend), IMPORTS[backend])
    yield server
    server.close()


def check(backend: str, configuration: Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(str(PROJECT / name) for name in ("include", "containers"))
    command = [str(settings().python_of(backend)), "-c", CHECK, backend, str(configuration)]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
    )


@pytest.mark.parametrize("method", ["lora", "full", "qlora"])
def test_it_leaves_what_trl_leaves(
    tmp_path: Path,
    server: ForkServer,
    trainings: ForkServer,
    backend: str,
    base_model: Path,
    dataset: Path,
    method: str,
) -> None:
    changes = {"method": method, "warmup_fraction": 0.5}
    theirs = write_spec(tmp_path / "theirs", base_model, dataset, backend=backend, **changes)
    assert server.run(theirs) == 0, said(theirs)
    trl = write_spec(tmp_path / "trl", base_model, dataset, **changes)
    assert trainings.run(trl) == 0, said(trl)
    assert set(result(theirs)) == set(result(trl))
    same = ("status", "method", "steps", "saved_step", "trainable_parameters")
    assert {name: result(theirs)[name] for name in same} == {name: result(trl)[name] for name in same}
    assert (theirs / Path(result(theirs)["weights_path"]).name).is_dir()
    if method != "full":
        assert check_adapter(theirs / "adapter", base_model, max_rank=4).rank == 4
    found = read_progress(theirs / "progress.jsonl")
    assert [point.step for point in found.series("loss")] == [1, 2, 3, 4, 5, 6]
    assert [point.step for point in found.series("eval_loss")] == [3, 6]
    assert found.newest("tokens_per_second")
    mlflow_takes = re.compile(r"[\w./ -]+")
    assert all(mlflow_takes.fullmatch(name) for name in [*found.points, *result(theirs)["metrics"]])
    # The same rows by the same template, learned by the same rule: the same loss, but for what dice there are.
    ours = read_progress(trl / "progress.jsonl")
    for name in ("learning_rate", "eval_loss"):
        values = [[point.value for point in run.series(name)] for run in (found, ours)]
        assert values[0] == pytest.approx(values[1], rel=0.02)


@pytest.mark.parametrize("packing", [False, True])
def test_killed_and_stopped_in_between_it_goes_on_to_the_last_digit(
    tmp_path: Path, server: ForkServer, backend: BackendName, base_model: Path, dataset: Path, packing: bool
) -> None:
    if packing and "packing" in LIMITS[backend]:
        pytest.skip(f"{backend} packs no rows (docs/backends.md says why)")
    steps = {"max_steps": 24, "save_steps": 5, "eval_steps": 7, "logging_steps": 3, "packing": packing}
    settings = {"backend": backend, "lora_dropout": 0.2, "gradient_accumulation": 2, "max_length": 256, **steps}
    whole = write_spec(tmp_path / "whole", base_model, dataset, **settings)
    assert server.run(whole) == 0, said(whole)
    cut = write_spec(tmp_path / "cut", base_model, dataset, **settings)
    training = server.start(cut)
    training.wait_for_step(6)
    training.signal(signal.SIGKILL)
    assert training.wait() == -signal.SIGKILL
    training = server.start(cut)
    training.wait_for_step(12)
    training.signal(signal.SIGTERM)
    assert training.wait() == 10, said(cut)
    assert not (cut / "error.json").exists()
    assert server.run(cut) == 0, said(cut)
    assert figures(cut, *FIGURES) == figures(whole, *FIGURES)
    assert repeated_differently(cut, "loss") == []


def test_packed_rows_have_the_losses_and_gradients_that_they_have_alone(
    tmp_path: Path, server: ForkServer, backend: BackendName, base_model: Path, dataset: Path
) -> None:
    """All rows are in the first step, so nothing depends on which of them share a sequence, unless they see others.

    All weights are trained, as an adapter begins with random ones, and packing may draw random numbers before them.
    """
    if "packing" in LIMITS[backend]:
        pytest.skip(f"{backend} packs no rows (docs/backends.md says why)")
    found = {}
    sizes = {"max_steps": 1, "batch_size": 64, "max_length": 256, "eval_steps": 1}
    for packing in (False, True):
        changes = {"packing": packing, "method": "full", **sizes}
        job = write_spec(tmp_path / f"{packing}", base_model, dataset, backend=backend, **changes)
        assert server.run(job) == 0, said(job)
        found[packing] = job
    names = ("loss", "grad_norm", "eval_loss")
    assert figures(found[True], *names) == pytest.approx(figures(found[False], *names), rel=1e-4)
    tokens = [result(found[packing])["measured"]["tokens"] for packing in (False, True)]
    assert tokens[0] != tokens[1], "nothing was packed"
    [rate] = read_progress(found[True] / "progress.jsonl").series("tokens_per_second")
    assert rate.value > 0


@pytest.mark.parametrize("killed", [False, True])
def test_nothing_is_left_in_the_systems_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, base_model: Path, dataset: Path, killed: bool
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    job = write_spec(tmp_path / "job", base_model, dataset, backend=backend, max_steps=400 if killed else 2)
    training = launch(settings().python_of(backend), job)
    if killed:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not figures(job, "loss"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        training.kill()
    output, _ = training.communicate(timeout=PATIENCE_SECONDS)
    assert training.returncode == (-signal.SIGKILL if killed else 0), output
    assert list(temporary.iterdir()) == []
    assert (job / "scratch").exists() is killed, "what a kill leaves is in the job folder, for the next attempt"


def test_two_processes_train_like_one_with_the_same_global_batch(
    tmp_path: Path, server: ForkServer, backend: BackendName, base_model: Path, dataset: Path
) -> None:
    """Over gloo, in every digit: gradients of the same rows are added up, of two processes or of two passes."""
    if "processes" in LIMITS[backend]:
        pytest.skip(f"{backend} trains in one process only (docs/backends.md says why)")
    alone = write_spec(tmp_path / "alone", base_model, dataset, backend=backend, gradient_accumulation=2)
    assert server.run(alone) == 0, said(alone)
    shared = write_spec(tmp_path / "shared", base_model, dataset, backend=backend, processes=2, distribution="ddp")
    output, _ = launch(settings().python_of(backend), shared).communicate(timeout=PATIENCE_SECONDS)
    assert "4 rows x 1 accumulated x 2 processes = 8 rows" in output
    assert result(shared)["steps"] == result(alone)["steps"] == 6, output
    names = ("loss", "grad_norm", "learning_rate")
    assert figures(shared, *names) == figures(alone, *names)
    # Means of two halves of the validation part are added up in another order.
    assert figures(shared, "eval_loss") == pytest.approx(figures(alone, "eval_loss"), rel=1e-6, abs=0.0)
    assert check_adapter(shared / "adapter", base_model, max_rank=4).rank == 4


def test_early_stopping_goes_back_to_the_best(
    tmp_path: Path, server: ForkServer, backend: str, base_model: Path, dataset: Path
) -> None:
    job = write_spec(
        tmp_path / "job",
        base_model,
        dataset,
        backend=backend,
        eval_steps=1,
        early_stopping_patience=2,
        early_stopping_minimum_gain=50.0,
    )
    assert server.run(job) == 0, said(job)
    assert result(job)["stopped_early"]
    assert (result(job)["steps"], result(job)["saved_step"]) == (3, 3)


def test_its_own_validator_reads_the_configuration(
    tmp_path: Path, server: ForkServer, backend: str, base_model: Path, dataset: Path
) -> None:
    job = write_spec(tmp_path / "job", base_model, dataset, backend=backend)
    assert server.run(job) == 0, said(job)
    configuration = job / f"{backend}.yaml"
    assert check(backend, configuration).returncode == 0
    wrong, told = WRONG[backend]
    configuration.write_text(yaml.safe_dump(yaml.safe_load(configuration.read_text()) | wrong))
    refused = check(backend, configuration)
    assert refused.returncode == 1
    assert f"refused: The validator of {backend} refuses {backend}.yaml" in refused.stderr
    assert told in refused.stderr


def test_rows_that_it_would_leave_out_are_no_secret(
    tmp_path: Path, server: ForkServer, backend: str, base_model: Path, dataset: Path
) -> None:
    """LLaMA-Factory passes over chats whose turns do not alternate, with a line in its log."""
    if backend != "llamafactory":
        pytest.skip("only LLaMA-Factory leaves out rows without a word in its result")
    folder = tmp_path / "v2"
    folder.mkdir()
    rows = polars.read_parquet(dataset / "train.parquet")["messages"].to_list()
    rows[3] = [{"role": "user", "content": "여보세요?"}, *rows[3]]
    polars.DataFrame({"messages": rows}).write_parquet(folder / "train.parquet")
    polars.read_parquet(dataset / "validation.parquet").write_parquet(folder / "validation.parquet")
    job = write_spec(tmp_path / "job", base_model, folder, backend=backend)
    assert server.run(job) == 2, said(job)
    assert "leaves out 1 of the 64 rows" in error(job)["message"]


@pytest.mark.parametrize("name", list(IMPORTS))
def test_an_environment_without_the_library_says_so(
    tmp_path: Path, trainings: ForkServer, base_model: Path, dataset: Path, name: str
) -> None:
    job = write_spec(tmp_path / "job", base_model, dataset, backend=name)
    assert trainings.run(job) == 2, said(job)
    assert f"{name} is not installed" in error(job)["message"]
    assert json.loads((job / "error.json").read_text())["kind"] == "bad_specification"
