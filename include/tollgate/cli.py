"""The command line ``tollgate``: the stack's own commands here, every other room's commands beside their subject."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from tollgate.errors import TollgateError

ROOMS = {
    "dataset": ("tollgate.dataset.commands:app", "Prepare dataset versions; list, compare and describe them."),
    "job": ("tollgate.training.commands:app", "Training jobs: list, show, watch live, stop."),
    "model": ("tollgate.registry.commands:app", "List, promote and roll back model versions."),
    "rollout": ("tollgate.serving.commands:app", "A version takes over its route by steps, watched at each."),
    "reconcile": (
        "tollgate.serving.commands:reconcile_command",
        "Bring replicas, rollouts and MLflow in line with PostgreSQL.",
    ),
    "experiment": ("tollgate.experiments.commands:app", "Plan, simulate and analyse A/B tests."),
    "evaluate": (
        "tollgate.evaluation.evaluate_commands:evaluate_command",
        "Ask a served model a suite of cases.",
    ),
    "estimate": (
        "tollgate.training.estimate_commands:estimate_command",
        "Estimate parameters, memory, time and cost of a training before it starts.",
    ),
    "schema": ("tollgate.training.estimate_commands:schema_app", "Print published JSON schemas."),
    "providers": (
        "tollgate.serving.provider_commands:app",
        "Providers behind the gateway: add, order, check, compare.",
    ),
    "keys": ("tollgate.serving.key_commands:app", "Keys of the gateway's clients: create, list, revoke."),
    "verdict": ("tollgate.evaluation.commands:verdict_command", "Judge an evaluation against the gates."),
    "gpus": ("tollgate.training.gpu_commands:gpus_command", "Show which job has which GPU, and who waits."),
    "demo": (
        "tollgate.demo.commands:demo_command",
        "Run the whole road once: data, training, gates, A/B test.",
    ),
}
"""Commands of other rooms: where each is defined, and its line in the help. They are imported when called, for
importing all of them would delay every command."""


def application(words: Sequence[str]) -> typer.Typer:
    """The command line for these words: of the other rooms, only the one that they call is imported.

    Args:
        words: The words after ``tollgate``.
    """
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="From raw dialogue data to a fine-tuned language model in production, and back when the new one is worse.",
    )
    app.callback()(options)
    for command in (up, down, status):
        app.command()(command)
    called = next((word for word in words if not word.startswith("-")), None)
    for name, (place, line) in ROOMS.items():
        if name == called:
            _mount(app, name, place, line)
        else:
            app.command(name, help=line)(_listed_only)
    return app


def _mount(app: typer.Typer, name: str, place: str, line: str) -> None:
    module, attribute = place.split(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        app.add_typer(found, name=name, help=line)
    else:
        app.command(name)(found)


def _listed_only() -> None:
    """Stands for a command that these words do not call."""
    raise AssertionError("application() mounts the command that is called")


def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of all commands; :func:`main` acts on them."""


def up(
    without: Annotated[list[str] | None, typer.Option(help="Leave this service out; may be repeated.")] = None,
) -> None:
    """Start the local stack and wait until it is healthy; does nothing when it runs."""
    from rich.console import Console

    from tollgate.settings import settings
    from tollgate.stack import lifecycle

    console = Console(stderr=True)
    configuration = settings()
    started = lifecycle.up(configuration, console, without or ())
    if started.already_running:
        console.print("The stack is running already; nothing to do.")
    addresses = (
        f"Airflow  {configuration.airflow_address}  user admin, password in {configuration.secrets_file}",
        f"MLflow   {configuration.mlflow_address}",
        f"Gateway  {configuration.gateway_address}",
    )
    console.print(*addresses, sep="\n", soft_wrap=True, highlight=False)


def down() -> None:
    """Stop the local stack; no process of it stays, also when its supervisor was killed."""
    from rich.console import Console

    from tollgate.settings import settings
    from tollgate.stack import lifecycle

    console = Console(stderr=True)
    stopped = lifecycle.down(settings())
    console.print(f"Stopped {stopped} processes." if stopped else "Nothing was running.")


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show every service: state, process, address, health and memory; exit status 3 unless all are healthy."""
    from tollgate.settings import settings
    from tollgate.stack import lifecycle

    found = lifecycle.status(settings())
    if as_json:
        sys.stdout.write(json.dumps({"services": [asdict(service) for service in found]}, indent=2) + "\n")
    else:
        _print_status(found)
    if not all(service.healthy for service in found):
        raise typer.Exit(TollgateError.exit_status)


def _print_status(found: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("service", "state", "pid", "healthy", "memory", "address"):
        table.add_column(title, justify="right" if title in {"pid", "memory"} else "left", no_wrap=True)
    for service in found:
        table.add_row(
            service.name,
            service.state,
            str(service.process_id or ""),
            "[green]yes[/]" if service.healthy else "[red]no[/]",
            f"{service.memory / 2**20:.0f} MB" if service.process_id else "",
            service.address or "",
        )
    console = Console()
    Console(width=console.width if console.is_terminal else 160).print(table)
    for service in found:
        if service.problem:
            console.print(f"{service.name}: {service.problem}", markup=False, highlight=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors meant for the user become a plain message on stderr and their exit status.

    Args:
        arguments: The words after ``tollgate``; default: those of this process.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        application(words)(words)
    except TollgateError as error:
        if "--debug" in words:
            raise
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_status) from None
