"""GPUs for a job: wait for a lease, and give it back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from jobs.errors import JobStoppedError
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.training import leases

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

WAIT_SECONDS = 5.0


def lease_devices(
    holder: str, count: int, *, is_alive: Callable[[str], bool], is_stopped: Callable[[], bool], log: Logger
) -> tuple[int, ...]:
    """Lease ``count`` of the configured GPUs to ``holder``, waiting until they are free.

    Args:
        holder: The job's task.
        count: How many; where no GPU is configured nothing is leased and the job runs without.
        is_alive: Whether a holder's job is running, to take leases back from dead ones.
        is_stopped: Whether the task was told to stop while it waited.
        log: Where the wait is reported: once, and again whenever the holders change.

    Raises:
        BadInputError: More are asked for than are configured.
        JobStoppedError: The task was stopped while it waited.
        ServiceUnavailableError: PostgreSQL did not answer.
    """
    configured = settings().gpu_ids
    if count == 0 or not configured:
        return ()
    said = ""
    while not is_stopped():
        try:
            with transaction() as session:
                return tuple(leases.acquire(session, holder, count, configured))
        except leases.DevicesBusyError as busy:
            if (now := str(busy)) != said:
                log.info("Waiting for GPUs. %s", now)
                said = now
        with transaction() as session:
            for dead in leases.reclaim(session, is_alive):
                log.warning("Took the GPUs of %s back: its job is gone.", dead)
        time.sleep(WAIT_SECONDS)
    raise JobStoppedError("The task was stopped while it waited for GPUs.")


def release_devices(holder: str) -> None:
    """Give back what ``holder`` has; nothing happens where no GPU is configured."""
    if settings().gpu_ids:
        with transaction() as session:
            leases.release(session, holder)
