"""How fast training is, as a table and as ``build/bench/training.json``.

    make bench-training         on a CPU: our overhead, and how far estimates are off; on a GPU: tokens a second
    make bench-training BENCH_SCALE=0.3     fewer steps

On a CPU our container's entry point trains a small model beside a bare TRL script with the same settings on the same
rows: as many steps, one evaluation and one checkpoint at the end, one thread, fp32, nothing tokenized by an earlier
run; where losses differ in a digit or another number of checkpoints is left, nothing is compared. Compared are the
processor seconds of ``Trainer.train``, so of our callbacks, progress, checkpoint and log, too, and of the whole
programs without imports. Runs alternate (ours, bare, ours, bare, ...), and the least of each kind counts, since
whatever else the machine does only adds. How far the bare script's own runs lie apart says what a difference is worth.

On a GPU bases of random weights in the shapes of Qwen3-8B and Qwen3-1.7B are trained in bf16 with packing to 2,048
tokens, beside TRL's default settings. Model FLOP use counts what the model needs, not what is computed twice
(Chowdhery et al. 2022, arXiv:2204.02311, appendix B), against the device's published dense bf16 rate.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
from tests.performance.tables import Row, machine, publish, row

from tollgate.settings import PROJECT, settings
from tollgate.training import rates
from tollgate.training.estimate import estimate
from tollgate.training.estimate_measure import measure
from tollgate.training.model_shape import read_shape
from tollgate.training.parsing import parse_spec
from tollgate.training.spec import TrainingSpec

TARGET = Path("build/bench/training.json")
MOST_OVERHEAD = 5.0
"""Per cent of processor time over a bare TRL script."""

MOST_OFF = 15.0
"""Per cent that an estimate may be off, of a step's time on a CPU and of the peak memory."""

LEAST_TOKENS = 14_000
"""Tokens a second of Qwen3-8B with LoRA on one H200."""

PEER = "bare TRL script"
PAIRS, STEPS = 5, 40
ESTIMATES = 3
DONE = ("trained_steps", "threads", "dtypes", "losses", "eval_losses", "checkpoints")
"""In what runs must agree, to the last digit, to be compared."""

GPU_STEPS = 20
LENGTH = 2048
ROW_TOKENS = 700
"""About, of the rows that are packed: attention stays within them."""

_BF16_FLOPS = {"H200": 989e12, "H100 NVL": 835e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12}
"""Dense bf16 rates from the data sheets, by what the device's name contains; the first that does."""

_TINY = {
    "vocab_size": 2048,
    "hidden_size": 192,
    "intermediate_size": 576,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
_SMALL = {**_TINY, "hidden_size": 384, "intermediate_size": 1152, "num_hidden_layers": 6}
_QWEN3 = {"vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960}
_SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3-8B": {
        **_QWEN3,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    },
    "Qwen3-1.7B": {
        **_QWEN3,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    },
}
_GPU_RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Qwen3-8B, LoRA r=16": ("Qwen3-8B", "ours", {"method": "lora", "batch_size": 4}),
    "Qwen3-8B, LoRA r=16, TRL's defaults": ("Qwen3-8B", "default", {"method": "lora"}),
    "Qwen3-1.7B, QLoRA r=16": ("Qwen3-1.7B", "ours", {"method": "qlora", "batch_size": 8}),
    "Qwen3-1.7B, full": ("Qwen3-1.7B", "ours", {"method": "full", "batch_size": 8}),
}


def overhead(folder: Path, scale: float) -> list[Row]:
    """Processor seconds of our loop and program over those of a bare script's, of alternating runs."""
    base, data = _base(folder, "tiny", _TINY), _rows(folder / "data", rows=400, words=12)
    steps = max(5, round(STEPS * scale))
    words: list[str] = []
    for number in range(PAIRS):
        for kind in ("ours", "same"):
            job = _job(folder / f"{kind}-{number}", base, data, max_steps=steps, batch_size=4, max_length=256)
            words += [kind, str(job)]
    _train(words, {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})
    took = {kind: [_loop(folder / f"{kind}-{number}") for number in range(PAIRS)] for kind in ("ours", "same")}
    loops = [*took["ours"], *took["same"]]
    if not all(loops):
        return [row("training on a CPU: a run failed", ok=False)]
    differing = [name for name in DONE if any(loop[name] != loops[0][name] for loop in loops)]
    if differing:
        return [row(f"training on a CPU: the runs differ in {', '.join(differing)}", ok=False)]
    return [
        *_compared(f"training loop on a CPU, {steps} steps", "cpu", took["ours"], took["same"]),
        *_compared("the whole program, without imports", "program_cpu", took["ours"], took["same"]),
    ]


