"""Entry point of the training container: ``python containers/trainer/train.py JOB_FOLDER``.

Exit status: 0 done; 2 the specification is wrong, and would be so again; 10 stopped by SIGTERM after saving a
checkpoint; 1 anything else. On any status but 0 and 10 ``error.json`` says what happened and what to do.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

# Run as a script, Python puts this folder on its path; the package ``trainer`` is one level up.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from tollgate.errors import BadInputError, Problem
from tollgate.training.spec import TrainingSpec, parse_spec

EXIT_BAD_SPECIFICATION = 2
EXIT_STOPPED = 10


def main(job_folder: Path) -> int:
    """Run the job whose specification lies in ``job_folder``; returns the exit status."""
    try:
        spec = read_spec(job_folder)
        return _train(spec)
    except BadInputError as error:
        _say_why(job_folder, "bad_specification", str(error), "Correct the specification and start a new run.")
        return EXIT_BAD_SPECIFICATION
    except MemoryError as error:
        _say_why(job_folder, "out_of_memory", str(error), "Lower batch_size or max_length.")
        return 1
    except Exception as error:
        _say_why(job_folder, *_explain(error))
        raise


def read_spec(job_folder: Path) -> TrainingSpec:
    """Read and check ``spec.json`` and the folders it names.

    Raises:
        BadInputError: The file is missing or wrong, or a folder is not what it should be.
    """
    path = job_folder / "spec.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(
            "The job has no readable specification.", [Problem(str(path), str(error), "JSON")]
        ) from error
    spec = parse_spec(values)
    problems = [
        Problem(field, str(file), "an existing file")
        for field, file in (
            ("base_model", spec.base_model / "config.json"),
            ("dataset", spec.dataset / "train.parquet"),
            ("dataset", spec.dataset / "validation.parquet"),
        )
        if not file.is_file()
    ]
    if problems:
        raise BadInputError("The specification names files that are not there.", problems)
    return spec


def _train(spec: TrainingSpec) -> int:
    # Imported here: a wrong specification is refused at once, not after the seconds that these take.
    from trainer.checkpoints import StopOnSignal, last_whole_checkpoint
    from trainer.memory import Measurement
    from trainer.progress import ProgressWriter
    from trainer.sft import build_trainer

    if (spec.output / "result.json").is_file():
        _say("This job is done already; its result stands.")
        return 0
    started = time.monotonic()
    stop = StopOnSignal()
    measurement = Measurement()
    trainer = build_trainer(spec, [ProgressWriter(spec.output / "progress.jsonl"), stop, measurement])
    checkpoint = last_whole_checkpoint(spec.output / "checkpoints")
    _say(
        f"Resuming from {checkpoint.name}." if checkpoint else f"Training {spec.job_name} on {spec.dataset_reference}."
    )
    outcome = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.stopped and trainer.state.global_step < trainer.state.max_steps:
        _say(f"Stopped at step {trainer.state.global_step}; the checkpoint is saved.")
        return EXIT_STOPPED
    metrics = {**outcome.metrics, **trainer.evaluate()}
    weights = _save(trainer, spec)
    _write_result(spec, trainer, metrics, weights, time.monotonic() - started, measurement.figures())
    return 0


def _save(trainer: Any, spec: TrainingSpec) -> Path:
    """Save the adapter (or the full model) under a temporary name, then rename it."""
    final = spec.output / ("model" if spec.method == "full" else "adapter")
    partial = final.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    trainer.save_model(str(partial))
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    return final


def _write_result(
    spec: TrainingSpec,
    trainer: Any,
    metrics: dict[str, Any],
    weights: Path,
    seconds: float,
    measured: dict[str, Any],
) -> None:
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in trainer.model.parameters())
    _write_json(
        spec.output / "result.json",
        {
            "status": "succeeded",
            "job_name": spec.job_name,
            "method": spec.method,
            "weights_path": str(weights),
            "steps": trainer.state.global_step,
            "epochs": trainer.state.epoch,
            "trainable_parameters": trainable,
            "total_parameters": total,
            "metrics": {name: value for name, value in metrics.items() if isinstance(value, (int, float))},
            "seconds": round(seconds, 1),
            "measured": measured,
        },
    )


def _explain(error: Exception) -> tuple[str, str, str]:
    """Kind, message and advice for an error that ended the job."""
    text = f"{type(error).__name__}: {error}"
    if "out of memory" in str(error).lower():
        return "out_of_memory", text, "Lower batch_size or max_length, or choose qlora."
    if isinstance(error, OSError) and error.errno == 28:
        return "disk_full", text, "Free space; the last whole checkpoint is kept and the next try resumes from it."
    return "failed", text, "See the log above this line."


def _say_why(job_folder: Path, kind: str, message: str, advice: str) -> None:
    print(f"{message}\n{advice}", file=sys.stderr, flush=True)  # ruff: ignore[T201]
    if job_folder.is_dir():
        _write_json(job_folder / "error.json", {"kind": kind, "message": message, "advice": advice})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def _say(text: str) -> None:
    print(text, flush=True)  # ruff: ignore[T201]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: train.py JOB_FOLDER")
    sys.exit(main(Path(sys.argv[1])))
