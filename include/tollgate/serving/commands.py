"""``tollgate rollout`` and ``tollgate reconcile``: a version takes over its route by steps, and all follow suit."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import select

from tollgate.errors import BadInputError, Problem
from tollgate.reasons import shown
from tollgate.registry import lifecycle
from tollgate.serving import canary_rollout
from tollgate.store.session import transaction
from tollgate.store.tables import Rollout, RolloutEvent

app = typer.Typer(no_args_is_help=True, help="A version takes over its route by steps, watched at each.")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object; progress goes to standard error.")]
Why = Annotated[str, typer.Option("--why", help="The reason, kept in the history.")]
Route = Annotated[str, typer.Argument(help="The route, which is the model's name, for example highway-router.")]


@app.command("start")
def start_command(
    served_name: Annotated[str, typer.Argument(help="The version, for example highway-router@v3.")],
    why: Why,
    steps: Annotated[str | None, typer.Option(help="Shares, for example 0.05,0.25,1; default: the settings.")] = None,
    dwell: Annotated[float | None, typer.Option(help="Least seconds at each share.", min=0)] = None,
    users: Annotated[int | None, typer.Option(help="Least users at each share.", min=1)] = None,
    ask: Annotated[list[str] | None, typer.Option("--ask", help="A question to answer first; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Give a version the first share of its route; tollgate reconcile or the DAG roll_out takes it further."""
    from tollgate.workflow import rollouts

    plan: dict[str, Any] = {"steps": _shares(steps), "dwell_seconds": dwell, "minimum_users": users}
    chosen = {name: value for name, value in plan.items() if value is not None}
    begun = rollouts.begin(served_name, why, getpass.getuser(), chosen, ask or [rollouts.GREETING])
    _tell(begun, as_json)


@app.command("look")
def look_command(route: Route, as_json: AsJson = False) -> None:
    """Measure now, and go on, wait or roll back as the figures say."""
    from tollgate.workflow import rollouts

    with transaction() as session:
        found = _running(canary_rollout.running(session, route), route).id
    _tell(rollouts.look(found, getpass.getuser()), as_json)


@app.command("abort")
def abort_command(route: Route, why: Why, as_json: AsJson = False) -> None:
    """Give the former version its whole route back."""
    from tollgate.workflow import rollouts

    with transaction() as session:
        found = _running(canary_rollout.running(session, route), route)
        served_name = lifecycle.get(session, found.model_id).served_name
    rollouts.roll_back(route, why, getpass.getuser(), served_name)
    with transaction() as session:
        _tell(canary_rollout.state(session, found.id), as_json)


@app.command("status")
def status_command(
    route: Annotated[str | None, typer.Argument(help="Only rollouts on this route.")] = None, as_json: AsJson = False
) -> None:
    """Show every rollout, newest first, and what was decided about it: who, when, why."""
    query = select(Rollout).order_by(Rollout.id.desc())
    with transaction() as session:
        found = session.scalars(query if route is None else query.where(Rollout.route == route)).all()
        told = [(canary_rollout.state(session, one.id), canary_rollout.events(session, one.id)) for one in found]
    if as_json:
        _print_json({"rollouts": [state.model_dump(mode="json") | {"events": _events(past)} for state, past in told]})
        return
    for state, past in told:
        Console().print(_table(state, past))


def reconcile_command(
    watch: Annotated[
        float | None, typer.Option("--watch", help="Go on for ever, with so many seconds in between.", min=0.5)
    ] = None,
    mlflow: Annotated[bool, typer.Option(help="Look at MLflow, too; with --watch once a minute.")] = True,
    heartbeat: Annotated[
        Path | None, typer.Option(help="With --watch: a file to touch after every round, for health checks.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring replicas, rollouts and MLflow in line with PostgreSQL; exit status 3 where something is in the way.

    A replica that restarted empty gets its adapters back, a rollout goes on, a hand edit in MLflow is undone. With
    --watch it speaks only of what it did, and of what stands in the way when that begins and ends.
    """
    from tollgate.workflow.reconcile import reconcile
    from tollgate.workflow.reconciler import Reconciler

    if watch is not None:
        if as_json:
            raise BadInputError("A watch has no end.", [Problem("--json", "with --watch", "one of the two")])
        Reconciler(watch, mlflow, heartbeat, lambda line: print(line, flush=True)).run()  # ruff: ignore[T201]
    done = reconcile(getpass.getuser(), with_mlflow=mlflow)
    if as_json:
        _print_json(done.model_dump())
    else:
        _print_reconciliation(done.model_dump())
    if done.problems:
        raise typer.Exit(3)


def _print_reconciliation(done: dict[str, list[str]]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for part, lines in done.items():
        for line in lines:
            console.print(f"{part}: {line}", markup=False)
    if not any(done.values()):
        console.print("Everything is as it should be.")


def _shares(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadInputError("No such steps.", [Problem("--steps", text, "shares, as in 0.05,0.25,1")]) from None


def _running(found: Rollout | None, route: str) -> Rollout:
    if found is None:
        raise BadInputError("No rollout runs.", [Problem("route", route, "one of tollgate rollout status")])
    return found


def _tell(state: canary_rollout.RolloutState, as_json: bool) -> None:
    if as_json:
        _print_json(state.model_dump(mode="json"))
        return
    why = shown(" ".join(state.reasons), " ".join(state.reasons_ko))
    text = f"{state.served_name} has {state.share:.0%} of {state.route} ({state.status}). {why}"
    Console(soft_wrap=True).print(escape(text), highlight=False)


def _table(state: canary_rollout.RolloutState, past: Sequence[RolloutEvent]) -> Table:
    title = f"{state.route}: {state.served_name} instead of {state.former}, {state.status}, share {state.share:.0%}"
    table = Table("when (UTC)", "what", "share", "who", "why", title=escape(title), title_justify="left")
    for event in past:
        when = f"{event.changed_at:%Y-%m-%d %H:%M:%S}"
        why = escape(shown(event.reason, event.reason_ko))
        table.add_row(when, event.action, f"{event.share:.0%}", escape(event.changed_by), why)
    return table


def _events(past: Sequence[RolloutEvent]) -> list[dict[str, Any]]:
    return [
        {
            "at": event.changed_at,
            "action": event.action,
            "share": event.share,
            "by": event.changed_by,
            "why": event.reason,
            "why_ko": event.reason_ko,
            "figures": event.figures,
        }
        for event in past
    ]


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
