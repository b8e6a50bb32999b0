"""The request log: rows for ``ab_test_logs``, assignments and ratings, written in batches by a thread of its own.

Requests never wait for it. While PostgreSQL is away entries are kept in memory up to a limit; beyond it their detail is
shed, and counted. Answers are taken apart here and not while they are passed on.
"""

from __future__ import annotations

import datetime as dt
import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Engine, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from gateway.metrics import Metrics
from tollgate.store.tables import Assignment, RequestLog

log = logging.getLogger(__name__)

BATCH = 500
_LONGEST_PAUSE = 5.0


@dataclass(slots=True)
class RequestRecord:
    """One request, as far as it has come. ``answer`` holds the bytes that vLLM sent, whole or as server-sent events."""

    request_id: str
    route: str
    variant: str | None
    experiment_id: int | None
    model_id: int | None
    version: str
    user_hash: str | None
    session_id: str | None
    messages: Any
    started: float = field(default_factory=time.perf_counter)
    created_at: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    status: int = 500
    seconds: float = 0.0
    first_byte_seconds: float | None = None
    streamed: bool = False
    answer: bytes = b""


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


class RequestLogWriter:
    """Takes records from requests and writes them.

    Args:
        engine: Tollgate's database.
        metrics: Told what was shed or lost.
        log_text: Whether questions and answers are kept.
        limit: Most records in memory.
        pause: Seconds between two writes.
    """

    def __init__(self, engine: Engine, metrics: Metrics, log_text: bool, limit: int, pause: float) -> None:
        self._engine = engine
        self._metrics = metrics
        self._log_text = log_text
        self._pause = pause
        self._queue: queue.Queue[Record] = queue.Queue(limit)
        self._open: set[str] = set()
        self._held: list[FeedbackRecord] = []
        self._stop = threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Write what is waiting, for at most that long, and stop."""
        self._deadline = time.monotonic() + seconds
        self._stop.set()
        self._thread.join(seconds + 1.0)

    def open(self, request_id: str) -> None:
        """Announce a request whose record will follow, so that ratings that come before it wait for it."""
        self._open.add(request_id)

    def is_open(self, request_id: str) -> bool:
        """Whether a request is known here but not yet in the database."""
        return request_id in self._open

    def put(self, record: Record) -> None:
        """Queue a record; shed it if there is no room. Never blocks."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._metrics.log_shed.add()
            if isinstance(record, RequestRecord):
                self._open.discard(record.request_id)

    @property
    def waiting(self) -> int:
        """Records not yet taken up for writing."""
        return self._queue.qsize()

    def record_feedback(self, feedback: FeedbackRecord) -> bool:
        """Write a rating at once. False if there is no such request in the database.

        Raises:
            SQLAlchemyError: PostgreSQL does not answer.
        """
        with Session(self._engine) as session, session.begin():
            return _update_rating(session, feedback)

    def _run(self) -> None:
        while True:
            stopping = self._stop.wait(self._pause)
            while batch := self._take():
                self._write_until_it_is_written(batch)
            if stopping:
                return

    def _take(self) -> list[Record]:
        batch: list[Record] = []
        while len(batch) < BATCH:
            try:
                batch.append(self._queue.get_nowait())
            except queue.Empty:
                break
        if batch or (self._held and not self._stop.is_set()):
            return [*batch, *self._release()]
        return batch

    def _release(self) -> Iterator[FeedbackRecord]:
        """Held ratings whose request has meanwhile been written."""
        held, self._held = self._held, []
        for feedback in held:
            if self.is_open(feedback.request_id):
                self._held.append(feedback)
            else:
                yield feedback

    def _write_until_it_is_written(self, batch: Sequence[Record]) -> None:
        pause = self._pause
        while True:
            try:
                self._write(batch)
            except (OperationalError, InterfaceError) as error:
                if time.monotonic() + pause > self._deadline:
                    log.error("%s log entries are lost: PostgreSQL does not answer.", len(batch))  # noqa: TRY400
                    self._metrics.log_lost.add(len(batch))
                    break
                log.warning("The request log waits, PostgreSQL does not answer: %s", type(error).__name__)
                self._stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            except SQLAlchemyError as error:
                if len(batch) > 1:
                    # One record that the database refuses must not take the others with it.
                    for record in batch:
                        self._write_until_it_is_written([record])
                    return
                log.error("A log entry is lost, the database refuses it: %s", type(error).__name__)  # noqa: TRY400
                self._metrics.log_lost.add()
                break
            else:
                break
        self._open.difference_update(record.request_id for record in batch if isinstance(record, RequestRecord))

    def _write(self, batch: Sequence[Record]) -> None:
        requests = [_row(record, self._log_text) for record in batch if isinstance(record, RequestRecord)]
        assignments = [
            {"experiment_id": record.experiment_id, "user_hash": record.user_hash, "variant": record.variant}
            for record in batch
            if isinstance(record, AssignmentRecord)
        ]
        with Session(self._engine) as session, session.begin():
            # A batch may come twice, when its commit was done but the answer got lost.
            if assignments:
                session.execute(insert(Assignment).on_conflict_do_nothing(), assignments)
            if requests:
                session.execute(insert(RequestLog).on_conflict_do_nothing(index_elements=["request_id"]), requests)
            ratings = [record for record in batch if isinstance(record, FeedbackRecord)]
            early = [rating for rating in ratings if not _update_rating(session, rating)]
        self._held += [rating for rating in early if self.is_open(rating.request_id)]


