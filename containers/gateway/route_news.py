"""PostgreSQL's word that a route has moved, so that the gateway need not wait for its next look."""

from __future__ import annotations

import select
import threading
from typing import Any

import psycopg2
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from gateway.listening import listen
from tollgate.serving.channel import ROUTES_CHANNEL


class RouteNews:
    """Waits for the word, but never longer than it is told to: a hint may get lost, and the next look finds the rest.

    Args:
        engine: Tollgate's database.
        stop: Ends a wait while there is no connection.
    """

    def __init__(self, engine: Engine, stop: threading.Event) -> None:
        self._engine = engine
        self._stop = stop
        self._connection: Any = None

    def wait(self, seconds: float) -> None:
        """Return when a route has moved, or after ``seconds``."""
        try:
            self._connection = self._connection or listen(self._engine, ROUTES_CHANNEL)
            if select.select([self._connection], [], [], seconds)[0]:
                self._connection.poll()
                self._connection.notifies.clear()
        except (psycopg2.Error, SQLAlchemyError, OSError, ValueError):
            self.close()
            self._stop.wait(seconds)

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
