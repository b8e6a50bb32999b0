"""Gateways tell each other what they let through, over PostgreSQL's NOTIFY: no table, and no query for a request.

Each says every half second how much each client had of it in this minute, if that has changed, and so also that it is
there. Totals are told, not differences: a lost message is made up for by the next one. Who hears a gateway for the
first time tells it all. While PostgreSQL is away each one counts for itself.

Every round of messages has a number and says up to which round the others were heard. A gateway takes what it told for
known only when all have said so: until then they may still give away what they thought was left, and their answer
brings how much that was.
"""

from __future__ import annotations

import logging
import select
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import psycopg2
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from gateway.limits import Counts, MinuteLimits, Others
from gateway.listening import listen

log = logging.getLogger(__name__)

CHANNEL = "tollgate_limits"
_PAUSE = 0.5
_SILENT_SECONDS = 3.0
"""A gateway that was not heard for so long is gone; what it let through still counts."""
_MOST_BYTES = 7000
"""PostgreSQL takes less than 8000 bytes in a message."""


@dataclass(slots=True)
class _Peer:
    """What another gateway said; its last whole ``round``, and the last of ours that it ``knows``."""

    heard_at: float
    minute: int = 0
    now: Counts = field(default_factory=dict)
    before: Counts = field(default_factory=dict)
    round: int = 0
    knows: int = 0

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


@dataclass(frozen=True, slots=True)
class _Round:
    """What was told in a round: totals of a minute."""

    number: int
    minute: int
    counts: Counts


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
        self._rounds: deque[_Round] = deque([_Round(0, 0, {})])
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
                self._limits.others = Others()
                self._stop.wait(_PAUSE)
            except Exception:  # a thread that ends would leave each gateway to itself without a word
                log.exception("Limits are not shared for the moment.")
                self._stop.wait(_PAUSE)
        self._close()

    def _tell(self) -> None:
        minute, counts = self._limits.counts(time.time())
        before = self._rounds[-1]
        told = before.counts if before.minute == minute and not self._tells_all else {}
        changed = {client: count for client, count in counts.items() if told.get(client) != count}
        self._tells_all = False
        told_now = _Round(before.number + 1, minute, counts)
        heard = {name: peer.round for name, peer in self._peers.items()}
        parts = list(_parts(changed))
        with self._connection.cursor() as cursor:
            for place, part in enumerate(parts, start=1):
                whole = {"round": told_now.number, "heard": heard} if place == len(parts) else {}
                message = {"gateway": self._name, "minute": minute, "counts": part, **whole}
                cursor.execute("SELECT pg_notify(%s, %s)", (CHANNEL, orjson.dumps(message).decode()))
        self._rounds.append(told_now)
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
        peer.learn(message["minute"], message["counts"])
        peer.round = message.get("round", peer.round)
        peer.knows = message.get("heard", {}).get(self._name, peer.knows)

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
        known = self._known_to(alive)
        told = known.counts if known.minute == minute else {}
        self._limits.others = Others(len(alive), minute, now, before, told)
        self._peers = {
            name: peer for name, peer in self._peers.items() if peer.heard_at > heard or peer.minute >= minute - 1
        }

    def _known_to(self, alive: Sequence[_Peer]) -> _Round:
        """The newest round that all the others know; rounds before it, and of minutes before, are forgotten."""
        newest = self._rounds[-1]
        least = min((peer.knows for peer in alive), default=newest.number)
        while len(self._rounds) > 1 and (self._rounds[1].number <= least or self._rounds[1].minute < newest.minute):
            self._rounds.popleft()
        return self._rounds[0]

    def _listen(self) -> Any:
        self._tells_all = True
        return listen(self._engine, CHANNEL)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _parts(counts: Counts) -> Iterator[Counts]:
    """Counts in parts that fit into a message each; one empty part if there are none."""
    part: Counts = {}
    size = 0
    for client, count in counts.items():
        part[client] = count
        size += len(client.encode()) + 16
        if size > _MOST_BYTES - 300:
            yield part
            part, size = {}, 0
    if part or not counts:
        yield part
