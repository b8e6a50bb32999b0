"""``tollgate dataset``: prepare a source; list, compare, show, mark and export a dataset's versions; single gates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
import typer
from rich.console import Console

from tollgate.dataset import gate_commands, order_form_commands
from tollgate.dataset.console import AsJson, errors, output, print_json
from tollgate.errors import BadInputError, Problem

if TYPE_CHECKING:
    from tollgate.dataset.lifecycle import Standing
    from tollgate.dataset.versions import DatasetVersion
    from tollgate.gates.gate_settings import GateSettings

app = typer.Typer(no_args_is_help=True, help="Turn raw dialogues into versions of a dataset, and look at them.")

Reference = Annotated[str, typer.Argument(help="The version: name@v3, name@tag, or name@latest.")]
By = Annotated[str | None, typer.Option("--by", help="Who decides it; the user of this computer unless told.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; kept with the version.")]

_SAMPLES = 5


@app.command()
def prepare(
    source: Annotated[Path, typer.Argument(help="JSON, JSONL, Parquet, CSV or TSV file, also .gz and .zst.")],
    name: Annotated[str, typer.Option("--name", "-n", help="Name of the dataset.")],
    settings: Annotated[
        Path | None, typer.Option("--settings", help="JSON file with gate settings; the others keep their defaults.")
    ] = None,
    changed: Annotated[
        list[str] | None,
        typer.Option("--set", help="One gate setting as name=value, such as min_quality=0.6; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take a file through all gates to a new version (or find the one with the same content)."""
    with errors(as_json):
        from tollgate.dataset import displays
        from tollgate.dataset.report import REPORT_PAGE
        from tollgate.gates import pipeline

        chosen = _gate_settings(settings, changed or ())
        console = Console(stderr=True)
        steps: list[displays.Step] = []
        with console.status("") as status:
            version = pipeline.prepare(name, source, chosen, displays.shown_on(console, status.update, steps))
        if as_json:
            report = str(version.folder / REPORT_PAGE)
            print_json({"ok": True, "created": version.created, "report": report, **displays.summary(version)})
        else:
            output().print(
                displays.steps_table(steps), displays.prepared(version), sep="\n", soft_wrap=True, highlight=False
            )


@app.command()
def log(name: Annotated[str, typer.Argument(help="Name of the dataset.")], as_json: AsJson = False) -> None:
    """List the versions of a dataset, the newest first, with their tags, state, sources and changed settings."""
    with errors(as_json):
        from tollgate.dataset import displays, lifecycle, versions

        found = versions.list_versions(name)
        if not found:
            versions.resolve(f"{name}@v1")  # says which datasets there are
        history = lifecycle.read(found[0].folder.parent)
        if as_json:
            listed = [displays.logged(version, history) for version in reversed(found)]
            print_json({"ok": True, "name": name, "versions": listed})
        else:
            output().print(
                displays.log_table(found, history), *displays.lineage(found, history), sep="\n", soft_wrap=True
            )


@app.command()
def diff(
    old: Annotated[str, typer.Argument(help="The version to start from: name@v3, name@tag, or name@latest.")],
    new: Annotated[str, typer.Argument(help="The version to compare it with.")],
    samples: Annotated[int, typer.Option(min=0, max=1000, help="Most samples of each kind.")] = _SAMPLES,
    as_json: AsJson = False,
) -> None:
    """Show what differs between two versions: rows added, removed, changed, moved; settings and sources."""
    with errors(as_json):
        from tollgate.dataset import displays
        from tollgate.dataset.diff import compare
        from tollgate.dataset.versions import resolve

        found = compare(resolve(old), resolve(new), samples)
        if as_json:
            print_json({"ok": True, **found.model_dump(mode="json")})
        else:
            output().print(*displays.difference(found), sep="\n", soft_wrap=True)


