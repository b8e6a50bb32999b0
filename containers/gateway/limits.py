"""How many requests a client may make in a minute."""

from __future__ import annotations

import time
from dataclasses import dataclass

_WINDOW = 60.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left. ``retry_after`` is in seconds, 0 if the request may go on."""

    limit: int
    remaining: int
    retry_after: float


class MinuteLimits:
    """A sliding window of a minute, approximated from the counts of this and the last minute of the clock.

    The last minute counts by the share of it that the window still covers, so that no client gets twice its limit at a
    full minute. Both counts are dropped as time goes on: memory is bounded by the clients of two minutes.
    """

    def __init__(self) -> None:
        self._minute = 0
        self._now: dict[str, int] = {}
        self._before: dict[str, int] = {}

    def take(self, client: str, limit: int, clock: float | None = None) -> Allowance:
        """Count one request if the limit lets it through.

        Args:
            client: Who asks.
            limit: Requests a minute, at least 1.
            clock: Seconds of a clock that never goes back; default: the process's.
        """
        time_now = time.monotonic() if clock is None else clock
        minute, passed = divmod(time_now, _WINDOW)
        self._turn(int(minute))
        count = self._now.get(client, 0)
        used = count + self._before.get(client, 0) * (1.0 - passed / _WINDOW)
        if used + 1.0 > limit:
            return Allowance(limit, 0, self._wait(client, limit, passed))
        self._now[client] = count + 1
        return Allowance(limit, max(0, int(limit - used - 1.0)), 0.0)

    def _wait(self, client: str, limit: int, passed: float) -> float:
        """Seconds until one more request fits."""
        count, before = self._now.get(client, 0), self._before.get(client, 0)
        if count + 1 <= limit and before:
            # count + before * (1 - t / 60) + 1 = limit, solved for t
            return max(1.0, _WINDOW * (1.0 - (limit - count - 1) / before) - passed)
        return max(1.0, _WINDOW - passed + _WINDOW * (1.0 - (limit - 1) / max(count, 1)))

    def _turn(self, minute: int) -> None:
        if minute == self._minute:
            return
        self._before = self._now if minute == self._minute + 1 else {}
        self._now = {}
        self._minute = minute
