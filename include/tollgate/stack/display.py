"""Show how a start proceeds: a live table on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

State = Literal["waiting", "starting", "healthy", "failed"]

_STYLES: dict[State, str] = {"waiting": "dim", "starting": "yellow", "healthy": "green", "failed": "bold red"}


@dataclass
class _Row:
    state: State = "waiting"
    begun: float | None = None
    seconds: float | None = None
    detail: str = ""


class StartDisplay:
    """Progress of a start, one row for each part; use it as a context manager.

    Args:
        names: The parts, in the order shown.
        console: Where to write; progress belongs on stderr.
    """

    def __init__(self, names: Iterable[str], console: Console) -> None:
        self._rows = {name: _Row() for name in names}
        self._console = console
        self._live = (
            Live(get_renderable=self._table, console=console, refresh_per_second=4) if console.is_terminal else None
        )

    @property
    def seconds(self) -> dict[str, float]:
        """How long each finished part took, in seconds."""
        return {name: round(row.seconds, 1) for name, row in self._rows.items() if row.seconds is not None}

    def change(self, name: str, state: State, detail: str = "") -> None:
        """Note that a part is in another state now.

        Args:
            name: The part.
            state: Its new state.
            detail: What a reader should know about it, such as an address.
        """
        row = self._rows[name]
        now = time.monotonic()
        row.state, row.detail = state, detail
        if row.begun is None:
            row.begun = now
        if state in {"healthy", "failed"}:
            row.seconds = now - row.begun
        if self._live is None and state != "waiting":
            took = f" after {row.seconds:.1f} s" if row.seconds is not None else ""
            self._console.print(
                f"{name}: {state}{took} {detail}".rstrip(), markup=False, highlight=False, soft_wrap=True
            )

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for title in ("service", "state", "seconds", ""):
            table.add_column(title, justify="right" if title == "seconds" else "left")
        now = time.monotonic()
        for name, row in self._rows.items():
            seconds = row.seconds if row.seconds is not None else (now - row.begun if row.begun is not None else None)
            shown = "" if seconds is None else f"{seconds:.1f}"
            table.add_row(name, f"[{_STYLES[row.state]}]{row.state}[/]", shown, row.detail)
        return table

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
