"""The request log: rows for ``ab_test_logs``, assignments and ratings, through a spool on disk to PostgreSQL.

A request appends its entry to the spool before its answer is complete, so that the entry outlives the process. A thread
of its own reads the spool and writes batches; while PostgreSQL is away they wait on disk, and above the bound texts are
no longer kept, then entries. Requests never wait for any of it. Writing twice changes nothing: rows are known by their
request's id.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Engine, text, update
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from gateway.answers import Answer, read_stream
from gateway.metrics import Metrics
from gateway.spool import Spool
from tollgate.store.tables import RequestLog

log = logging.getLogger(__name__)

BATCH = 500
_LONGEST_PAUSE = 5.0
_ADOPT_SECONDS = 5.0
_ID_DIGITS = 32
_RATING_WAITS = 3600.0
"""Seconds that a rating waits for its request's row, which may still be in another gateway's spool."""


@dataclass(slots=True)
class RequestRecord:
    """One request, as far as it has come. ``served_*`` is who answered, the rest who was meant to."""

    request_id: str
    endpoint: str
    route: str
    variant: str | None
    experiment_id: int | None
    model_id: int | None
    assigned_version: str
    user_hash: str | None
    session_id: str | None
    question: str | None
    served_version: str = ""
    served_model_id: int | None = None
    provider: str | None = None
    fallback: bool = False
    prompt_price: float | None = None
    completion_price: float | None = None
    started: float = field(default_factory=time.perf_counter)
    created: float = field(default_factory=time.time)
    status: int = 500
    seconds: float = 0.0
    first_byte_seconds: float | None = None
    answer: Answer = field(default_factory=Answer)
    events: bytes | None = None
    is_logged: bool = False

    @property
    def version(self) -> str:
        """Who answered, else who was meant to."""
        return self.served_version or self.assigned_version


@dataclass(frozen=True, slots=True)
class AssignmentRecord:
    """A user's first request in an experiment."""

    experiment_id: int
    user_hash: str
    variant: str


@dataclass(frozen=True, slots=True)
class FeedbackRecord:
    """A user's rating of one answer."""

    request_id: str
    rating: int | None
    text: str | None


Record = RequestRecord | AssignmentRecord | FeedbackRecord
Entry = dict[str, Any]


_DRAWN_AT_ONCE = 256
_CHANCE: list[str] = []
"""Random digits for the next requests: one call to the kernel for many of them."""


def new_request_id() -> str:
    """A name for a request: 12 hexadecimal digits of its time in ms, 20 by chance. The time says how young it is."""
    if not _CHANCE:
        drawn = os.urandom(10 * _DRAWN_AT_ONCE).hex()
        _CHANCE.extend(drawn[at : at + 20] for at in range(0, len(drawn), 20))
    return f"{time.time_ns() // 1_000_000:012x}{_CHANCE.pop()}"


def is_young(request_id: str) -> bool:
    """Whether a request of that name may have been made within the last hour; its row may still be on its way."""
    try:
        made = int(request_id[:12], 16) / 1000
        int(request_id, 16)
    except ValueError:
        return False
    return len(request_id) == _ID_DIGITS and -60.0 < time.time() - made < _RATING_WAITS


