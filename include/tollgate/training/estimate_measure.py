"""A short real training, so that the first estimate of its kind has a rate to stand on."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tollgate.errors import BadInputError, Problem, TollgateError
from tollgate.settings import PROJECT, Settings
from tollgate.training.estimate import MEASUREMENTS
from tollgate.training.spec import TrainingSpec

STEPS = 8
"""Optimiser steps of a measurement; the first is not counted."""

_VALIDATION_ROWS = 8
_TRAINER = PROJECT / "containers" / "trainer" / "train.py"


def measure(spec: TrainingSpec, settings: Settings, steps: int = STEPS) -> Path:
    """Train a few steps of ``spec`` on rows of its own dataset, and keep what they took.

    Args:
        spec: The job; where it runs on several processes one alone is measured, which says nothing about sharing.
        settings: The interpreter with torch, and the home that keeps the measurement.
        steps: Optimiser steps.

    Returns:
        The measurement's folder, in the form of a job folder without weights and rows.

    Raises:
        BadInputError: There is no interpreter with torch, or several processes are asked for.
        TollgateError: The trainer failed; its last words are in the message.
    """
    python = settings.python_of(spec.backend)
    if not python.is_file():
        problem = Problem("TOLLGATE_ML_PYTHON", str(python), f"an interpreter with torch and {spec.backend}")
        raise BadInputError("Nothing can be measured here.", [problem])
    if spec.processes > 1:
        raise BadInputError("Only one process is measured.", [Problem("processes", str(spec.processes), "1")])
    digest = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:12]
    folder = settings.home / MEASUREMENTS / f"measure-{digest}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    short = _short(spec, folder, steps)
    (folder / "spec.json").write_text(short.model_dump_json(indent=2), encoding="utf-8")
    try:
        _train(folder, python)
    finally:
        for heavy in ("checkpoints", "adapter", "model", "dataset"):
            shutil.rmtree(folder / heavy, ignore_errors=True)
    return folder


def _short(spec: TrainingSpec, folder: Path, steps: int) -> TrainingSpec:
    """The same training of a few steps, over as many rows, drawn at random, as these need."""
    import polars as pl

    dataset = folder / "dataset"
    dataset.mkdir()
    rows = spec.batch_size * spec.gradient_accumulation * steps
    for part, most in (("train", rows * (8 if spec.packing else 1)), ("validation", _VALIDATION_ROWS)):
        found = pl.read_parquet(spec.dataset / f"{part}.parquet", columns=["messages"])
        drawn = found.sample(min(most, found.height), shuffle=True, seed=spec.seed)
        drawn.write_parquet(dataset / f"{part}.parquet")
    changed = {
        "job_name": folder.name,
        "output": folder,
        "dataset": dataset,
        "max_steps": steps,
        "eval_steps": steps + 1,
        "save_steps": steps + 1,
        "early_stopping_patience": None,
        "early_stopping_minimum_gain": 0.0,
        "resume_from": "none",
    }
    return spec.model_copy(update=changed)


def _train(folder: Path, python: Path) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    quiet = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    # The same environment as a job's (plugins/jobs/runtimes.py), which include may not import.
    command = [str(python), str(_TRAINER), str(folder)]
    with (folder / "job.log").open("w", encoding="utf-8") as log:
        done = subprocess.run(
            command, env={**os.environ, **offline, **quiet}, stdout=log, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode or not (folder / "result.json").is_file():
        last = (folder / "job.log").read_text(encoding="utf-8", errors="replace").splitlines()[-10:]
        raise TollgateError("\n".join([f"The measurement ended with {done.returncode}. Its last lines:", *last]))
