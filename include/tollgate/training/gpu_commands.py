"""``tollgate gpus``: which job has which GPU since when, and who waits in which place."""

from __future__ import annotations

import datetime as dt
import sys
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tollgate.errors import BadInputError, Problem
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.training import leases
from tollgate.training.leases import Lease, Waiter


def gpus_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    free: Annotated[
        str | None,
        typer.Option(help="Free the devices of this holder. Only for a job that is gone: another one may start there."),
    ] = None,
) -> None:
    """Show the configured GPUs, who holds each since when, and the queue with its places."""
    with transaction() as session:
        if free is not None and not leases.release(session, free):
            held = ", ".join(sorted(set(leases.holders(session).values()))) or "none, no GPU is held"
            raise BadInputError("Nothing was freed.", [Problem("--free", repr(free), f"one of the holders: {held}")])
        held_now, queue = leases.current(session), leases.waiters(session)
    configured = settings().gpu_ids
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(_as_json(configured, held_now, queue), option=orjson.OPT_INDENT_2) + b"\n")
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # holders are long names, and a file has no margin
    if not configured:
        console.print("No GPU is configured (TOLLGATE_GPU_IDS): jobs run on the CPU.")
    if configured or held_now:
        console.print(_devices_table(configured, held_now))
    if queue:
        console.print(_queue_table(queue))
    elif configured:
        console.print("Nobody waits.")


def _as_json(configured: list[int], held: list[Lease], queue: list[Waiter]) -> dict[str, Any]:
    return {
        "configured": sorted(set(configured)),
        "leases": [
            {"device": lease.device, "holder": lease.holder, "runtime": lease.runtime, "since": lease.since}
            for lease in held
        ],
        "queue": [
            {
                "place": waiter.place,
                "holder": waiter.wish.holder,
                "count": waiter.wish.size,
                "devices": list(waiter.wish.devices),
                "since": waiter.since,
            }
            for waiter in queue
        ],
    }


def _devices_table(configured: list[int], held: list[Lease]) -> Table:
    by_device = {lease.device: lease for lease in held}
    table = Table(box=None, pad_edge=False)
    for title in ("GPU", "holder", "since", "runs as"):
        table.add_column(title, overflow="fold")
    for device in sorted(by_device.keys() | set(configured)):
        lease = by_device.get(device)
        name = str(device) if device in configured else f"{device} (not configured)"
        if lease is None:
            table.add_row(name, "[green]free[/]", "", "")
        else:
            table.add_row(name, escape(lease.holder), _since(lease.since), lease.runtime or "")
    return table


def _queue_table(queue: list[Waiter]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("place", "waits for", "holder", "since"):
        table.add_column(title, overflow="fold")
    for waiter in queue:
        table.add_row(str(waiter.place), str(waiter.wish), escape(waiter.wish.holder), _since(waiter.since))
    return table


def _since(moment: dt.datetime) -> str:
    """The moment in local time, and how long ago it was, in whole minutes."""
    minutes = max(0, int((dt.datetime.now(dt.UTC) - moment).total_seconds() // 60))
    ago = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
    return f"{moment.astimezone():%Y-%m-%d %H:%M} ({ago})"
