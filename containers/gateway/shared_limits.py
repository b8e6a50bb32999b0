"""Gateways tell each other what they let through, over PostgreSQL's NOTIFY: no table, and no query for a request.

Each says every half second how much each client had of it in this minute, if that has changed, and so also that it is
there. Totals are told, not differences: a lost message is made up for by the next one. Who hears a gateway for the
first time tells it all. While PostgreSQL is away each one counts for itself.

A gateway may give a client more only when all others have said that they heard what it gave before: two that tell each
other at the same moment would else both take the same rest.
"""

from __future__ import annotations

import logging
import select
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import psycopg2
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from gateway.limits import Counts, MinuteLimits, Others

log = logging.getLogger(__name__)

CHANNEL = "tollgate_limits"
_PAUSE = 0.5
_SILENT_SECONDS = 10.0
"""A gateway that was not heard for so long is gone; what it let through still counts."""
_MOST_BYTES = 7000
"""PostgreSQL takes less than 8000 bytes in a message."""


@dataclass(slots=True)
class _Peer:
    """What another gateway said: its last message's number, the last one of ours that it heard, and its counts."""

    heard_at: float
    number: int = 0
    acknowledged: int = 0
    minute: int = 0
    now: Counts = field(default_factory=dict)
    before: Counts = field(default_factory=dict)

    def learn(self, minute: int, counts: Mapping[str, int]) -> None:
        """Take over totals of a minute."""
        if minute > self.minute:
            self.before = self.now if minute == self.minute + 1 else {}
            self.now = {}
            self.minute = minute
        if minute == self.minute:
            self.now.update(counts)

    def in_minute(self, minute: int) -> tuple[Counts, Counts]:
        """What it let through in a minute and in the one before."""
        if self.minute == minute:
            return self.now, self.before
        return {}, self.now if self.minute == minute - 1 else {}


class SharedLimits:
    """Keeps ``limits`` told of the other gateways, in a thread of its own.

    Args:
        engine: Tollgate's database.
        limits: This gateway's own counts.
    """

    def __init__(self, engine: Engine, limits: MinuteLimits) -> None:
        self._engine = engine
        self._limits = limits
        self._name = uuid.uuid4().hex[:12]
        self._peers: dict[str, _Peer] = {}
        self._number = 0
        self._told: deque[tuple[int, int, Counts]] = deque()
        self._tells_all = True
        self._connection: Any = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="limits", daemon=True)

    def start(self) -> None:
        """Begin to tell and to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join(2 * _PAUSE)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._connection = self._connection or self._listen()
                self._tell()
                self._hear(time.monotonic() + _PAUSE)
            except (psycopg2.Error, SQLAlchemyError, OSError, ValueError):
                self._close()
                self._told.clear()
                self._limits.others = Others()
                self._stop.wait(_PAUSE)
            except Exception:  # a thread that ends would leave each gateway to itself without a word
                log.exception("Limits are not shared for the moment.")
                self._stop.wait(_PAUSE)
        self._close()

    def _tell(self) -> None:
        minute, counts = self._limits.counts(time.time())
        _, told_minute, last = self._told[-1] if self._told else (0, 0, {})
        told = last if told_minute == minute and not self._tells_all else {}
        changed = {client: count for client, count in counts.items() if told.get(client) != count}
        self._tells_all = False
        heard = {name: peer.number for name, peer in self._peers.items()}
        parts = list(_parts(changed, 24 * len(heard)))
        with self._connection.cursor() as cursor:
            for place, part in enumerate(parts, 1):
                # Only who heard the last part has heard it all.
                number = self._number + (place == len(parts))
                message = {"gateway": self._name, "number": number, "heard": heard, "minute": minute, "counts": part}
                cursor.execute("SELECT pg_notify(%s, %s)", (CHANNEL, orjson.dumps(message).decode()))
        self._number += 1
        self._told.append((self._number, minute, counts))
        self._count_others()

    def _hear(self, end: float) -> None:
        while not self._stop.is_set():
            self._connection.poll()
            messages, self._connection.notifies = self._connection.notifies, []
            for message in messages:
                self._learn(orjson.loads(message.payload))
            if messages:
                self._count_others()
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._connection], [], [], left)[0]:
                return

    def _learn(self, message: dict[str, Any]) -> None:
        name = message["gateway"]
        if name == self._name:
            return
        peer = self._peers.get(name)
        if peer is None:
            peer = self._peers[name] = _Peer(0.0)
            self._tells_all = True
        peer.heard_at = time.monotonic()
        peer.number = message["number"]
        peer.acknowledged = message["heard"].get(self._name, 0)
        peer.learn(message["minute"], message["counts"])

    def _count_others(self) -> None:
        minute = int(time.time() // 60)
        now: Counts = {}
        before: Counts = {}
        for peer in self._peers.values():
            for total, part in zip((now, before), peer.in_minute(minute), strict=True):
                for client, count in part.items():
                    total[client] = total.get(client, 0) + count
        heard = time.monotonic() - _SILENT_SECONDS
        alive = [peer for peer in self._peers.values() if peer.heard_at > heard]
        told = self._heard_by_all(min((peer.acknowledged for peer in alive), default=self._number), minute)
        self._limits.others = Others(len(alive), minute, now, before, told)
        self._peers = {
            name: peer for name, peer in self._peers.items() if peer.heard_at > heard or peer.minute >= minute - 1
        }

    def _heard_by_all(self, number: int, minute: int) -> Counts:
        """What all others know of this gateway's counts in a minute: those of message ``number``."""
        while len(self._told) > 1 and self._told[1][0] <= number:
            self._told.popleft()
        if not self._told or self._told[0][0] > number or self._told[0][1] != minute:
            return {}
        return self._told[0][2]

    def _listen(self) -> Any:
        pooled = self._engine.raw_connection()
        connection: Any = pooled.driver_connection
        pooled.detach()  # it is ours for as long as it lives
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")
        self._tells_all = True
        return connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _parts(counts: Counts, taken: int = 0) -> Iterator[Counts]:
    """Counts in parts that fit into a message each, beside so many bytes; one empty part if there are none."""
    part: Counts = {}
    size = taken
    for client, count in counts.items():
        part[client] = count
        size += len(client.encode()) + 16
        if size > _MOST_BYTES - 300:
            yield part
            part, size = {}, taken
    if part or not counts:
        yield part
