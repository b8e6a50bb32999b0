"""Providers, the order in which routes try them, and clients' keys: read from PostgreSQL again and again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from gateway.routes_table import Route, Version
from tollgate.serving import keys, providers
from tollgate.serving.providers import OWN, Endpoint

log = logging.getLogger(__name__)


class ProvidersTable:
    """Who answers which route, read every ``refresh_seconds`` in a thread of its own; kept while PostgreSQL is away.

    Args:
        engine: Tollgate's database.
        own_addresses: The model servers of the settings.
        keys_folder: Folder of providers' keys.
        refresh_seconds: Pause between two reads.
    """

    def __init__(self, engine: Engine, own_addresses: Sequence[str], keys_folder: Path, refresh_seconds: float) -> None:
        self._engine = engine
        self._own_addresses = tuple(own_addresses)
        self._keys_folder = keys_folder
        self._refresh_seconds = refresh_seconds
        self._own = (Endpoint(OWN, self._own_addresses),)
        self._chains: Mapping[str, tuple[Endpoint, ...]] = {}
        self._problems: Mapping[str, str] = {}
        self.client_keys: Mapping[str, int | None] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="providers", daemon=True)

    def start(self) -> None:
        """Read once and go on reading in the background."""
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        """Stop reading."""
        self._stop.set()

    def chain(self, route: str, address: str | None = None) -> tuple[Endpoint, ...]:
        """Who is asked for a route, in order; at least one.

        Args:
            route: The route.
            address: The server of the version alone, which stands in the place of the shared ones.
        """
        found = self._chains.get(route, self._own)
        if address is None:
            return found
        return tuple(replace(one, addresses=(address,)) if one.name == OWN else one for one in found)

    def route(self, name: str) -> Route | None:
        """A route that only other providers serve, no version of ours: it has a name and providers."""
        chain = self._chains.get(name)
        if chain is None:
            return None
        return Route(name, ((Version(chain[0].model or name, None), 1.0),), None)

    def names(self) -> list[str]:
        """Routes that have providers of their own."""
        return list(self._chains)

    def refresh(self) -> bool:
        """Read now. False, and all stays as it was, if PostgreSQL does not answer."""
        try:
            with Session(self._engine) as session:
                known, problems = providers.endpoints(session, self._own_addresses, self._keys_folder)
                chains = providers.chains(session)
                client_keys = keys.active(session)
        except SQLAlchemyError:  # the table of routes says so in the log
            return False
        for name, problem in problems.items():
            if self._problems.get(name) != problem:
                log.warning("The provider %s is passed over: %s", name, problem)
        self._problems = problems
        own = known.get(OWN)
        self._own = (own if own is not None else Endpoint(OWN, self._own_addresses),)
        self._chains = {
            route: chain
            for route, names in chains.items()
            if (chain := tuple(known[name] for name in names if name in known))
        }
        self.client_keys = client_keys
        return True

    def _run(self) -> None:
        while not self._stop.wait(self._refresh_seconds):
            try:
                self.refresh()
            except Exception:  # a thread that ends would leave the gateway with old settings for ever
                log.exception("Providers stay as they were.")
