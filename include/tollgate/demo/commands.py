"""The command ``tollgate demo``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def demo_command(
    dataset: Annotated[
        Path | None, typer.Option(help="Take this file through the road instead of the generated messages.")
    ] = None,
    ask: Annotated[
        bool,
        typer.Option("--ask", help="Then train one more whose verdict is inconclusive; a person answers in Airflow."),
    ] = False,
    harm: Annotated[
        bool,
        typer.Option("--harm", help="Then test a challenger that is fluent and wrong; a guardrail rolls it back."),
    ] = False,
    steps: Annotated[int, typer.Option(help="Training steps for --dataset.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Seed of data and users.", min=0)] = 0,
    output: Annotated[Path, typer.Option(help="Where to write what happened.", dir_okay=False)] = Path("demo.json"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; progress goes to stderr.")] = False,
) -> None:
    """Run the whole road once on real services: data, training, gates, A/B test. Exit status 0: all went as it must."""
    from rich.console import Console

    from tollgate.demo.road import DemoRoad, addresses
    from tollgate.demo.summary import show
    from tollgate.errors import BadInputError, Problem
    from tollgate.settings import settings

    if dataset is not None and not dataset.is_file():
        raise BadInputError("The dataset cannot be read.", [Problem("--dataset", str(dataset), "an existing file")])
    for name, chosen in (("--ask", ask), ("--harm", harm)):
        if dataset is not None and chosen:
            raise BadInputError("Two demos in one.", [Problem(name, "with --dataset", "one of the two")])
    configuration = settings()
    console = Console(stderr=as_json)
    road = DemoRoad(configuration, console, seed)
    try:
        summary = road.walk_real_data(dataset, steps) if dataset else road.walk(ask, harm)
    except Exception as error:
        road.summary.problems.append(str(error))
        raise
    finally:
        road.summary.addresses = addresses(configuration)
        road.summary.write(output)
    show(summary, console)
    if as_json:
        sys.stdout.write(summary.model_dump_json() + "\n")
    raise typer.Exit(0 if summary.ok else 1)
