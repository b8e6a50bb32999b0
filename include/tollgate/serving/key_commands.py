"""``tollgate keys``: the gateway's clients' keys."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import select

from tollgate.serving import keys
from tollgate.store.session import transaction
from tollgate.store.tables import GatewayKey

app = typer.Typer(no_args_is_help=True, help="Keys of the gateway's clients: create, list, revoke.")

Name = Annotated[str, typer.Argument(help="What the key is for, for example web-shop.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def create(
    name: Name,
    per_minute: Annotated[
        int | None, typer.Option("--per-minute", help="Its own limit; without: the gateway's.")
    ] = None,
) -> None:
    """Make a key and print it; it is shown this once."""
    with transaction() as session:
        key = keys.create(session, name, getpass.getuser(), per_minute)
    sys.stdout.write(key + "\n")


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List keys: name, limit, who made them, whether they are revoked."""
    with transaction() as session:
        found = list(session.scalars(select(GatewayKey).order_by(GatewayKey.name)))
    if as_json:
        fields = ("name", "requests_per_minute", "created_by", "created_at", "revoked_at")
        rows = [{field: getattr(row, field) for field in fields} for row in found]
        sys.stdout.write(orjson.dumps({"keys": rows}, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    table = Table("key", "requests a minute", "made by", "made (UTC)", "revoked (UTC)")
    for row in found:
        limit = str(row.requests_per_minute) if row.requests_per_minute else "the gateway's"
        revoked = f"{row.revoked_at:%Y-%m-%d %H:%M}" if row.revoked_at else "-"
        made = f"{row.created_at:%Y-%m-%d %H:%M}"
        table.add_row(escape(row.name), limit, escape(row.created_by or "-"), made, revoked)
    Console().print(table)


@app.command()
def revoke(name: Name) -> None:
    """Take a key out of use."""
    with transaction() as session:
        keys.revoke(session, name)
    Console().print(f"The key {escape(name)} is revoked; gateways follow within a second.", highlight=False)