@app.command()
def tag(
    reference: Reference,
    name: Annotated[str, typer.Argument(help="The tag, such as golden; name@golden then means this version.")],
    move: Annotated[bool, typer.Option("--move", help="Take the tag from the version that bears it.")] = False,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Give a version a tag."""
    with errors(as_json):
        from tollgate.dataset import lifecycle
        from tollgate.dataset.versions import resolve

        version = resolve(reference)
        _say(version, lifecycle.tag(version, name, _who(by), move=move), as_json)


@app.command()
def untag(
    reference: Reference,
    name: Annotated[str, typer.Argument(help="The tag to take away.")],
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Take a tag from a version."""
    with errors(as_json):
        from tollgate.dataset import lifecycle
        from tollgate.dataset.versions import resolve

        version = resolve(reference)
        _say(version, lifecycle.untag(version, name, _who(by)), as_json)


@app.command()
def deprecate(reference: Reference, reason: Reason, by: By = None, as_json: AsJson = False) -> None:
    """Say that a version should no longer be used: name@latest passes over it."""
    _change(reference, "deprecate", reason, by, as_json)


@app.command()
def archive(reference: Reference, reason: Reason, by: By = None, as_json: AsJson = False) -> None:
    """Put a version away: it stays for the record, but no training starts from it."""
    _change(reference, "archive", reason, by, as_json)


@app.command()
def restore(reference: Reference, reason: Reason, by: By = None, as_json: AsJson = False) -> None:
    """Make a deprecated or archived version active again."""
    _change(reference, "restore", reason, by, as_json)


def _change(
    reference: str, action: Literal["deprecate", "archive", "restore"], reason: str, by: str | None, as_json: bool
) -> None:
    with errors(as_json):
        from tollgate.dataset import lifecycle
        from tollgate.dataset.versions import resolve

        version = resolve(reference)
        _say(version, lifecycle.change(version, action, _who(by), reason), as_json)


@app.command()
def export(
    reference: Reference,
    target: Annotated[Path, typer.Argument(help="Folder to make.")],
    form: Annotated[str, typer.Option(help="openai (JSONL) or hugging-face (load_from_disk).")] = "openai",
    as_json: AsJson = False,
) -> None:
    """Write a version in a form that other tools read."""
    with errors(as_json):
        from tollgate.dataset import export as exports
        from tollgate.dataset.versions import resolve

        if form not in {"openai", "hugging-face"}:
            raise BadInputError("There is no such form.", [Problem("--form", form, "openai or hugging-face")])
        chosen: exports.Form = "openai" if form == "openai" else "hugging-face"
        written = [str(path) for path in exports.export(resolve(reference), chosen, target)]
        if as_json:
            print_json({"ok": True, "written": written})
        else:
            output().print("\n".join(written), soft_wrap=True)


@app.command()
def report(
    reference: Reference,
    target: Annotated[
        Path | None, typer.Argument(help="File to write the page to; unless told, its place is only named.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Name a version's report page, or write it anew (also for versions that were made without one)."""
    with errors(as_json):
        from tollgate.dataset import report as reports
        from tollgate.dataset.versions import resolve

        version = resolve(reference)
        page = target or version.folder / reports.REPORT_PAGE
        if target is None and not page.is_file():
            command = f"tollgate dataset report {version.reference} FILE.html"
            raise BadInputError("The version has no report page", [Problem(str(page), "nothing there", command)])
        if target is not None:
            manifest = version.manifest.model_dump(mode="json")
            target.write_text(reports.render({"version": manifest, **version.report()}), encoding="utf-8")
        if as_json:
            print_json({"ok": True, "version": version.reference, "page": str(page)})
        else:
            output().print(str(page), soft_wrap=True)


@app.command()
def stats(reference: Reference, as_json: AsJson = False) -> None:
    """Show what is in a version: rows, lengths, categories, quality."""
    with errors(as_json):
        from tollgate.dataset import displays, versions

        version = versions.resolve(reference)
        held = version.report()
        if as_json:
            print_json({"ok": True, **displays.summary(version), "statistics": held["statistics"]})
        else:
            output().print(*displays.statistics_tables(version, held["statistics"]), sep="\n")


for _command in (gate_commands.pii, gate_commands.duplicates, gate_commands.toxicity, gate_commands.quality):
    app.command(rich_help_panel="Single gates on a text file")(_command)
app.add_typer(order_form_commands.app, name="order-form")


def _gate_settings(path: Path | None, changed: list[str] | tuple[str, ...]) -> GateSettings:
    from tollgate.gates.gate_settings import read_settings

    values = _settings_file(path) if path else {}
    for one in changed:
        name, equals, value = one.partition("=")
        if not equals:
            raise BadInputError("A setting is wrong", [Problem("--set", repr(one[:80]), "name=value")])
        try:
            values[name.strip()] = orjson.loads(value)
        except orjson.JSONDecodeError:
            values[name.strip()] = value.strip()  # a word needs no quotes
    return read_settings(values)


def _settings_file(path: Path) -> dict[str, Any]:
    try:
        values = orjson.loads(path.read_bytes())
    except OSError as error:
        problem = Problem(str(path), str(error.strerror), "a JSON file")
        raise BadInputError("The settings can't be read", [problem]) from error
    except orjson.JSONDecodeError as error:
        problem = Problem(f"{path}, line {error.lineno}", error.msg, "a JSON object")
        raise BadInputError("The settings are no JSON", [problem]) from error
    if not isinstance(values, dict):
        raise BadInputError("The settings are no JSON object", [Problem(str(path), type(values).__name__, "an object")])
    return values


def _say(version: DatasetVersion, now: Standing, as_json: bool) -> None:
    if as_json:
        print_json({"ok": True, "version": version.reference, **now.model_dump(mode="json")})
        return
    tags = f", tags: {', '.join(now.tags)}" if now.tags else ""
    why = f" ({now.reason})" if now.reason else ""
    output().print(f"{version.reference} is {now.state}{why}{tags}", markup=False, highlight=False, soft_wrap=True)


def _who(by: str | None) -> str:
    import getpass

    if by is not None and not by.strip():
        raise BadInputError("A name is needed", [Problem("--by", repr(by), "who decides it")])
    try:
        return by.strip() if by else getpass.getuser()
    except (OSError, KeyError) as error:  # a container's user may have no name
        raise BadInputError("Who decides it?", [Problem("--by", "nothing", "a name")]) from error
