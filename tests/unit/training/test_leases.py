"""Leases on a real PostgreSQL: no device twice, all or none, and nothing kept by the dead."""

from __future__ import annotations

import datetime as dt
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, update

from tollgate.errors import BadInputError
from tollgate.store.session import transaction
from tollgate.store.tables import GpuLease, GpuWaiter
from tollgate.training import leases
from tollgate.training.leases import Waiting, Wish

DEVICES = [0, 1, 2, 3]

pytestmark = pytest.mark.usefixtures("postgres_url")


def ask(holder: str, count: int = 1, ids: tuple[int, ...] = (), devices: list[int] = DEVICES) -> list[int] | Waiting:
    with transaction() as session:
        return leases.ask(session, Wish(holder, count, ids, "process"), devices)


def acquire(holder: str, count: int, devices: list[int] = DEVICES) -> list[int]:
    answer = ask(holder, count, devices=devices)
    assert not isinstance(answer, Waiting)
    return answer


def place(holder: str, count: int = 1, ids: tuple[int, ...] = ()) -> int:
    answer = ask(holder, count, ids)
    assert isinstance(answer, Waiting)
    return answer.place


def give_back(holder: str) -> None:
    with transaction() as session:
        leases.release(session, holder)


def queue() -> list[str]:
    with transaction() as session:
        return [waiter.wish.holder for waiter in leases.waiters(session)]


def fall_silent(holder: str) -> None:
    """As if the waiter had died a while ago."""
    with transaction() as session:
        long_ago = func.now() - leases.WAITER_PATIENCE * 2
        session.execute(update(GpuWaiter).where(GpuWaiter.holder == holder).values(seen_at=long_ago))


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


def test_too_few_free_devices_take_nothing_and_name_place_and_holders() -> None:
    acquire("first", 3)
    waiting = ask("second", 2)
    assert isinstance(waiting, Waiting)
    assert (waiting.place, waiting.waiters) == (1, 1)
    assert str(waiting) == ("Place 1 of 1 in the queue for 2 GPUs. Busy: GPU 0: first; GPU 1: first; GPU 2: first.")
    assert holders() == dict.fromkeys([0, 1, 2], "first")


def test_who_came_first_is_served_first() -> None:
    acquire("running", 4)
    assert [place(name) for name in ("a", "b", "c")] == [1, 2, 3]
    assert place("a") == 1, "asking again keeps the place"
    give_back("running")
    assert place("c", 3) == 3, "three devices are free, but two of them are kept for those in front"
    assert acquire("b", 1) == [1]
    assert acquire("a", 1) == [0]
    assert place("c", 3) == 1
    give_back("a")
    assert acquire("c", 3) == [0, 2, 3]
    assert queue() == []


def test_a_large_job_is_not_passed_over_by_small_ones() -> None:
    acquire("first", 2)
    acquire("second", 2)
    assert place("large", 3) == 1
    give_back("first")
    assert place("large", 3) == 1
    assert place("small", 1) == 2, "two devices are free, and both wait for the large job's third"
    give_back("second")
    assert acquire("large", 3) == [0, 1, 2]
    assert acquire("small", 1) == [3]


def test_certain_devices_are_waited_for_without_holding_up_the_others() -> None:
    assert ask("first", ids=(2,)) == [2]
    assert place("second", ids=(2, 3)) == 1
    assert ask("third", 2) == [0, 1], "device 3 is free, but kept for the second"
    assert place("fourth", ids=(3,)) == 2
    give_back("first")
    assert ask("second", ids=(3, 2)) == [2, 3]
    assert ask("second", ids=(2, 3)) == [2, 3], "a retry has its own"
    give_back("second")
    assert ask("fourth", ids=(3,)) == [3]


@pytest.mark.parametrize(
    ("ids", "told"), [((4,), r"found \[4\], expected configured devices: \[0, 1, 2, 3\]"), ((1, 1), "each")]
)
def test_devices_that_are_not_there_are_refused(ids: tuple[int, ...], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        ask("first", ids=ids)
    assert queue() == []


def test_certain_devices_are_refused_where_none_is_configured() -> None:
    with pytest.raises(BadInputError, match="no GPU is configured"):
        ask("first", ids=(0,), devices=[])


def test_a_waiter_that_died_leaves_the_queue() -> None:
    acquire("running", 4)
    assert [place(name, 4) for name in ("dead", "alive")] == [1, 2]
    fall_silent("dead")
    assert queue() == ["alive"]
    assert place("alive", 4) == 1
    give_back("running")
    assert acquire("alive", 4) == DEVICES
    assert place("dead") == 1, "it comes back at the end of the queue"


def test_leaving_gives_up_the_place() -> None:
    acquire("running", 4)
    assert [place(name) for name in ("first", "second")] == [1, 2]
    give_back("first")
    assert queue() == ["second"]


def test_a_lease_says_who_since_when_and_where_it_runs() -> None:
    before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)
    acquire("first", 1)
    with transaction() as session:
        [lease] = leases.current(session)
    assert (lease.device, lease.holder, lease.runtime) == (0, "first", "process")
    assert before < lease.since < dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)


def test_a_runtime_judges_its_own_jobs_only() -> None:
    """A Docker engine does not know whether a process lives: to it every process job looks dead."""
    acquire("first", 1)
    make_old("first")
    with transaction() as session:
        assert leases.reclaim(session, lambda _: False, runtime="docker") == []
        assert leases.reclaim(session, lambda _: False, runtime="process") == ["first"]


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


def test_no_device_is_ever_held_twice_and_everyone_is_served_under_concurrent_askers() -> None:
    """Forty jobs of one to three devices in eight threads: every grant is exclusive until its release."""
    held: dict[int, str] = {}
    grants = 0

    def job(number: int) -> None:
        nonlocal grants
        holder = f"job-{number}"
        count = random.Random(number).randint(1, 3)
        while isinstance(mine := ask(holder, count), Waiting):
            pass
        assert len(mine) == count
        for device in mine:
            assert held.setdefault(device, holder) == holder
        for device in mine:
            del held[device]
        grants += 1
        give_back(holder)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(job, range(40)))
    assert grants == 40
    assert holders() == {}
    assert queue() == []


def test_concurrent_askers_are_served_in_the_order_of_their_places() -> None:
    acquire("running", 4)
    names = [f"job-{number}" for number in range(6)]
    assert [place(name) for name in names] == [1, 2, 3, 4, 5, 6]
    served: list[str] = []

    def wait(name: str) -> None:
        while isinstance(ask(name, 4), Waiting):
            pass
        served.append(name)
        give_back(name)

    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(wait, name) for name in reversed(names)]
        give_back("running")
        for future in waiting:
            future.result()
    assert served == names
