"""How a job can end badly; each ending has its own error, so that a retry policy and a reader can tell them apart."""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowException, AirflowFailException


class JobError(AirflowException):
    """A job did not succeed; the text says why, for the task's log and the run's note."""

    def __init__(self, message: str, *, exit_code: int | None = None, kind: str | None = None) -> None:
        self.exit_code = exit_code
        self.kind = kind
        super().__init__(message)


class JobFailedError(JobError):
    """The job ended with an exit code that is not 0, or without a result."""


class JobVanishedError(JobFailedError):
    """Somebody killed the job or removed its container, or the machine restarted. Worth a retry."""


class JobOutOfMemoryError(JobError):
    """The job needed more memory than it was allowed."""


class JobTimeoutError(JobError):
    """The job ran longer than the task's ``execution_timeout``; it was stopped."""


class JobStoppedError(JobError):
    """Somebody stopped the job. A retry continues from its last checkpoint."""


class JobStoppedByPersonError(JobStoppedError, AirflowFailException):
    """A person asked the job to stop. Not retried: that would go on against their will. Clearing the task goes on."""


class JobSpecificationError(JobError, AirflowFailException):
    """The job cannot run as it is described. Never retried: it would fail in the same way."""
