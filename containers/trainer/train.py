"""Entry point of the training container: ``python containers/trainer/train.py JOB_FOLDER``.

Exit status: 0 done; 2 the specification is wrong, and would be so again; 10 stopped, by SIGTERM or by a request in the
job folder, after saving a checkpoint; 1 anything else. On any status but 0 and 10 ``error.json`` says what happened and
what to do.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Run as a script, Python puts this folder on its path; the package ``trainer`` is one level up.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from tollgate.errors import BadInputError, Problem
from tollgate.training.parsing import parse_spec
from tollgate.training.spec import TrainingSpec
from trainer.checkpoints import starting_checkpoint
from trainer.failures import Failure, explain
from trainer.launch import error_file, processes_to_start, train_together
from trainer.scratch import discard_scratch, use_scratch
from trainer.stop import EXIT_STOPPED, Stop

if TYPE_CHECKING:
    from trainer.resumable import Resumable

EXIT_BAD_SPECIFICATION = 2
ADVICE = "Correct the specification and start a new run."
RESERVE = "error.reserve"
RESERVE_BYTES = 16_384


def main(job_folder: Path) -> int:
    """Run the job whose specification lies in ``job_folder``; returns the exit status."""
    stop = Stop(job_folder)
    _say("Preparing.")
    spec: TrainingSpec | None = None
    try:
        spec = read_spec(job_folder)
        if count := processes_to_start(spec):
            return train_together(job_folder, spec, count)
        _reserve(job_folder)
        return _train(spec, stop)
    except BadInputError as error:
        _say_why(job_folder, Failure("bad_specification", str(error), ADVICE))
        return EXIT_BAD_SPECIFICATION
    except Exception as error:
        _say_why(job_folder, explain(error, spec), traceback.format_exc())
        return 1
    finally:
        (job_folder / RESERVE).unlink(missing_ok=True)
        discard_scratch(job_folder)


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


def _train(spec: TrainingSpec, stop: Stop) -> int:
    if (spec.output / "result.json").is_file():
        _say("This job is done already; its result stands.")
        return 0
    if stop.requested and "RANK" not in os.environ:  # several processes agree after their first step
        return _stopped(stop, "Stopped before the first step, as somebody asked.")
    started = time.monotonic()
    use_scratch(spec.output)
    # Imported here: a wrong specification is refused at once, not after the seconds that these take.
    from trainer.backends import build_trainer
    from trainer.memory import Measurement
    from trainer.progress import ProgressWriter
    from trainer.resumable import EvaluationCutError

    measurement = Measurement()
    callbacks = [ProgressWriter(spec.output / "progress.jsonl"), measurement]
    trainer = build_trainer(spec, callbacks, stop)
    with trainer.accelerator.main_process_first():  # what the first process tidies up, the others find tidy
        checkpoint = starting_checkpoint(spec.output, spec.resume_from)
    _say(
        f"Resuming from {checkpoint.name}." if checkpoint else f"Training {spec.job_name} on {spec.dataset_reference}."
    )
    stop.training_begins()
    try:
        outcome = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if trainer.was_cut_short:
            return _stopped(stop, f"Stopped at step {trainer.state.global_step}; the checkpoint is saved.")
        saved_step = trainer.load_best() or trainer.state.global_step
        metrics = {**outcome.metrics, **(trainer.evaluated(saved_step) or trainer.evaluate())}
    except EvaluationCutError:
        return _stopped(stop, f"Stopped at step {trainer.state.global_step}; the checkpoint is saved.")
    weights = _save(trainer, spec)
    if trainer.is_world_process_zero():
        seconds = time.monotonic() - started
        _write_result(spec, trainer, metrics, weights, saved_step, seconds, measurement.figures())
        stop.forget()
    return 0


def _stopped(stop: Stop, text: str) -> int:
    _say(text)
    stop.acknowledge()
    return EXIT_STOPPED


def _save(trainer: Resumable, spec: TrainingSpec) -> Path:
    """Save the adapter (or the full model) under a temporary name, then rename it."""
    final = spec.output / ("model" if spec.method == "full" else "adapter")
    partial = final.with_suffix(".partial")
    with trainer.accelerator.main_process_first():
        if trainer.is_world_process_zero():
            shutil.rmtree(partial, ignore_errors=True)
    try:
        trainer.save_model(str(partial))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # on a full disk, the room is needed to say so
        raise
    if trainer.is_world_process_zero():
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    return final


def _write_result(
    spec: TrainingSpec,
    trainer: Resumable,
    metrics: dict[str, Any],
    weights: Path,
    saved_step: int,
    seconds: float,
    measured: dict[str, Any],
) -> None:
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in trainer.model.parameters())
    from trainer.progress import MEMORY

    early = trainer.early_stopping
    _write_json(
        spec.output / "result.json",
        {
            "status": "succeeded",
            "job_name": spec.job_name,
            "method": spec.method,
            "weights_path": str(weights),
            "steps": trainer.state.global_step,
            "saved_step": saved_step,
            "epochs": trainer.state.epoch,
            "stopped_early": bool(early and early.reason),
            "stop_reason": early.reason if early else None,
            "best_step": early.best_step if early else None,
            "best_eval_loss": early.best_loss if early else None,
            "trainable_parameters": trainable,
            "total_parameters": total,
            "metrics": {
                name: value
                for name, value in metrics.items()
                if isinstance(value, (int, float)) and name not in ("step", "epoch") and not name.startswith(MEMORY)
            },
            "seconds": round(seconds, 1),
            "measured": measured,
        },
    )


def _reserve(job_folder: Path) -> None:
    """Keep a little space, so that on a full disk there is room to say that it is full."""
    (job_folder / RESERVE).write_bytes(bytes(RESERVE_BYTES))


def _say_why(job_folder: Path, failure: Failure, trace: str = "") -> None:
    (job_folder / RESERVE).unlink(missing_ok=True)
    if job_folder.is_dir():
        _write_json(error_file(job_folder), failure._asdict())
    with contextlib.suppress(OSError):  # the log may lie on the same full disk
        print(f"{trace}{failure.message}\n{failure.advice}", file=sys.stderr, flush=True)  # ruff: ignore[T201]


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
