"""A circuit breaker: an address that failed several times in a row is left alone for a while, then tried once."""

from __future__ import annotations

import time


class Breaker:
    """State of one address.

    Args:
        failures: So many failures in a row open it, at least 1.
        seconds: So long it stays open before one request may try again.
    """

    __slots__ = ("_failed", "_limit", "_retry_at", "_seconds")

    def __init__(self, failures: int, seconds: float) -> None:
        self._limit = failures
        self._seconds = seconds
        self._failed = 0
        self._retry_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the address is being left alone."""
        return self._failed >= self._limit

    def allows(self) -> bool:
        """Whether a request may go there now; where it is open, once each ``seconds``."""
        if self._failed < self._limit:
            return True
        now = time.monotonic()
        if now < self._retry_at:
            return False
        self._retry_at = now + self._seconds  # this request is the trial; others wait for its outcome
        return True

    def succeeded(self) -> None:
        """It answered."""
        self._failed = 0

    def failed(self) -> None:
        """It did not answer, or not as a server that is well."""
        self._failed += 1
        if self._failed >= self._limit:
            self._retry_at = time.monotonic() + self._seconds
