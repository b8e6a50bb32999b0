"""``POST /v1/feedback``: a user's rating of one answer, at once or as soon as the answer's row is written."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import RequestError, bad_request
from gateway.request_log import FeedbackRecord, RequestLogWriter, is_young

RATINGS = range(1, 6)
_LONGEST_TEXT = 10_000


def parse(payload: dict[str, Any]) -> FeedbackRecord:
    """Read ``{"request_id": …, "rating": 1-5, "text": …}``; rating or text may be left out, not both.

    Raises:
        RequestError: A field is missing, of the wrong kind or out of range.
    """
    request_id, rating, text = (payload.get(field) for field in ("request_id", "rating", "text"))
    if not isinstance(request_id, str) or not 0 < len(request_id) <= 64:
        raise bad_request("'request_id' is the value of the header x-tollgate-request-id.", "request_id")
    if rating is not None and (isinstance(rating, bool) or not isinstance(rating, int) or rating not in RATINGS):
        raise bad_request(f"'rating' is a whole number from {RATINGS[0]} to {RATINGS[-1]}.", "rating")
    if text is not None and (not isinstance(text, str) or len(text) > _LONGEST_TEXT):
        raise bad_request(f"'text' is a text of at most {_LONGEST_TEXT} characters.", "text")
    if rating is None and text is None:
        raise bad_request("A rating or a text is needed.", "rating")
    return FeedbackRecord(request_id, rating, None if text is None else text.replace("\x00", ""))


async def take(feedback: FeedbackRecord, writer: RequestLogWriter) -> tuple[HTTPStatus, dict[str, str]]:
    """Keep a rating; the same one again changes nothing, another one for the same answer replaces it.

    Returns:
        200 and ``recorded``, or 202 and ``accepted`` where the answer's row, or PostgreSQL, is still to come.

    Raises:
        RequestError: 404, there is no such request; 503, PostgreSQL is away and there is no room on disk.
    """
    accepted = HTTPStatus.ACCEPTED, {"request_id": feedback.request_id, "status": "accepted"}
    try:
        known = await asyncio.to_thread(writer.record_feedback, feedback)
    except SQLAlchemyError:
        _wait_on_disk(feedback, writer)
        return accepted
    if known:
        return HTTPStatus.OK, {"request_id": feedback.request_id, "status": "recorded"}
    if is_young(feedback.request_id):  # its row may be on its way, here or at another gateway
        _wait_on_disk(feedback, writer)
        return accepted
    text = f"There is no request '{feedback.request_id}'."
    raise RequestError(HTTPStatus.NOT_FOUND, text, "request_not_found", "request_id")


def _wait_on_disk(feedback: FeedbackRecord, writer: RequestLogWriter) -> None:
    if not writer.put(feedback):  # what is accepted must not be lost
        text = "Ratings can't be kept at the moment. Try again."
        raise RequestError(HTTPStatus.SERVICE_UNAVAILABLE, text, "log_full")