def _update_rating(session: Session, feedback: FeedbackRecord) -> bool:
    given = {"user_rating": feedback.rating, "user_feedback": feedback.text}
    values = {column: value for column, value in given.items() if value is not None}
    statement = update(RequestLog).where(RequestLog.request_id == feedback.request_id).values(values)
    return session.scalar(statement.returning(RequestLog.id)) is not None


def _row(record: RequestRecord, log_text: bool) -> dict[str, Any]:
    answer = _read_stream(record.answer) if record.streamed else _read_whole(record.answer)
    return {
        "request_id": record.request_id,
        "experiment_id": record.experiment_id,
        "route": record.route,
        "user_hash": record.user_hash,
        "session_id": record.session_id,
        "variant": record.variant,
        "model_id": record.model_id,
        "query": _clean(_question(record.messages)) if log_text else None,
        "response": _clean(answer.text) if log_text else None,
        "status_code": record.status,
        "response_time_ms": 1000 * record.seconds,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "created_at": record.created_at,
    }


@dataclass(slots=True)
class _Answer:
    text: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def add(self, content: Any, key: str) -> None:
        """Take text and tokens from a completion, or from one chunk of it."""
        if not isinstance(content, dict):
            return
        usage = content.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens = usage.get("prompt_tokens")
            self.completion_tokens = usage.get("completion_tokens")
        for choice in (content.get("choices") or [])[:1]:
            part = (choice.get(key) or {}).get("content")
            if isinstance(part, str):
                self.text = (self.text or "") + part


def _read_whole(body: bytes) -> _Answer:
    answer = _Answer()
    answer.add(_json(body), "message")
    return answer


def _read_stream(events: bytes) -> _Answer:
    answer = _Answer()
    for content in _events(events.splitlines()):
        answer.add(content, "delta")
    return answer


def _events(lines: Iterable[bytes]) -> Iterator[Any]:
    for line in lines:
        if line.startswith(b"data:"):
            yield _json(line[5:].strip())


def _json(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # "[DONE]", or an event cut where the log's limit was
        return None


def _question(messages: Any) -> str | None:
    """The last message's text; of a message in parts, its parts of text."""
    content = messages[-1].get("content") if isinstance(messages, list) and isinstance(messages[-1], dict) else None
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else None


def _clean(text: str | None) -> str | None:
    """PostgreSQL holds no NUL and no half of a surrogate pair."""
    return None if text is None else text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
