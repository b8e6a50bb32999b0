"""From how a job ended to the error that says so."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.errors import (
    JobError,
    JobFailedError,
    JobOutOfMemoryError,
    JobSpecificationError,
    JobStoppedByPersonError,
    JobStoppedError,
    JobVanishedError,
)
from jobs.job_folder import RESULT, ErrorReport, JobFolder
from jobs.runtimes import JobState, JobStatus

EXIT_BAD_SPECIFICATION = 2
EXIT_STOPPED = 10
TERMINATED = 143
"""128 + SIGTERM: the job did not catch the signal."""
KILLED = 137
"""128 + SIGKILL."""
OUT_OF_MEMORY = "out_of_memory"
"""The kind in ``error.json`` for memory that the job itself found missing, such as a GPU's."""
MEMORY_ADVICE = (
    "Lower batch_size (and raise gradient_accumulation by the same factor), lower max_length, or raise the limit."
)


def error_of(status: JobStatus, folder: JobFolder, last_lines: Sequence[str], memory: str) -> JobError:
    """Return the error for a job that ended without success.

    Args:
        status: How it ended; exit 0 means that it left no usable result.
        folder: Where ``error.json`` and the note of our own stop are.
        last_lines: The end of its log.
        memory: Its memory limit, as configured.
    """
    code = status.exit_code
    killed = code == KILLED and not status.out_of_memory and not folder.stop_reason
    if killed or status.state is JobState.MISSING:
        return JobVanishedError(
            "The job was killed from outside or is gone without a result: its container was removed, or engine or "
            "machine restarted. A retry starts it again; a training continues from its last checkpoint.",
            exit_code=code,
        )
    report = folder.error_report()
    if status.out_of_memory or (report and report.kind == OUT_OF_MEMORY):
        text = f"The job ran out of memory (limit {memory}, exit code {code})."
        return JobOutOfMemoryError(_told(text, report, last_lines, MEMORY_ADVICE), exit_code=code, kind=OUT_OF_MEMORY)
    if code == EXIT_STOPPED:
        text = f"The job was stopped{_why(folder)}. Its checkpoints are kept."
        kind_of_stop = JobStoppedByPersonError if folder.stopped_by_person else JobStoppedError
        return kind_of_stop(text, exit_code=code)
    if folder.stop_reason or code == TERMINATED:
        return JobStoppedError(f"The job was stopped{_why(folder)} (exit code {code}).", exit_code=code)
    kind = report.kind if report else None
    if code == EXIT_BAD_SPECIFICATION:
        text = "The job cannot run as it is specified (exit code 2)."
        return JobSpecificationError(_told(text, report, last_lines), exit_code=code, kind=kind)
    text = f"The job failed (exit code {code})." if code else f"The job ended without writing {RESULT}."
    return JobFailedError(_told(text, report, last_lines), exit_code=code, kind=kind)


def _why(folder: JobFolder) -> str:
    return f": {folder.stop_reason}" if folder.stop_reason else ""


def _told(text: str, report: ErrorReport | None, last_lines: Sequence[str], advice: str = "") -> str:
    """Put together what happened, what the job says about it, what to do, and the end of its log."""
    parts = [text]
    if report:
        parts.append(f"{report.kind}: {report.message}".rstrip(": "))
        advice = report.advice or advice
    if advice:
        parts.append(advice)
    if last_lines:
        parts.append("Last lines of its log:")
        parts += [f"  {line[:500]}" for line in last_lines]
    return "\n".join(parts)
