"""The worker processes of one gateway tell each other their figures, so that whoever is asked shows those of all."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

FOLDER = "TOLLGATE_GATEWAY_SIBLINGS"
"""Environment variable with the folder of the workers' sockets; set by the process that starts them."""
_PATIENCE = 1.0
_SUFFIX = ".sock"

Figures = dict[str, Any]


class Siblings:
    """Answers other workers, and asks them.

    Args:
        folder: Folder of the workers' sockets; none where there is one worker.
        figures: This worker's figures, as JSON can hold them.
    """

    def __init__(self, folder: str | None, figures: Callable[[], Figures]) -> None:
        self._folder = Path(folder) if folder else None
        self._figures = figures
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to answer."""
        if self._folder is not None:
            self._server = await asyncio.start_unix_server(self._answer, self._folder / f"{os.getpid()}{_SUFFIX}")

    def stop(self) -> None:
        """Answer no more."""
        if self._server is not None and self._folder is not None:
            self._server.close()
            (self._folder / f"{os.getpid()}{_SUFFIX}").unlink(missing_ok=True)

    async def others(self) -> list[Figures]:
        """The figures of the other workers that answer."""
        if self._folder is None:
            return []
        own = f"{os.getpid()}{_SUFFIX}"
        paths = [path for path in sorted(self._folder.glob(f"*{_SUFFIX}")) if path.name != own]
        return [found for found in await asyncio.gather(*map(_ask, paths)) if found is not None]

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(orjson.dumps(self._figures()))
            await writer.drain()
            writer.close()
            await writer.wait_closed()


async def _ask(path: Path) -> Figures | None:
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return orjson.loads(await reader.read())
            finally:
                writer.close()
    except (OSError, TimeoutError, orjson.JSONDecodeError):  # it has just ended
        return None
