"""``tollgate experiment``: planning A/B tests and looking at them."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tollgate.errors import TollgateError

if TYPE_CHECKING:
    from tollgate.experiments.analysis import Standing

app = typer.Typer(name="experiment", help="Plan A/B tests and look at them.", no_args_is_help=True)

_SIZES = (50, 100, 200, 500, 1000)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("plan")
def plan_command(
    effect: Annotated[float, typer.Option(help="Difference of mean ratings not to be missed.", min=0.001, max=4)] = 0.3,
    deviation: Annotated[
        float, typer.Option(help="Standard deviation of the users' mean ratings.", min=0.01, max=4)
    ] = 1.13,
    alpha: Annotated[float, typer.Option(help="Chance of a false difference.", min=0.0001, max=0.4999)] = 0.05,
    power: Annotated[float, typer.Option(help="Chance to find the difference.", min=0.51, max=0.99)] = 0.8,
    share: Annotated[float, typer.Option(help="Challenger's share of the users.", min=0.01, max=0.99)] = 0.5,
    users_per_day: Annotated[float | None, typer.Option(help="Rated users a day, to say how long.", min=0.01)] = None,
    as_json: Json = False,
) -> None:
    """Say how many users in each arm a difference takes, and how many days that is."""
    from tollgate.experiments.plan import detectable_effect, sample_size

    users = sample_size(effect, deviation, alpha, power)
    traffic = math.ceil(users / min(share, 1 - share))
    days = math.ceil(traffic / users_per_day) if users_per_day else None
    found = {str(size): round(detectable_effect(size, deviation, alpha, power), 4) for size in _SIZES}
    if as_json:
        figures = {"users_per_arm": users, "users_in_all": traffic, "days": days, "detectable_effect": found}
        typer.echo(json.dumps(figures))
        return
    table = Table(title="Plan", title_justify="left", show_header=False)
    table.add_row("Users in each arm", f"{users:,}")
    table.add_row("Users in all, at this split", f"{traffic:,}")
    if days is not None:
        table.add_row("Days", f"{days:,}")
    table.add_section()
    for size, smallest in found.items():
        table.add_row(f"{size} users in each arm find", f"{smallest:.3f}")
    Console().print(table)


@app.command("status")
def status_command(as_json: Json = False) -> None:
    """Show every experiment: who is compared, how far it is, how it ended. Looks at nothing but counts."""
    from tollgate.experiments.analysis import standings
    from tollgate.store.session import transaction

    try:
        with transaction() as session:
            found = standings(session)
    except TollgateError as error:
        Console(stderr=True).print(f"[red]{escape(str(error))}[/red]", soft_wrap=True)
        raise typer.Exit(error.exit_status) from error
    if as_json:
        typer.echo(json.dumps({"experiments": [standing.model_dump(mode="json") for standing in found]}))
    else:
        _show(found)


def _show(found: list[Standing]) -> None:
    table = Table(title="Experiments", title_justify="left")
    for heading in ("Name", "Route", "A (champion)", "B (challenger)", "Rated users A / B", "Planned", "State"):
        table.add_column(heading)
    for standing in found:
        table.add_row(
            escape(standing.name),
            escape(standing.route),
            escape(standing.champion),
            escape(standing.challenger),
            f"{standing.users['a']} / {standing.users['b']}",
            str(standing.planned),
            f"{standing.status}: {standing.decision}" if standing.decision else standing.status,
        )
    Console().print(table)
