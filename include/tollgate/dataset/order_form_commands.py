"""``tollgate dataset order-form``: what dialogues have to cover, whether they do, and more of them from few."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from tollgate.dataset.console import AsJson, errors, output, print_json
from tollgate.errors import BadInputError, GateRefusedError, Problem

if TYPE_CHECKING:
    from tollgate.dataset.order_forms import Coverage
    from tollgate.dataset.schema import Example

app = typer.Typer(no_args_is_help=True, help="Order forms: what dialogues have to cover, and more of them from few.")

File = Annotated[Path, typer.Argument(help="Dialogues: any file that prepare reads.")]


@app.command()
def show() -> None:
    """Print the form that comes with Tollgate, as the start of one's own."""
    from tollgate.dataset.order_forms import example_text

    sys.stdout.write(example_text().decode())


@app.command()
def check(
    file: File,
    form: Annotated[
        Path | None, typer.Option("--form", help="The order form, as JSON; the one of order-form show unless told.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fill in the checklist of an order form; exit status 1 if something is missing."""
    with errors(as_json):
        from tollgate.dataset import order_forms

        chosen = order_forms.read(form) if form else order_forms.example()
        coverage = order_forms.check(chosen, _dialogues(file))
        if not coverage.dialogues:
            found = f"{coverage.unreadable} rows, all unreadable"
            raise BadInputError("The file holds no dialogue", [Problem(str(file), found, "at least one dialogue")])
        missing = coverage.missing
        if as_json:
            items = [{**item.model_dump(), "covered": item.covered} for item in coverage.items]
            print_json({**coverage.model_dump(), "ok": not missing, "items": items})
        else:
            output().print(_checklist(coverage), soft_wrap=True)
        if missing:
            if as_json:
                raise typer.Exit(GateRefusedError.exit_status)
            short = ", ".join(f"{item.name} ({item.found} of {item.needed})" for item in missing[:10])
            raise GateRefusedError(f"{len(missing)} of {len(coverage.items)} lines are not covered: {short}")


@app.command()
def augment(
    file: File,
    target: Annotated[Path, typer.Argument(help="JSONL file to make.")],
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other copies; recorded with each of them.")] = 0,
    copies: Annotated[int, typer.Option(min=1, max=1000, help="Most copies of each training dialogue.")] = 3,
    vary: Annotated[str, typer.Option(help="What to change: names, dates, addresses, by commas.")] = (
        "names,dates,addresses"
    ),
    as_json: AsJson = False,
) -> None:
    """Write the dialogues and copies of the training ones with other names, dates, times and addresses."""
    with errors(as_json):
        from tollgate.dataset import augmentation

        kinds = [kind.strip() for kind in vary.split(",")]
        unknown = [kind for kind in kinds if kind not in augmentation.KINDS]
        if unknown:
            expected = f"some of {', '.join(augmentation.KINDS)}"
            raise BadInputError("An option is wrong", [Problem("--vary", repr(vary[:80]), expected)])
        chosen = [kind for kind in augmentation.KINDS if kind in kinds]
        done = augmentation.write(file, target, chosen, copies, seed)
        if as_json:
            print_json({"ok": True, "target": str(target), **done.model_dump(mode="json")})
        else:
            output().print(_summary(target, done.model_dump()), soft_wrap=True)


def _dialogues(path: Path) -> Iterator[Example | None]:
    from tollgate.dataset import readers
    from tollgate.dataset.layouts import FieldMapping
    from tollgate.dataset.schema import RowProblem

    for _, outcome in readers.read(path, FieldMapping(order_state="every")):
        yield None if isinstance(outcome, RowProblem) else outcome


def _checklist(coverage: Coverage) -> Table:
    table = Table("", "", "", "found", "needed", title=escape(coverage.title) or None)
    for item in coverage.items:
        mark = "[green]✓[/]" if item.covered else "[red]✗[/]"
        table.add_row(mark, item.subject, escape(item.name), f"{item.found:,}", f"{item.needed:,}")
    if coverage.unreadable:
        table.caption = f"{coverage.unreadable:,} rows are no dialogues"
    return table


def _summary(target: Path, done: dict[str, Any]) -> str:
    changed = ", ".join(f"{kind} {count:,}" for kind, count in done["changed"].items()) or "nothing"
    parts = ", ".join(f"{part} {count:,}" for part, count in done["parts"].items())
    lines = [
        f"{done['originals']:,} dialogues, {done['copied']:,} copies (seed {done['seed']}); changed: {changed}",
        f"{parts}; {done['without_copy']:,} hold nothing to change, {done['unreadable']:,} rows were unreadable",
        str(target),
    ]
    return "\n".join(lines)
