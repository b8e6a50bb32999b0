"""The states of a server of full weights, for those who only read them, such as the gateway."""

from __future__ import annotations

from enum import StrEnum


class ServerState(StrEnum):
    """Where a server stands: waiting to be started, starting, ready for traffic, draining, stopping, stopped.

    Restarting: it hung, is being stopped for that, and waits for its start afterwards.
    """

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    RESTARTING = "restarting"
    STOPPED = "stopped"


ANSWERING = (ServerState.READY, ServerState.DRAINING)
"""States in which requests may go to a server: one that is drained gets none only once all gateways have looked."""
