"""Work in several threads: on the batches of a step, with the answers in their order, and on parts of a range.

Arrow, numpy and the compiled kernels work outside Python's lock, so while one batch is in Python another is in a
kernel. No kernel is one of those that numba runs in parallel by itself: where there is no OpenMP, two of them at once
would end the process.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

_MOST = 4  # threads: each holds a batch of some tens of megabytes
_LEAST_PART = 4096
_POLITENESS = 5  # added to the nice value: a third of the processor time of the threads that are given way to
_PARTS = 4  # for each thread, so that a part with long texts does not hold up the rest


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0))


def in_parts(count: int, work: Callable[[int, int], _Answer]) -> list[_Answer]:
    """Run work on consecutive parts of a range, on as many threads as there are cores.

    Args:
        count: Length of the range; a short one is done at once, in the caller's thread.
        work: Called with the start of a part and what it stops before; must not depend on the other calls.

    Returns:
        The answers, in the parts' order.
    """
    parts = min(_PARTS * cores(), count // _LEAST_PART)
    if parts <= 1:
        return [work(0, count)]
    edges = [count * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(work, edges[:-1], edges[1:]))


def aside() -> ThreadPoolExecutor:
    """A thread for work that fills the gaps of other work: it, and the threads it starts, give way to the others.

    Without that both would end late: the one that others wait for is held up by the one that nobody waits for yet.
    """
    return ThreadPoolExecutor(1, initializer=_give_way)


def _give_way() -> None:
    """Make this thread nicer; Linux keeps the nice value for each thread, and hands it on to those it starts."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _POLITENESS)


def in_order(function: Callable[[_Item], _Answer], items: Iterable[_Item]) -> Generator[_Answer]:
    """Call a function on each item, several at a time.

    Args:
        function: Called in a thread; must not depend on the other calls.
        items: Taken in the caller's thread, no more ahead than there are threads.

    Yields:
        The answers, in the items' order.

    Raises:
        Exception: What the function raised, where its answer would stand; later items are not begun.
    """
    threads = min(_MOST, cores())
    waiting: deque[Future[_Answer]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