def _compared(name: str, clock: str, ours: list[dict[str, Any]], bare: list[dict[str, Any]]) -> list[Row]:
    """The least of ours, the least and the spread of the bare script's, and how much more ours takes."""
    mine, theirs = sorted(loop[clock] for loop in ours), sorted(loop[clock] for loop in bare)
    more, spread = (mine[0] / theirs[0] - 1) * 100, (theirs[-1] / theirs[0] - 1) * 100
    middle = (statistics.median(mine) / statistics.median(theirs) - 1) * 100
    return [
        row(name, round(mine[0], 3), "CPU s", peer=PEER, ratio=round(mine[0] / theirs[0], 3)),
        row(f"... the peer's, least of {PAIRS}", round(theirs[0], 3), "CPU s"),
        row("... the peer's own spread, most over least", round(spread, 2), "%"),
        row("... overhead of the medians", round(middle, 2), "%", peer=PEER),
        row("... overhead", round(more, 2), "%", peer=PEER, must=MOST_OVERHEAD, ok=more <= MOST_OVERHEAD),
    ]


def estimated(folder: Path, scale: float) -> list[Row]:
    """How far ``tollgate estimate`` is off, from a measurement of a few steps, for a longer training of other sizes.

    A step's processor seconds, as others on this machine make the clock's differ several-fold, and the peak memory.
    """
    base, data = _base(folder, "small", _SMALL), _rows(folder / "data", rows=400, words=12)
    here = settings().model_copy(update={"home": folder / "home", "gpu_ids": []})
    rows: list[Row] = []
    steps = max(5, round(STEPS * scale))
    for method in ("lora", "full"):
        found: list[dict[str, Any]] = []
        for seed in range(ESTIMATES):  # measurements and runs alternate: the machine's own speed changes
            same = {"method": method, "max_length": 256, "seed": seed}
            measure(_spec_of(_job(folder / f"{method}-short-{seed}", base, data, batch_size=4, **same)), here)
            job = _job(folder / f"{method}-job-{seed}", base, data, batch_size=8, max_steps=steps, **same)
            _train_here(job)
            found.append(json.loads((job / "result.json").read_text())["measured"])
        expected = estimate(_spec_of(job), here, "cpu")
        told = expected.time.cpu_seconds_per_step if expected.time else None
        took = statistics.mean(one["cpu_seconds_per_step"] for one in found)
        rows += _off(f"a step, {method}, estimated from {ESTIMATES} measurements", "CPU s", told, took)
        most = max(one["peak_memory_bytes"] for one in found)
        rows += _off(f"peak memory, {method}, estimated", "bytes", expected.memory.peak, most)
    return rows


def _off(name: str, unit: str, told: float | None, found: float) -> list[Row]:
    if told is None:
        return [row(f"{name}: nothing", ok=False)]
    off = (told / found - 1) * 100
    return [
        row(name, float(f"{told:.4g}"), unit, peer=f"{ESTIMATES} such runs", ratio=round(told / found, 3)),
        row("... off by", round(off, 1), "%", must=MOST_OFF, ok=abs(off) <= MOST_OFF),
    ]


def _spec_of(job: Path) -> TrainingSpec:
    return parse_spec(json.loads((job / "spec.json").read_text()))


def _train_here(job: Path) -> None:
    command = [str(settings().ml_python), str(PROJECT / "containers" / "trainer" / "train.py"), str(job)]
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE"}
    environment = {**os.environ, **offline}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def on_gpu(folder: Path, scale: float) -> list[Row]:
    """Tokens a second, model FLOP use and memory of each run; where there is no GPU the rows say so."""
    if not _gpu_name():
        return [row(f"{name}: no GPU") for name in _GPU_RUNS]
    data = _rows(folder / "data", rows=4_000, words=60)
    found: list[Row] = []
    default: dict[str, float] = {}
    for name, (shape, kind, changes) in reversed(_GPU_RUNS.items()):  # a peer stands behind the run it is beside
        base = _base(folder, shape, dict(_SHAPES[shape]))
        steps = max(4, round(GPU_STEPS * scale))
        settings_ = {"precision": "bf16", "packing": True, "lora_rank": 16, "max_length": LENGTH, "max_steps": steps}
        job = _job(folder / name.replace(" ", "-"), base, data, **settings_, **changes)
        _train([kind, str(job)], {})
        rows = _gpu_rows(name, job, default.get(shape))
        if kind == "default" and rows[0]["value"]:
            default[shape] = rows[0]["value"]
        found = rows + found
    return found


