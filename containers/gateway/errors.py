"""Errors that a client of the gateway sees, in the form that OpenAI's clients understand."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import orjson

_KINDS = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}


class RequestError(Exception):
    """A request that gets an error instead of an answer.

    Args:
        status: HTTP status.
        message: What was wrong, for people.
        code: The same for programs, for example ``model_not_found``.
        param: The field of the request that was wrong.
        headers: Headers of the answer.
    """

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        code: str,
        param: str | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's API writes it."""
        general = "invalid_request_error" if self.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
        kind = _KINDS.get(self.status, general)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def event(self) -> bytes:
        """The error as the last event of a stream."""
        return b"data: " + orjson.dumps(self.body()) + b"\n\n"


def bad_request(message: str, param: str | None = None) -> RequestError:
    """A request that cannot be understood."""
    return RequestError(HTTPStatus.BAD_REQUEST, message, "invalid_request", param)
