"""Work on the batches of a step in several threads, with the answers in the batches' order.

Arrow and the compiled kernels work outside Python's lock, so while one batch is in Python another is in a kernel.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Final, TypeVar

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

PARALLEL_KERNEL: Final = Lock()
"""Held around kernels that numba runs in parallel, where several threads may call one.

The threading layer that numba falls back to where there is no OpenMP ends the process if two run at once.
"""

_MOST = 4  # threads: each holds a batch of some tens of megabytes


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
    threads = min(_MOST, len(os.sched_getaffinity(0)))
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
