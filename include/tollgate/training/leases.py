"""Which job has which GPU. The table's key is the device, so PostgreSQL itself makes two holders impossible."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from tollgate.errors import BadInputError, Problem, TollgateError
from tollgate.store.tables import GpuLease

SUBMISSION_TIME = dt.timedelta(minutes=2)
"""A lease is taken before its job starts; only after this time does a missing job mean a dead one."""


class DevicesBusyError(TollgateError):
    """Too few devices are free at this moment. Worth waiting: nothing was taken.

    Args:
        wanted: How many devices were asked for.
        free: How many of the configured devices nobody holds.
        holders: The busy devices and who holds them.
    """

    def __init__(self, wanted: int, free: int, holders: dict[int, str]) -> None:
        self.wanted = wanted
        self.free = free
        self.holders = holders
        busy = ", ".join(f"GPU {device}: {holder}" for device, holder in sorted(holders.items()))
        super().__init__(f"{wanted} GPUs wanted, {free} free. Busy: {busy or 'none'}.")

    def __reduce__(self) -> tuple[type[DevicesBusyError], tuple[int, int, dict[int, str]]]:
        return type(self), (self.wanted, self.free, self.holders)


def acquire(session: Session, holder: str, count: int, devices: Sequence[int]) -> list[int]:
    """Lease ``count`` of ``devices`` to ``holder``: all of them or none. Asking again returns the same ones.

    Args:
        session: An open transaction; the leases count once it commits.
        holder: Who asks, for example ``finetune/manual__1/train``; 500 characters at most.
        count: How many devices; 0 returns an empty list.
        devices: The configured device ids; empty where there is no GPU, which also returns an empty list.

    Returns:
        The leased device ids in ascending order.

    Raises:
        BadInputError: More devices are asked for than are configured.
        DevicesBusyError: Not enough are free now.
    """
    if not devices or count == 0:
        return []
    if not 0 < count <= len(set(devices)):
        expected = f"0 to {len(set(devices))}, the number of configured devices"
        raise BadInputError("The job cannot have the GPUs it asks for.", [Problem("gpus", str(count), expected)])
    with session.begin_nested():  # a refusal takes back what was inserted, whatever the caller does next
        own = _renew(session, holder)
        if len(own) == count and set(own) <= set(devices):
            return sorted(own)
        release(session, holder)
        taken = _take(session, holder, count, sorted(set(devices)))
        if len(taken) < count:
            busy = holders(session)
            for device in taken:
                del busy[device]
            raise DevicesBusyError(count, len(taken), {device: busy[device] for device in busy if device in devices})
        return taken


def _renew(session: Session, holder: str) -> list[int]:
    renewed = update(GpuLease).where(GpuLease.holder == holder).values(renewed_at=func.now())
    return list(session.scalars(renewed.returning(GpuLease.device)))


def _take(session: Session, holder: str, count: int, devices: Sequence[int]) -> list[int]:
    """Insert rows in ascending order of devices: two askers wait for each other in one direction only."""
    taken: list[int] = []
    for device in devices:
        if len(taken) == count:
            break
        row = insert(GpuLease).values(device=device, holder=holder).on_conflict_do_nothing()
        taken += session.scalars(row.returning(GpuLease.device))
    return taken


def release(session: Session, holder: str) -> list[int]:
    """Free what ``holder`` has, and return the devices; nothing to free is fine."""
    return sorted(session.scalars(delete(GpuLease).where(GpuLease.holder == holder).returning(GpuLease.device)))


def holders(session: Session) -> dict[int, str]:
    """Return each leased device and who holds it."""
    rows = session.execute(select(GpuLease.device, GpuLease.holder).order_by(GpuLease.device))
    return dict(rows.tuples().all())


def reclaim(
    session: Session, is_alive: Callable[[str], bool], minimum_age: dt.timedelta = SUBMISSION_TIME
) -> list[str]:
    """Free the leases of jobs that are gone, for example because their worker was killed and nobody retried.

    Args:
        session: An open transaction.
        is_alive: Whether a holder's job is running; asked once for each holder.
        minimum_age: Younger leases are left alone, since their job may be about to start.

    Returns:
        The holders that lost their leases.
    """
    old = select(GpuLease.holder).where(GpuLease.renewed_at <= func.now() - minimum_age)
    # Locked: a retry that renews its lease at this moment waits, finds it gone, and takes a new one.
    found = sorted(set(session.scalars(old.with_for_update(skip_locked=True))))
    dead = [holder for holder in found if not is_alive(holder)]
    session.execute(delete(GpuLease).where(GpuLease.holder.in_(dead)))
    return dead
