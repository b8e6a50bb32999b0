"""Run the gateway: ``python -m gateway --host 127.0.0.1 --port 8100``.

On SIGTERM it first says that it is not ready, for as long as the setting says, so that a balancer sends new requests
elsewhere; then it takes no new connections, finishes the requests under way, and writes the log.
"""

from __future__ import annotations

import argparse
import asyncio
from types import FrameType

import uvicorn

from gateway.app import Gateway, create_app
from gateway.configuration import GatewayOptions

_GRACE_SECONDS = 20


class _Server(uvicorn.Server):
    """A server that is unready for a while before it ends."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, drain_seconds: float) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain; a second one ends it as uvicorn does."""
        if self._gateway.is_draining or not self._drain_seconds:
            self._gateway.is_draining = True
            super().handle_exit(sig, frame)
            return
        self._gateway.is_draining = True
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(loop.call_later, self._drain_seconds, super().handle_exit, sig, frame)


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(prog="python -m gateway", description="Serve Tollgate's gateway.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100)
    chosen = parser.parse_args()
    gateway = create_app()
    config = uvicorn.Config(
        gateway,  # type: ignore[arg-type]
        host=chosen.host,
        port=chosen.port,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    _Server(config, gateway, GatewayOptions().drain_seconds).run()


if __name__ == "__main__":
    main()