def _gpu_rows(name: str, job: Path, peer: float | None) -> list[Row]:
    loop = _loop(job)
    if not loop or not loop["tokens_per_second"]:
        return [row(f"{name}: the run failed, see {job / 'job.log'}", ok=False)]
    speed = loop["tokens_per_second"]
    must = LEAST_TOKENS if name == "Qwen3-8B, LoRA r=16" and "H200" in loop["device_name"] else None
    compared = {"peer": "TRL's defaults", "ratio": round(speed / peer, 2)} if peer else {}
    rows = [row(name, round(speed), "tokens/s", must=must, ok=must is None or speed >= must, **compared)]
    rate = next((rate for words, rate in _BF16_FLOPS.items() if words in loop["device_name"]), None)
    if rate:
        rows.append(row(f"{name}: model FLOP use", round(100 * speed * _needed(job) / rate, 1), "%"))
    rows.append(row(f"{name}: memory", round(loop["peak_memory_bytes"] / 1e9, 2), "GB reserved at most"))
    return rows


def _needed(job: Path) -> float:
    """Floating-point operations that a token needs, without what is computed twice and what masks hide."""
    spec = parse_spec(json.loads((job / "spec.json").read_text()))
    shape = read_shape(spec.base_model)
    needed = spec.model_copy(update={"gradient_checkpointing": False, "packing": False, "batch_size": 1})
    again = 2 * shape.vocabulary * shape.hidden  # the output layer, which the loss computes once more
    return rates.operations(shape, needed, 1, ROW_TOKENS, "gpu") - again


def _base(folder: Path, name: str, sizes: dict[str, Any]) -> Path:
    base = folder / "bases" / name
    if not (base / "config.json").is_file():
        _in_training_environment(["base", str(base), json.dumps(sizes)], {})
    return base


def _rows(folder: Path, rows: int, words: int) -> Path:
    """Rows of random words: about six bytes, so six tokens, a word, and twice ``words`` of them."""
    draws = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["toll", "route", "refund", "gate", "north", "lane", "plate", "night"]

    def text() -> str:
        return " ".join(draws.choice(vocabulary) for _ in range(draws.randint(words // 2, words * 3 // 2)))

    for part, count in (("train", rows), ("validation", 4)):
        turns = [[{"role": "user", "content": text()}, {"role": "assistant", "content": text()}] for _ in range(count)]
        pl.DataFrame({"messages": turns}).write_parquet(folder / f"{part}.parquet")
    return folder


def _job(folder: Path, base: Path, data: Path, **fields: Any) -> Path:
    folder.mkdir(parents=True)
    spec = {
        "job_name": "bench",
        "base_model": str(base),
        "dataset": str(data),
        "dataset_reference": "bench@v1",
        "output": str(folder),
        "eval_steps": 100_000,
        "save_steps": 100_000,
        **fields,
    }
    (folder / "spec.json").write_text(parse_spec(spec).model_dump_json())
    return folder


def _loop(job: Path) -> dict[str, Any]:
    path = job / "loop.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _train(words: list[str], environment: dict[str, str]) -> None:
    _in_training_environment(["run", *words], environment, check=False)


def _in_training_environment(words: list[str], environment: dict[str, str], check: bool = True) -> None:
    paths = os.pathsep.join(str(PROJECT / part) for part in ("include", "containers", ""))
    quiet = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    command = [str(settings().ml_python), "-m", "tests.performance.training_loop", *words]
    known = {**os.environ, **quiet, "PYTHONPATH": paths, **environment}
    subprocess.run(command, env=known, cwd=PROJECT, check=check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _gpu_name() -> str:
    """The first GPU's name; asked in a process of its own, as CUDA cannot be forked once it was asked."""
    script = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    command = [str(settings().ml_python), "-c", script]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return printed.splitlines()[-1] if printed else ""


def main(scale: float) -> int:
    """Measure, print, write; 0 if everything is as good as it must be, else 1."""
    measured_on = machine(scale=scale, gpu=_gpu_name() or "none")
    with tempfile.TemporaryDirectory(prefix="tollgate-bench-") as folder:
        print("measuring on the CPU ...", file=sys.stderr, flush=True)
        rows = overhead(Path(folder) / "cpu", scale)
        print("estimating on the CPU ...", file=sys.stderr, flush=True)
        rows += estimated(Path(folder) / "estimate", scale)
        print("measuring on the GPU ...", file=sys.stderr, flush=True)
        rows += on_gpu(Path(folder) / "gpu", scale)
    return publish("Training", rows, measured_on, TARGET)


if __name__ == "__main__":
    sys.exit(main(float(os.environ.get("BENCH_SCALE", "1"))))
