"""GPUs for a job: wait for a lease, and give it back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import JobStoppedError
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.training import leases
from tollgate.training.leases import Waiting, Wish

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

WAIT_SECONDS = 5.0
"""Between two questions; well below ``leases.WAITER_PATIENCE``, after which a silent waiter counts as dead."""


def lease_devices(
    wish: Wish,
    folder: Path,
    *,
    is_alive: Callable[[str], bool],
    is_stopped: Callable[[], bool],
    tell: Callable[[Waiting], None],
    log: Logger,
) -> tuple[int, ...]:
    """Lease the GPUs of a wish, waiting in the queue until they are free.

    Args:
        wish: Who wants what; where no GPU is configured nothing is leased and a job that names none runs without.
        folder: The job folder, by which the job's row is found: it keeps the devices.
        is_alive: Whether a holder's job is running, to take leases back from dead ones.
        is_stopped: Whether the task was told to stop while it waited.
        tell: Called with the place in the queue: once, and again whenever place or holders change.
        log: Where it is said that the lease of a dead job was taken back.

    Raises:
        BadInputError: More are asked for than are configured, or others.
        JobStoppedError: The task was stopped while it waited.
        ServiceUnavailableError: PostgreSQL did not answer.
    """
    said: Waiting | None = None
    while not is_stopped():
        devices = _ask(wish, folder)
        if not isinstance(devices, Waiting):
            return devices
        if devices != said:
            tell(devices)
            said = devices
        with transaction() as session:
            for dead in leases.reclaim(session, is_alive, runtime=wish.runtime):
                log.warning("Took the GPUs of %s back: its job is gone.", dead)
        time.sleep(WAIT_SECONDS)
    raise JobStoppedError("The task was stopped while it waited for GPUs.")


def _ask(wish: Wish, folder: Path) -> tuple[int, ...] | Waiting:
    configured = settings().gpu_ids
    if not wish.devices and (wish.count == 0 or not configured):
        return ()  # without GPUs nothing depends on the database
    from tollgate.training.jobs import record_devices  # heavy, and this module is imported when DAGs are parsed

    with transaction() as session:
        answer = leases.ask(session, wish, configured)
        if isinstance(answer, Waiting):
            return answer
        record_devices(session, folder, answer)
        return tuple(answer)


def release_devices(holder: str) -> None:
    """Give back what ``holder`` has, its place in the queue too; nothing happens where no GPU is configured."""
    if settings().gpu_ids:
        with transaction() as session:
            leases.release(session, holder)
