"""What ended a job badly, in words: the kind, what was said, and what to change."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tollgate.training.spec import TrainingSpec

FULL_BYTES = 1_000_000
"""With less free space than this, a writer that failed without a reason failed for want of space."""
NO_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
NO_SPACE_WORDS = ("no space left on device", "os error 28", "disk quota exceeded")


class Failure(NamedTuple):
    """The content of ``error.json``."""

    kind: str
    message: str
    advice: str


def explain(error: BaseException, spec: TrainingSpec | None) -> Failure:
    """Kind, message and advice for an error that ended the job.

    Args:
        error: What was raised.
        spec: The job, as far as it could be read; the advice names its values.
    """
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    if is_out_of_memory(error):
        return Failure("out_of_memory", text, memory_advice(spec))
    if is_disk_full(error):
        advice = (
            "Free space or lower checkpoints_kept. The last whole checkpoint is kept; the next try goes on from it."
        )
        return Failure("disk_full", text, advice)
    return Failure("failed", text, "See the log above this line.")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the host or of a device ran out.

    Host: MemoryError, ENOMEM, and the RuntimeError of torch's allocator; GPU: torch.OutOfMemoryError, cuBLAS.
    """
    return any(
        isinstance(cause, MemoryError)
        or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        or any(words in str(cause).lower() for words in NO_MEMORY_WORDS)
        for cause in _causes(error)
    )


def is_disk_full(error: BaseException, folder: Path | None = None) -> bool:
    """Whether a file could not be written for want of space.

    Args:
        error: What was raised.
        folder: Where was written to. torch's writer gives no reason; then the space that is free there decides.
    """
    if any(
        (isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT))
        or any(words in str(cause).lower() for words in NO_SPACE_WORDS)
        for cause in _causes(error)
    ):
        return True
    return folder is not None and shutil.disk_usage(folder).free < FULL_BYTES


def memory_advice(spec: TrainingSpec | None) -> str:
    """What to lower, most effective first, with the values of this job."""
    if spec is None:
        return "Lower batch_size or max_length."
    ways = []
    if spec.batch_size > 1:
        ways.append(f"lower batch_size ({spec.batch_size}) and raise gradient_accumulation by the same factor")
    ways.append(f"lower max_length ({spec.max_length})")
    if spec.gradient_checkpointing is False:
        ways.append("turn gradient_checkpointing on")
    if spec.method != "qlora":
        ways.append("choose qlora" if spec.method == "lora" else "choose lora or qlora")
    if spec.precision == "fp32":
        ways.append("choose precision bf16")
    return f"Any of these needs less memory: {'; '.join(ways)}. The last whole checkpoint is kept."


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