class RequestLogWriter:
    """Takes records from requests and writes them.

    Args:
        engine: Tollgate's database.
        metrics: Told what was shed or lost.
        log_text: Whether questions and answers are kept.
        root: Folder of the spools of all gateways on this disk.
        limit: Most bytes of this gateway's spool.
        pause: Seconds between two writes.
    """

    def __init__(self, engine: Engine, metrics: Metrics, log_text: bool, root: Path, limit: int, pause: float) -> None:
        self._engine = engine
        self._metrics = metrics
        self._log_text = log_text
        self._root = root
        self._spool = Spool.create(root, limit)
        self._pause = pause
        self._held: dict[str, Entry] = {}
        self._stop = threading.Event()
        self._deadline = float("inf")
        self._adopted_at = 0.0
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Write what is waiting, for at most that long, and stop; the rest stays on disk."""
        self._deadline = time.monotonic() + seconds
        self._stop.set()
        self._thread.join(seconds + 1.0)
        self._spool.close()

    def put(self, record: Record) -> bool:
        """Append a record to the spool. False if there is no room for it: it is shed."""
        if isinstance(record, RequestRecord):
            if record.is_logged:
                return True
            record.is_logged = True
        return self._append(self._entry(record))

    @property
    def waiting(self) -> int:
        """Bytes not yet written to the database."""
        return self._spool.waiting

    def record_feedback(self, feedback: FeedbackRecord) -> bool:
        """Write a rating at once. False if there is no such request in the database.

        Raises:
            SQLAlchemyError: PostgreSQL does not answer.
        """
        with Session(self._engine) as session, session.begin():
            return _update_rating(session, feedback.request_id, feedback.rating, feedback.text)

    def _append(self, entry: Entry) -> bool:
        try:
            kept = self._spool.append(orjson.dumps(entry))
        except OSError as error:
            log.error("A log entry is lost, the disk refuses it: %s", error.strerror or error)  # noqa: TRY400
            self._metrics.log_lost.add()
            return False
        if not kept:
            self._metrics.log_shed.add()
        return kept

    def _entry(self, record: Record) -> Entry:
        if isinstance(record, AssignmentRecord):
            return {"kind": "assignment", **{name: getattr(record, name) for name in record.__slots__}}
        if isinstance(record, FeedbackRecord):
            return {"kind": "feedback", **{name: getattr(record, name) for name in record.__slots__}}
        keeps_text = self._log_text
        if keeps_text and self._spool.is_filling:
            keeps_text = False
            self._metrics.log_text_shed.add()
        return _request_entry(record, keeps_text)

    def _run(self) -> None:
        while True:
            stopping = self._stop.wait(self._pause)
            self._write_all(self._spool)
            self._release()
            if time.monotonic() - self._adopted_at > _ADOPT_SECONDS:
                self._write_orphans()
            if stopping:
                return

    def _write_orphans(self) -> None:
        self._adopted_at = time.monotonic()
        for orphan in Spool.adopt(self._root):
            log.warning("Writing %s bytes of log that a gateway left behind.", orphan.waiting)
            self._write_all(orphan)
            aside = orphan.aside()
            if aside and self._write_until_it_is_written(aside):
                orphan.set_aside(())
            orphan.close()

    def _write_all(self, spool: Spool) -> None:
        while (batch := spool.next_batch(BATCH)) is not None:
            if not self._write_until_it_is_written(batch.lines):
                return
            spool.done(batch)

    def _write_until_it_is_written(self, lines: Sequence[bytes]) -> bool:
        """False if the process has to end before PostgreSQL answers; the entries then stay on disk."""
        pause = self._pause
        while True:
            try:
                self._write(lines)
            except (OperationalError, InterfaceError) as error:
                if time.monotonic() + pause > self._deadline:
                    return False
                log.warning("The request log waits, PostgreSQL does not answer: %s", type(error).__name__)
                self._stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            except (SQLAlchemyError, ValueError, KeyError, TypeError) as error:
                if len(lines) > 1:
                    # One entry that the database refuses must not take the others with it.
                    outcomes = [self._write_until_it_is_written([line]) for line in lines]
                    return all(outcomes)
                log.error("A log entry is lost, the database refuses it: %s", type(error).__name__)  # noqa: TRY400
                self._metrics.log_lost.add(len(lines))
                return True
            else:
                return True

    def _write(self, lines: Sequence[bytes]) -> None:
        now = dt.datetime.now(dt.UTC)
        # What is a row already goes to PostgreSQL as it is.
        requests = [line for line in lines if line.startswith(_ROW_BEGINS)]
        entries = [_parsed(line) for line in lines if not line.startswith(_ROW_BEGINS)]
        requests += [orjson.dumps(_row(entry)) for entry in entries if entry.get("kind") == "request"]
        assignments = [
            orjson.dumps({name: entry[name] for name in AssignmentRecord.__slots__} | {"assigned_at": now})
            for entry in entries
            if entry.get("kind") == "assignment"
        ]
        ratings = [entry for entry in entries if entry.get("kind") == "feedback"]
        with Session(self._engine) as session, session.begin():
            # A batch may come twice, when its commit was done but the answer got lost.
            _insert(session, "ab_assignments", _ASSIGNMENT_COLUMNS, assignments, "DO NOTHING")
            _insert(session, "ab_test_logs", _ROW_COLUMNS, requests, "(request_id) DO NOTHING")
            early = [rating for rating in ratings if not _rate(session, rating)]
        if early:
            # On disk before the spool forgets the batch: an accepted rating must outlive the process.
            for rating in early:
                self._hold(rating)
            self._set_aside()

    def _set_aside(self) -> None:
        self._spool.set_aside([orjson.dumps(rating) for rating in self._held.values()])

    def _hold(self, rating: Entry) -> None:
        if is_young(rating["request_id"]):
            given = {key: value for key, value in rating.items() if value is not None}
            self._held[rating["request_id"]] = self._held.get(rating["request_id"], {}) | given
        else:
            self._metrics.log_lost.add()

    def _release(self) -> None:
        """Try again the ratings whose request had no row yet."""
        if not self._held:
            return
        held, self._held = self._held, {}
        try:
            self._write([orjson.dumps(rating) for rating in held.values()])
        except SQLAlchemyError:
            self._held = held | self._held
        else:
            if len(self._held) < len(held):
                self._set_aside()


_COPIED = (
    *("request_id", "experiment_id", "route", "user_hash", "session_id", "variant", "model_id", "status_code"),
    *("response_time_ms", "endpoint", "provider", "assigned_version", "served_version", "fallback", "first_token_ms"),
)
_ROW_COLUMNS = (
    *_COPIED,
    *("query", "response", "prompt_tokens", "completion_tokens", "finish_reason", "cost", "created_at"),
)
_ASSIGNMENT_COLUMNS = ("experiment_id", "user_hash", "variant", "assigned_at")
_ROW_BEGINS = b'{"kind":"row"'
"""How a line begins that is a row of ``ab_test_logs`` already; entries of streams become rows when they are written."""


def _insert(session: Session, table: str, columns: Sequence[str], rows: Sequence[bytes], on_conflict: str) -> None:
    """Insert rows, each JSON, by one statement: one for each row takes several times as long."""
    if not rows:
        return
    names = ", ".join(columns)
    statement = text(
        f"INSERT INTO {table} ({names}) SELECT {names} FROM "  # noqa: S608  # names of our own
        f"json_populate_recordset(NULL::{table}, CAST(:rows AS json)) ON CONFLICT {on_conflict}"
    )
    session.execute(statement, {"rows": (b"[" + b",".join(rows) + b"]").decode()})


def _request_entry(record: RequestRecord, keeps_text: bool) -> Entry:
    answer = record.answer
    entry = {
        "kind": "request",
        "request_id": record.request_id,
        "experiment_id": record.experiment_id,
        "route": record.route,
        "user_hash": record.user_hash,
        "session_id": record.session_id,
        "variant": record.variant,
        "model_id": record.served_model_id if record.provider else record.model_id,
        "status_code": int(record.status),
        "response_time_ms": 1000 * record.seconds,
        "endpoint": record.endpoint,
        "provider": record.provider,
        "assigned_version": record.assigned_version,
        "served_version": record.served_version or None,
        "fallback": record.fallback,
        "first_token_ms": None if record.first_byte_seconds is None else 1000 * record.first_byte_seconds,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "finish_reason": answer.finish_reason,
        "query": _clean(record.question) if keeps_text else None,
        "response": _clean(answer.text) if keeps_text else None,
    }
    if record.events is None:
        prices = (record.prompt_price, record.completion_price)
        return entry | {
            "kind": "row",
            "cost": _cost(answer.prompt_tokens, answer.completion_tokens, *prices),
            "created_at": dt.datetime.fromtimestamp(record.created, dt.UTC),
        }
    # Only a stream's end is needed for why it ended; the rest is text.
    events = record.events if keeps_text else record.events[-4096:]
    return entry | {
        "events": events.decode("utf-8", "replace"),
        "prices": (record.prompt_price, record.completion_price),
        "created": record.created,
        "keeps_text": keeps_text,
    }


def _parsed(line: bytes) -> Entry:
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:  # torn by a machine that died
        return {}
    return entry if isinstance(entry, dict) else {}


def _rate(session: Session, entry: Entry) -> bool:
    return _update_rating(session, entry["request_id"], entry.get("rating"), entry.get("text"))


def _update_rating(session: Session, request_id: str, rating: int | None, text: str | None) -> bool:
    given = {"user_rating": rating, "user_feedback": text}
    values = {column: value for column, value in given.items() if value is not None}
    statement = update(RequestLog).where(RequestLog.request_id == request_id).values(values)
    return session.scalar(statement.returning(RequestLog.id)) is not None


def _row(entry: Entry) -> dict[str, Any]:
    streamed = read_stream(entry["events"].encode()) if entry.get("events") else Answer()
    prompt_tokens = _first(entry["prompt_tokens"], streamed.prompt_tokens)
    completion_tokens = _first(entry["completion_tokens"], streamed.completion_tokens)
    text = _first(entry.get("response"), _clean(streamed.text))
    return {name: entry[name] for name in _COPIED} | {
        "query": entry.get("query"),
        "response": text if entry["keeps_text"] else None,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "finish_reason": _first(entry["finish_reason"], streamed.finish_reason),
        "cost": _cost(prompt_tokens, completion_tokens, *entry["prices"]),
        "created_at": dt.datetime.fromtimestamp(entry["created"], dt.UTC),
    }


def _first(value: Any, other: Any) -> Any:
    return other if value is None else value


def _cost(
    prompt_tokens: int | None,
    completion_tokens: int | None,
    prompt_price: float | None,
    completion_price: float | None,
) -> float | None:
    """Tokens times the price of a million; null where neither has a price, or the tokens are not known."""
    if prompt_tokens is None or (prompt_price is None and completion_price is None):
        return None
    return (prompt_tokens * (prompt_price or 0.0) + (completion_tokens or 0) * (completion_price or 0.0)) / 1e6


def _clean(text: str | None) -> str | None:
    """PostgreSQL holds no NUL and no half of a surrogate pair."""
    return None if text is None else text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
