"""Leases on a real PostgreSQL: no device twice, all or none, and nothing kept by the dead."""

from __future__ import annotations

import datetime as dt
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, update

from tollgate.errors import BadInputError
from tollgate.store.session import transaction
from tollgate.store.tables import GpuLease
from tollgate.training import leases

DEVICES = [0, 1, 2, 3]

pytestmark = pytest.mark.usefixtures("postgres_url")


def acquire(holder: str, count: int, devices: list[int] = DEVICES) -> list[int]:
    with transaction() as session:
        return leases.acquire(session, holder, count, devices)


def holders() -> dict[int, str]:
    with transaction() as session:
        return leases.holders(session)


def make_old(holder: str) -> None:
    with transaction() as session:
        old = func.now() - leases.SUBMISSION_TIME * 2
        session.execute(update(GpuLease).where(GpuLease.holder == holder).values(renewed_at=old))


def test_jobs_get_different_devices_and_a_retry_gets_its_own_again() -> None:
    assert acquire("first", 1) == [0]
    assert acquire("second", 2) == [1, 2]
    assert acquire("first", 1) == [0]
    assert holders() == {0: "first", 1: "second", 2: "second"}


def test_too_few_free_devices_take_nothing_and_name_the_holders() -> None:
    acquire("first", 3)
    with transaction() as session:
        with pytest.raises(leases.DevicesBusyError, match="GPU 2: first") as busy:
            leases.acquire(session, "second", 2, DEVICES)
        assert leases.holders(session) == dict.fromkeys([0, 1, 2], "first"), "also for a caller that goes on"
    assert (busy.value.wanted, busy.value.free) == (2, 1)


def test_more_than_configured_is_refused_at_once() -> None:
    with pytest.raises(BadInputError, match="0 to 4"):
        acquire("first", 5)


@pytest.mark.parametrize(("count", "devices"), [(2, []), (0, DEVICES)])
def test_without_gpus_there_are_no_rows(count: int, devices: list[int]) -> None:
    assert acquire("first", count, devices) == []
    assert holders() == {}


def test_retry_follows_a_changed_configuration() -> None:
    assert acquire("first", 2, [0, 1]) == [0, 1]
    assert acquire("first", 2, [2, 3]) == [2, 3]
    assert acquire("first", 1, [2, 3]) == [2]
    assert holders() == {2: "first"}


def test_release_frees_only_the_holders_own() -> None:
    acquire("first", 2)
    acquire("second", 1)
    with transaction() as session:
        assert leases.release(session, "first") == [0, 1]
        assert leases.release(session, "first") == []
    assert holders() == {2: "second"}


def test_only_old_leases_of_dead_jobs_are_reclaimed() -> None:
    for holder in ("dead", "alive", "starting"):
        acquire(holder, 1)
    make_old("dead")
    make_old("alive")
    asked: list[str] = []

    def is_alive(holder: str) -> bool:
        asked.append(holder)
        return holder == "alive"

    with transaction() as session:
        assert leases.reclaim(session, is_alive) == ["dead"]
    assert sorted(asked) == ["alive", "dead"]
    assert holders() == {1: "alive", 2: "starting"}

    make_old("starting")
    acquire("starting", 1)  # a retry renews
    with transaction() as session:
        assert leases.reclaim(session, lambda _: False) == ["alive"]
        assert leases.reclaim(session, lambda _: False, minimum_age=dt.timedelta(0)) == ["starting"]


def test_no_device_is_ever_held_twice_under_concurrent_askers() -> None:
    """Forty jobs of one to three devices in eight threads: every grant is exclusive until its release."""
    held: dict[int, str] = {}
    grants = 0

    def job(number: int) -> None:
        nonlocal grants
        holder = f"job-{number}"
        count = random.Random(number).randint(1, 3)
        while True:
            try:
                mine = acquire(holder, count)
                break
            except leases.DevicesBusyError:
                continue
        assert len(mine) == count
        for device in mine:
            assert held.setdefault(device, holder) == holder
        for device in mine:
            del held[device]
        grants += 1
        with transaction() as session:
            leases.release(session, holder)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(job, range(40)))
    assert grants == 40
    assert holders() == {}
