"""``tollgate estimate``: what a training will need, take and cost; ``tollgate schema``: what may be asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tollgate.dataset.console import AsJson, errors, output, print_json
from tollgate.errors import BadInputError, Problem

if TYPE_CHECKING:
    from rich.table import Table

    from tollgate.settings import Settings
    from tollgate.training.estimate import Estimate, MemoryEstimate, MergingEstimate
    from tollgate.training.spec import TrainingSpec

schema_app = typer.Typer(no_args_is_help=True, help="Print published JSON schemas.")


@schema_app.callback()
def schemas() -> None:
    """Print published JSON schemas."""


@schema_app.command("training")
def schema_training() -> None:
    """Print the JSON schema of a training specification (docs/training-spec.schema.json is a copy)."""
    from tollgate.training.spec import schema_text

    typer.echo(schema_text(), nl=False)


def estimate_command(
    file: Annotated[Path | None, typer.Argument(help="A specification; its fields may be left to the options.")] = None,
    base_model: Annotated[Path | None, typer.Option(help="Folder of the base model; else the one vLLM serves.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset version, for example highway@v3.")] = None,
    method: Annotated[Literal["full", "lora", "qlora"] | None, typer.Option(help="Which weights are trained.")] = None,
    changed: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field as name=value, such as batch_size=8; may be repeated."),
    ] = None,
    device: Annotated[
        Literal["cpu", "gpu"] | None, typer.Option(help="Where it would run; else what TOLLGATE_GPU_IDS says.")
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Train a few steps now to have a rate.")] = False,
    as_json: AsJson = False,
) -> None:
    """Estimate parameters, memory, time and cost of a training; exit status 1 where it does not fit."""
    with errors(as_json):
        from tollgate.settings import settings
        from tollgate.training.estimate import estimate
        from tollgate.training.estimate_measure import measure as train_a_few_steps

        options = {"base_model": base_model, "dataset": dataset, "method": method}
        spec = _specification(file, options, changed or [], settings())
        if measure:
            train_a_few_steps(spec, settings())
        found = estimate(spec, settings(), device)
    if as_json:
        print_json({"ok": found.fits is not False, **found.model_dump(mode="json")})
    else:
        output().print(*_tables(found), sep="\n")
    raise typer.Exit(1 if found.fits is False else 0)


def _specification(file: Path | None, options: dict[str, Any], changed: list[str], settings: Settings) -> TrainingSpec:
    """The specification of the file with the options over it; where there is no file, of the options alone.

    Raises:
        BadInputError: Everything that is wrong with it.
    """
    from tollgate.dataset.versions import resolve
    from tollgate.training.base_model import base_model_problems
    from tollgate.training.parsing import parse_spec

    values: dict[str, Any] = {"job_name": "estimate", "output": str(settings.jobs / "estimate")}
    values |= {"base_model": str(settings.served_base_model)} if file is None else _read(file)
    if options["base_model"]:
        values["base_model"] = str(options["base_model"].absolute())
    if options["dataset"]:
        version = resolve(options["dataset"], settings.datasets)
        values |= {"dataset": str(version.folder), "dataset_reference": version.reference}
    elif file is None:
        raise BadInputError("Nothing to estimate.", [Problem("--dataset", "none", "a version, such as highway@v3")])
    if options["method"]:
        values["method"] = options["method"]
    spec = parse_spec({**values, **dict(map(_assignment, changed))})
    if problems := base_model_problems(spec.base_model):
        raise BadInputError("The base model cannot be trained.", problems)
    return spec


def _read(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = Problem(str(file), str(error), "a specification as JSON")
        raise BadInputError("The specification cannot be read.", [problem]) from error
    if not isinstance(values, dict):
        problem = Problem(str(file), type(values).__name__, "a JSON object")
        raise BadInputError("The specification cannot be read.", [problem])
    return values


def _assignment(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign:
        raise BadInputError("A field cannot be set.", [Problem("--set", repr(text), "name=value")])
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value


def _tables(found: Estimate) -> list[Any]:
    shown: list[Any] = [_parameters(found), _memory(found.memory)]
    if found.merging:
        shown.append(_merging(found.merging))
    if found.time:
        shown.append(_time(found))
    if found.would_fit:
        from tollgate.training.estimate import in_words

        shown += ["[red]It does not fit.[/] It would with:", *(f"  {in_words(way)}" for way in found.would_fit)]
    elif found.memory.fits is False:
        shown.append("[red]It does not fit[/], and no settings were found with which it would.")
    return [*shown, *(f"[dim]{note}[/]" for note in found.notes)]


def _table(title: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    table.add_column(style="dim")
    return table


def _parameters(found: Estimate) -> Table:
    table = _table(f"{found.method} on {found.dataset}, {Path(found.base_model).name}")
    table.add_row("parameters", f"{found.total_parameters:,}", "")
    share = f"{found.trainable_share:.2%} of them"
    table.add_row("trained", f"{found.trainable_parameters:,}", share)
    where = f"{found.processes} process{'es' if found.processes > 1 else ''}, distribution {found.distribution}"
    table.add_row("device", found.device_name or found.device, where)
    twice = ("yes", "activations are computed twice") if found.gradient_checkpointing else ("no", "")
    table.add_row("checkpointing", *twice)
    return table


def _memory(memory: MemoryEstimate) -> Table:
    table = _table("Memory of one process")
    for name, value in memory.parts.items():
        table.add_row(name, _size(value), "")
    fits = {True: "[green]fits[/]", False: "[red]does not fit[/]", None: "not compared"}[memory.fits]
    limit = f"{fits}; limit {_size(memory.limit)}, {memory.limit_from}" if memory.limit else memory.limit_from
    table.add_row("[bold]at most[/]", f"[bold]{_size(memory.peak)}[/]", f"during {memory.phase}; {limit}")
    return table


def _merging(merging: MergingEstimate) -> Table:
    table = _table("Merging the adapter, after the training")
    fits = "[green]fits[/]" if merging.fits else "[red]does not fit[/]"
    limit = f"; limit {_size(merging.limit)}, {merging.limit_from}" if merging.limit else ""
    table.add_row("[bold]host memory[/]", f"[bold]{_size(merging.memory)}[/]", f"no GPU; {fits}{limit}")
    table.add_row("disk", _size(merging.disk), "the merged weights")
    return table


def _time(found: Estimate) -> Table:
    time = found.time
    assert time is not None
    table = _table("Time")
    table.add_row("rows", f"{time.rows:,}", f"{time.rows_counted:,} tokenized")
    table.add_row("tokens in an epoch", f"{time.tokens_per_epoch:,}", "without padding")
    table.add_row("steps", f"{time.steps:,}", f"{time.steps_per_epoch:,} in an epoch")
    table.add_row("tokens in a step", f"{time.computed_tokens_per_step:,}", "with padding")
    if time.seconds_per_step and time.total_seconds and time.seconds_per_epoch:
        table.add_row("a step", f"{time.seconds_per_step:.3f} s", f"{time.tokens_per_second:,.0f} tokens/s")
        table.add_row("an epoch", _duration(time.seconds_per_epoch), "")
        table.add_row(
            "all", _duration(time.total_seconds), f"{_duration(time.evaluation_seconds or 0)} of it evaluation"
        )
        table.add_row("measured by", str(len(time.measured_by)), ", ".join(time.measured_by[:3]))
    if found.cost:
        table.add_row("cost", f"{found.cost.amount:,.2f} {found.cost.currency}", found.cost.basis)
    return table


def _size(value: int) -> str:
    return f"{value / 1e9:.2f} GB" if value >= 1e8 else f"{value / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
