"""Checkpoints on disk: which are whole, and which one a training goes on from. The container reads this as well."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tollgate.errors import BadInputError, Problem

CHECKPOINTS = "checkpoints"
"""The job folder's folder of its own checkpoints."""
INHERITED = "inherited"
"""The job folder's folder of checkpoints that it took over from an earlier job; nothing is ever written there."""
MANIFEST = "manifest.json"
"""Written last into a checkpoint: its step, and the size of every file."""
DELETED = "deleted.jsonl"
"""In the folder of checkpoints: descriptions of those that were deleted to make room."""
TRAINER_STATE = "trainer_state.json"
RESUME_STATE = "resume_state.json"
"""What a training knows beside the trainer's own state: losses not logged yet, early stopping, a missed evaluation."""


BYTES_PER_GB = 1e9
FIGURES = ("loss", "eval_loss", "learning_rate", "grad_norm")
"""What is kept of a checkpoint's history: the last value of each."""


def step_of(checkpoint: Path) -> int | None:
    """The step in a name such as ``checkpoint-500``; nothing for any other name."""
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if checkpoint.name.startswith("checkpoint-") and number.isdecimal() else None


def write_manifest(checkpoint: Path) -> None:
    """Put every file of a checkpoint on disk for good, then list them with their sizes.

    Raises:
        OSError: The disk is full, or fails.
    """
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST)
    for path in files:
        sync(path)
    sizes = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
    partial = checkpoint / f"{MANIFEST}.partial"
    partial.write_text(json.dumps({"step": step_of(checkpoint), "files": sizes}, indent=2) + "\n", encoding="utf-8")
    sync(partial)
    partial.replace(checkpoint / MANIFEST)
    sync(checkpoint)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk and outlasts a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end and every file of it is still there in full.

    A checkpoint of an older trainer has no manifest; it counts as whole if the state that it wrote last is readable.
    """
    step = step_of(checkpoint)
    if step is None:
        return False
    if not (checkpoint / MANIFEST).is_file():
        return trainer_state(checkpoint).get("global_step") == step
    manifest = _read_object(checkpoint / MANIFEST)
    files = manifest.get("files")
    if manifest.get("step") != step or not isinstance(files, dict) or TRAINER_STATE not in files:
        return False
    return all(_size(checkpoint / name) == size for name, size in files.items())


def whole_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, by step, the newest last."""
    return sorted(filter(is_whole, folder.glob("checkpoint-*")), key=lambda path: step_of(path) or 0)


def trainer_state(checkpoint: Path) -> dict[str, Any]:
    """The trainer's own state; empty where it can't be read."""
    return _read_object(checkpoint / TRAINER_STATE)


def resume_state(checkpoint: Path) -> dict[str, Any]:
    """What :data:`RESUME_STATE` says; empty for a checkpoint of an older trainer."""
    return _read_object(checkpoint / RESUME_STATE)


def describe(checkpoint: Path) -> dict[str, Any]:
    """What is kept of a whole checkpoint in ``training_checkpoints``, by column: its last losses and its size."""
    state = trainer_state(checkpoint)
    figures: dict[str, float] = {}
    for line in state.get("log_history", []):
        figures |= {name: line[name] for name in FIGURES if name in line}
    size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    return {
        "checkpoint_name": checkpoint.name,
        "step": step_of(checkpoint),
        "epoch": state.get("epoch"),
        "metrics": figures,
        "file_path": str(checkpoint),
        "file_size_gb": size / BYTES_PER_GB,
    }


def note_deleted(checkpoint: Path) -> None:
    """Keep the description of a whole checkpoint that is about to be deleted: nobody may have recorded it yet."""
    if is_whole(checkpoint):
        with (checkpoint.parent / DELETED).open("a", encoding="utf-8") as file:
            file.write(json.dumps(describe(checkpoint)) + "\n")


def deleted_checkpoints(folder: Path) -> list[dict[str, Any]]:
    """What :func:`note_deleted` kept, in the order of the deletions; a line that a kill has torn is none."""
    try:
        lines = (folder / DELETED).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(dict(json.loads(line)))
        except ValueError:
            continue
    return found


def find_checkpoint(folders: Sequence[Path], wanted: str) -> Path | None:
    """The checkpoint to go on from.

    Args:
        folders: Where to look; an earlier folder counts before a later one.
        wanted: ``last``, ``none``, or a name such as ``checkpoint-500``.

    Returns:
        Its folder; nothing where ``none`` is wanted, or ``last`` and there is no whole one.

    Raises:
        BadInputError: The named one is not there, or is not whole; says what there is.
    """
    if wanted == "none":
        return None
    there = [whole_checkpoints(folder) for folder in folders]
    if wanted == "last":
        return next((found[-1] for found in there if found), None)
    named = next((path for found in there for path in found if path.name == wanted), None)
    if named is not None:
        return named
    names = [path.name for path in sorted({p for found in there for p in found}, key=lambda path: step_of(path) or 0)]
    half = any((folder / wanted).exists() for folder in folders)
    value = f"{wanted}, which is not whole" if half else f"{wanted}, which is not there"
    expected = (
        f"one of {', '.join(dict.fromkeys(names))}" if names else "last or none, since no whole checkpoint is there"
    )
    raise BadInputError("The training can't go on from that checkpoint.", [Problem("resume_from", value, expected)])


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
