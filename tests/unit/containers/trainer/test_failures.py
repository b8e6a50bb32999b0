"""A full disk and a full memory end a training cleanly, and say what to do."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import polars
import pytest
from tests.unit.containers.trainer.trainings import ForkServer, error, figures, said, write_spec

from tollgate.training.checkpoint_files import whole_checkpoints
from tollgate.training.parsing import parse_spec
from trainer.failures import explain, is_disk_full, memory_advice

DISK_BYTES = 600_000
ROOM_BYTES = 100_000_000


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system with room for two checkpoints and a half."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"a small file system can't be mounted here: {mounted.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_keeps_the_last_whole_checkpoint_and_is_gone_on_from(
    small_disk: Path, trainings: ForkServer, base_model: Path, dataset: Path
) -> None:
    folder = write_spec(small_disk / "job", base_model, dataset, max_steps=20, save_steps=2, checkpoints_kept=20)
    assert trainings.run(folder) == 1, said(folder)
    assert error(folder)["kind"] == "disk_full"
    assert "checkpoint" in error(folder)["message"]
    assert "Free space" in error(folder)["advice"]
    whole = whole_checkpoints(folder / "checkpoints")
    assert whole
    assert sorted((folder / "checkpoints").glob("checkpoint-*")) == sorted(whole), "a half one stayed"
    assert not (folder / "checkpoints" / ".writing").exists()
    write_spec(folder, base_model, dataset, max_steps=20, save_steps=2, checkpoints_kept=1)
    (folder / "error.json").unlink()
    for path in whole[:-1]:
        subprocess.run(["rm", "-r", path], check=True)
    assert trainings.run(folder) == 0, said(folder)
    assert f"Resuming from {whole[-1].name}." in said(folder)


def test_a_disk_that_others_fill_leaves_room_to_say_so(
    small_disk: Path, trainings: ForkServer, base_model: Path, dataset: Path
) -> None:
    folder = write_spec(small_disk / "job", base_model, dataset, max_steps=500, save_steps=500, eval_steps=500)
    training = trainings.start(folder)
    training.wait_for_step(1)
    with contextlib.suppress(OSError), (small_disk / "other").open("wb", buffering=0) as other:
        while other.write(bytes(1024)):
            pass
    assert training.wait() == 1, said(folder)
    assert error(folder)["kind"] == "disk_full"


def test_a_host_without_memory_says_what_to_lower(tmp_path: Path, trainings: ForkServer, base_model: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    turns = [{"role": "user", "content": "a" * 6000}, {"role": "assistant", "content": "b" * 6000}]
    for part in ("train", "validation"):
        polars.DataFrame({"messages": [turns] * 8}).write_parquet(data / f"{part}.parquet")
    folder = write_spec(tmp_path / "job", base_model, data, batch_size=8, max_length=12_000, max_steps=2)
    training = trainings.start(folder)
    training.wait_until(lambda: "Training test-job" in said(folder))
    used = int((Path(f"/proc/{training.pid}/statm").read_text()).split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.prlimit(training.pid, resource.RLIMIT_AS, (used + ROOM_BYTES, used + ROOM_BYTES))
    assert training.wait() == 1, said(folder)
    assert figures(folder, "loss") == {}
    assert error(folder)["kind"] == "out_of_memory", said(folder)
    assert "lower batch_size (8)" in error(folder)["advice"]
    assert "lower max_length (12000)" in error(folder)["advice"]


@pytest.mark.parametrize(
    "raised",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:126] DefaultCPUAllocator: can't allocate memory: you tried to ..."
        ),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_every_way_to_lack_memory_is_known(raised: Exception) -> None:
    assert explain(raised, None).kind == "out_of_memory"


def test_other_failures_are_not_taken_for_them(tmp_path: Path) -> None:
    assert explain(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None).kind == "failed"
    assert explain(PermissionError(13, "Permission denied"), None).kind == "failed"
    assert not is_disk_full(RuntimeError("PytorchStreamWriter failed writing file data/0"), tmp_path)
    wrapped = RuntimeError("unexpected pos 64 vs 0")
    wrapped.__cause__ = OSError(28, "No space left on device")
    assert explain(wrapped, None).kind == "disk_full"


def test_the_advice_names_only_what_this_job_can_lower(tmp_path: Path) -> None:
    folder = write_spec(
        tmp_path, tmp_path, tmp_path, batch_size=1, method="qlora", precision="bf16", gradient_checkpointing=False
    )
    spec = parse_spec(json.loads((folder / "spec.json").read_text()))
    advice = memory_advice(spec)
    assert "max_length (128)" in advice
    assert "gradient_checkpointing" in advice
    assert "batch_size" not in advice
    assert "qlora" not in advice
    assert "bf16" not in advice
