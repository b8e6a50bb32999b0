"""What all benchmarks share: a row, the table of rows, and the JSON file that keeps them."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Row = dict[str, Any]
"""One line of the table: metric, value, unit, peer, ratio, must and ok."""


def row(metric: str, value: float | None = None, unit: str = "", **others: Any) -> Row:
    """A row; ``others`` are peer, ratio, must and ok, which are empty and good unless told."""
    return {
        "metric": metric,
        "value": value,
        "unit": unit,
        "peer": None,
        "ratio": None,
        "must": None,
        "ok": True,
        **others,
    }


def table(title: str, rows: Sequence[Row]) -> Table:
    """The rows as people read them."""
    shown = Table(title=title)
    for name, justify in (("metric", "left"), ("value", "right"), ("unit", "left"), ("peer", "left")):
        shown.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name in ("ratio", "must", "ok"):
        shown.add_column(name, justify="right")
    for one in rows:
        open_row = one["must"] is None and one["ok"] in {None, True}
        judged = "" if open_row else "[green]yes[/]" if one["ok"] else "[red]NO[/]"
        cells = [_cell(one[name]) for name in ("metric", "value", "unit", "peer", "ratio", "must")]
        shown.add_row(*cells, judged)
    return shown


def _cell(value: object) -> str:
    """Three digits of a float, and all before the point."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def machine(**others: Any) -> dict[str, Any]:
    """When and on what was measured."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        **others,
    }


def publish(title: str, rows: Sequence[Row], measured_on: dict[str, Any], target: Path) -> int:
    """Print and write the rows; 0 if everything is as good as it must be, else 1."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table(title, rows))
    console.print(", ".join(f"{name} {value}" for name, value in measured_on.items()))
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**measured_on, "metrics": list(rows)}, ensure_ascii=False, indent=2)
    target.write_text(text + "\n", encoding="utf-8")
    return 0 if all(one["ok"] in {None, True} for one in rows) else 1
