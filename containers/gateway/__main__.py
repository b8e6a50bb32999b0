"""Run the gateway: ``python -m gateway --host 127.0.0.1 --port 8100``.

On SIGTERM it first says that it is not ready, for as long as the setting says, so that a balancer sends new requests
elsewhere; then it takes no new connections, finishes the requests under way, and writes the log.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from types import FrameType

import uvicorn

from gateway.app import Gateway, create_app
from gateway.configuration import GatewayOptions
from gateway.server import ServerProtocol
from gateway.workers import Workers, listening_socket

_GRACE_SECONDS = 20
_COLLECT_AFTER = 50_000
"""Objects after which Python looks for cycles among them: requests leave none, and looking costs time."""


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
    parser.add_argument("--worker", action="store_true", help="one of several on the port; not for people")
    chosen = parser.parse_args()
    options = GatewayOptions()
    if options.workers > 1 and not chosen.worker:
        arguments = ["--host", chosen.host, "--port", str(chosen.port), "--worker"]
        sys.exit(Workers(options.workers, arguments).run())
    _serve(chosen.host, chosen.port, chosen.worker, options)


def _serve(host: str, port: int, is_worker: bool, options: GatewayOptions) -> None:
    gateway = create_app()
    config = uvicorn.Config(
        gateway,  # type: ignore[arg-type]
        host=host,
        port=port,
        http=ServerProtocol,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 20)
    sockets = [listening_socket(host, port)] if is_worker else None
    _Server(config, gateway, options.drain_seconds).run(sockets)


if __name__ == "__main__":
    main()
