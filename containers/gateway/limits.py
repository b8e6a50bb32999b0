"""How many requests a client may make in a minute, at all gateways together."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

_WINDOW = 60.0
_NEXT_EXCHANGE = 1.5
"""Seconds after which the gateways have told each other what they let through; longer than it takes."""
Counts = dict[str, int]


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left. ``retry_after`` is in seconds, 0 if the request may go on."""

    limit: int
    remaining: int
    retry_after: float


@dataclass(frozen=True, slots=True)
class Others:
    """What the other gateways let through.

    Attributes:
        gateways: How many there are.
        minute: The minute of ``now``; ``before`` is of the one before.
        told: This gateway's own count in that minute as all the others knew it when they said ``now``, or before.
    """

    gateways: int = 0
    minute: int = 0
    now: Mapping[str, int] = field(default_factory=dict)
    before: Mapping[str, int] = field(default_factory=dict)
    told: Mapping[str, int] = field(default_factory=dict)


class MinuteLimits:
    """A sliding window of a minute, approximated from the counts of this and the last minute of the clock.

    The last minute counts by the share of it that the window still covers, so that no client gets twice its limit at a
    full minute. Both counts are dropped as time goes on: memory is bounded by the clients of two minutes.

    With other gateways, what they have let through counts, too. Until they have told each other the next time, each may
    give a client its own part only of what was left the last time, at least one request: together they let through at
    most one request for each further gateway above the limit, whichever of them is asked. With no other gateway, or
    none that can be heard, the limit is exact here.
    """

    def __init__(self) -> None:
        self._minute = 0
        self._now: Counts = {}
        self._before: Counts = {}
        self.others = Others()

    def take(self, client: str, limit: int, clock: float | None = None) -> Allowance:
        """Count one request if the limit lets it through.

        Args:
            client: Who asks.
            limit: Requests a minute, at least 1.
            clock: Seconds of a clock that all gateways share; default: the time of day.
        """
        time_now = time.time() if clock is None else clock
        minute, passed = divmod(time_now, _WINDOW)
        self._turn(int(minute))
        own = self._now.get(client, 0)
        foreign, before, told = self._foreign(client)
        before += self._before.get(client, 0)
        used = own + foreign + before * (1.0 - passed / _WINDOW)
        if used + 1.0 > limit:
            return Allowance(limit, 0, self._wait(own + foreign, before, limit, passed))
        gateways = self.others.gateways + 1
        if gateways > 1:
            untold = own - told
            left = limit - (used - untold)
            if untold + 1 > max(1, int(left / gateways)):
                return Allowance(limit, 0, _NEXT_EXCHANGE)
        self._now[client] = own + 1
        return Allowance(limit, max(0, int(limit - used - 1.0)), 0.0)

    def counts(self, clock: float) -> tuple[int, Counts]:
        """The minute of the last request, and what was let through in it; nothing if that minute is over."""
        minute = int(clock // _WINDOW)
        now = dict(self._now)
        return (minute, now) if self._minute == minute else (minute, {})

    def _foreign(self, client: str) -> tuple[int, int, int]:
        """What others let through in this and the last minute, and what they know of this gateway's own."""
        others = self.others
        if others.minute == self._minute:
            return others.now.get(client, 0), others.before.get(client, 0), others.told.get(client, 0)
        if others.minute == self._minute - 1:
            return 0, others.now.get(client, 0), 0
        return 0, 0, 0

    @staticmethod
    def _wait(count: int, before: int, limit: int, passed: float) -> float:
        """Seconds until one more request fits."""
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
