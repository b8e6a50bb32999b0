"""Which job has which GPU, and who waits for one: first come, first served.

The device is the key of ``gpu_leases``, so PostgreSQL itself makes two holders impossible. Who finds no device free
takes a place in ``gpu_waiters`` and asks again every few seconds; asking keeps the place. A waiter that stops asking
has died and leaves the queue. Free devices that a waiter could use are kept for it, and whoever came later gets what is
left: a job that wants two devices is not passed over for ever by jobs that want one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from tollgate.errors import BadInputError, Problem
from tollgate.store.tables import GpuLease, GpuWaiter

SUBMISSION_TIME = dt.timedelta(minutes=2)
"""A lease is taken before its job starts; only after this time does a missing job mean a dead one."""
WAITER_PATIENCE = dt.timedelta(seconds=30)
"""Who waits asks every few seconds; who has not asked for this long is dead and loses its place."""


@dataclass(frozen=True)
class Wish:
    """What a job wants.

    Args:
        holder: Who asks, for example ``finetune/manual__1/train``; 500 characters at most.
        count: How many devices, whichever they are; not looked at where ``devices`` names some.
        devices: These devices and no others.
        runtime: Where the job will run, which can tell later whether it lives: ``docker`` or ``process``.
    """

    holder: str
    count: int = 1
    devices: tuple[int, ...] = ()
    runtime: str | None = None

    @property
    def size(self) -> int:
        """How many devices it wants."""
        return len(self.devices) or self.count

    def __str__(self) -> str:
        if self.devices:
            return f"GPU {', '.join(map(str, self.devices))}"
        return f"{self.count} GPU{'s' if self.count != 1 else ''}"


@dataclass(frozen=True)
class Lease:
    """A device that a job holds.

    Args:
        device: The device's id.
        holder: Who holds it.
        runtime: Where its job runs.
        since: When it was leased.
    """

    device: int
    holder: str
    runtime: str | None
    since: dt.datetime


@dataclass(frozen=True)
class Waiter:
    """A place in the queue; ``place`` counts from 1, ``since`` is when it was taken."""

    place: int
    wish: Wish
    since: dt.datetime


@dataclass(frozen=True)
class Waiting:
    """The answer to a wish that cannot be met now.

    Args:
        place: The asker's place in the queue, from 1.
        waiters: How many wait, the asker among them.
        wish: What it waits for.
        busy: The configured devices that somebody holds, and who.
    """

    place: int
    waiters: int
    wish: Wish
    busy: dict[int, str]

    def __str__(self) -> str:
        holders = "; ".join(f"GPU {device}: {holder}" for device, holder in sorted(self.busy.items()))
        return f"Place {self.place} of {self.waiters} in the queue for {self.wish}. Busy: {holders or 'none'}."


def wish_problems(count: int, devices: Sequence[int], configured: Collection[int]) -> list[Problem]:
    """What is wrong with a wish for devices.

    Args:
        count: How many devices are asked for; not looked at where ``devices`` names some.
        devices: Devices asked for by id.
        configured: The configured device ids. Where there are none a count is fine: the job runs on the CPU.
    """
    known = sorted(set(configured))
    if len(set(devices)) != len(devices):
        return [Problem("gpu_ids", str(list(devices)), "each device once")]
    if unknown := sorted(set(devices) - set(known)):
        named = f"configured devices: {known}" if known else "none, since no GPU is configured (TOLLGATE_GPU_IDS)"
        return [Problem("gpu_ids", str(unknown), named)]
    if not devices and known and not 0 <= count <= len(known):
        return [Problem("gpus", str(count), f"0 to {len(known)}, the number of configured devices")]
    return []


def ask(session: Session, wish: Wish, configured: Collection[int]) -> list[int] | Waiting:
    """Lease the devices of a wish, all of them or none, or take a place in the queue; asking again keeps the place.

    Args:
        session: An open transaction; lease and place count once it commits.
        wish: Who wants what.
        configured: The configured device ids; empty where there is no GPU, which grants an empty list.

    Returns:
        The leased devices in ascending order, the same ones for a holder that has them already; or where the asker
        stands.

    Raises:
        BadInputError: More devices are asked for than are configured, or others.
    """
    if problems := wish_problems(wish.count, wish.devices, configured):
        raise BadInputError("The job cannot have the GPUs it asks for.", problems)
    if not configured or wish.size == 0:
        return []
    # One asker at a time; readers are not held up. Places are in the order of the tickets because of this.
    session.execute(text("LOCK TABLE gpu_waiters IN SHARE ROW EXCLUSIVE MODE"))
    own = _renew(session, wish)
    if _meets(own, wish, configured):
        _leave(session, wish.holder)
        return sorted(own)
    release_devices(session, wish.holder)
    _join(session, wish)
    leased = holders(session)
    queue = _queue(session)
    place = next(index for index, waiter in enumerate(queue) if waiter.holder == wish.holder)
    free = _left_over([_wish(waiter) for waiter in queue[:place]], set(configured) - leased.keys())
    chosen = _choose(wish, free)
    if chosen is None:
        busy = {device: leased[device] for device in leased if device in configured}
        return Waiting(place + 1, len(queue), wish, busy)
    session.add_all(GpuLease(device=device, holder=wish.holder, runtime=wish.runtime) for device in chosen)
    _leave(session, wish.holder)
    session.flush()
    return chosen


def _renew(session: Session, wish: Wish) -> list[int]:
    renewed = update(GpuLease).where(GpuLease.holder == wish.holder).values(renewed_at=func.now(), runtime=wish.runtime)
    return list(session.scalars(renewed.returning(GpuLease.device)))


def _meets(own: list[int], wish: Wish, configured: Collection[int]) -> bool:
    if wish.devices:
        return set(own) == set(wish.devices)
    return len(own) == wish.count and set(own) <= set(configured)


def _join(session: Session, wish: Wish) -> None:
    """Take a place, or keep the one there is; whoever stopped asking loses its own."""
    values = {"count": wish.size, "devices": list(wish.devices), "seen_at": func.now()}
    place = insert(GpuWaiter).values(holder=wish.holder, **values)
    session.execute(place.on_conflict_do_update(index_elements=["holder"], set_=values))
    session.execute(delete(GpuWaiter).where(GpuWaiter.seen_at < func.now() - WAITER_PATIENCE))


def _leave(session: Session, holder: str) -> None:
    session.execute(delete(GpuWaiter).where(GpuWaiter.holder == holder))


def _queue(session: Session) -> list[GpuWaiter]:
    fresh = select(GpuWaiter).where(GpuWaiter.seen_at >= func.now() - WAITER_PATIENCE).order_by(GpuWaiter.ticket)
    return list(session.scalars(fresh.execution_options(populate_existing=True)))


def _wish(waiter: GpuWaiter) -> Wish:
    return Wish(waiter.holder, waiter.count, tuple(waiter.devices))


def _left_over(ahead: Sequence[Wish], free: set[int]) -> set[int]:
    """The free devices that nobody in front could use, now or together with one that is still busy."""
    for wish in ahead:
        free = free - set(wish.devices or sorted(free)[: wish.count])
    return free


def _choose(wish: Wish, free: set[int]) -> list[int] | None:
    if wish.devices:
        return sorted(wish.devices) if free >= set(wish.devices) else None
    return sorted(free)[: wish.count] if len(free) >= wish.count else None


def release(session: Session, holder: str) -> list[int]:
    """Free what ``holder`` has, its place in the queue too, and return the devices; nothing to free is fine."""
    _leave(session, holder)
    return release_devices(session, holder)


def release_devices(session: Session, holder: str) -> list[int]:
    """Free the devices of ``holder`` and return them; its place in the queue stays."""
    return sorted(session.scalars(delete(GpuLease).where(GpuLease.holder == holder).returning(GpuLease.device)))


def holders(session: Session) -> dict[int, str]:
    """Return each leased device and who holds it."""
    return {lease.device: lease.holder for lease in current(session)}


def current(session: Session) -> list[Lease]:
    """Return all leases, in the order of the devices."""
    columns = (GpuLease.device, GpuLease.holder, GpuLease.runtime, GpuLease.leased_at)
    return [Lease(*row) for row in session.execute(select(*columns).order_by(GpuLease.device)).tuples()]


def waiters(session: Session) -> list[Waiter]:
    """Return the queue: who waits, for what, since when; the first one is served first."""
    queue = enumerate(_queue(session), start=1)
    return [Waiter(place, _wish(waiter), waiter.asked_at) for place, waiter in queue]


def reclaim(
    session: Session,
    is_alive: Callable[[str], bool],
    minimum_age: dt.timedelta = SUBMISSION_TIME,
    runtime: str | None = None,
) -> list[str]:
    """Free the leases of jobs that are gone, for example because their worker was killed and nobody retried.

    Args:
        session: An open transaction.
        is_alive: Whether a holder's job is running; asked once for each holder.
        minimum_age: Younger leases are left alone, since their job may be about to start.
        runtime: Judge only jobs that run there or of which that is not known, since one runtime knows nothing of
            another's jobs; default: all.

    Returns:
        The holders that lost their leases.
    """
    old = select(GpuLease.holder).where(GpuLease.renewed_at <= func.now() - minimum_age)
    if runtime is not None:
        old = old.where(or_(GpuLease.runtime == runtime, GpuLease.runtime.is_(None)))
    # Locked: a retry that renews its lease at this moment waits, finds it gone, and takes a new one.
    found = sorted(set(session.scalars(old.with_for_update(skip_locked=True))))
    dead = [holder for holder in found if not is_alive(holder)]
    session.execute(delete(GpuLease).where(GpuLease.holder.in_(dead)))
    return dead
