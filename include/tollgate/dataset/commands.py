"""``tollgate dataset``: prepare a source, list a dataset's versions, show what is in one."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import orjson
import typer
from rich.console import Console
from rich.table import Column, Table

from tollgate.errors import BadInputError, Problem, TollgateError

if TYPE_CHECKING:
    from tollgate.dataset.versions import DatasetVersion
    from tollgate.gates.gate_settings import GateSettings
    from tollgate.gates.pipeline import Progress
    from tollgate.gates.results import StageResult

app = typer.Typer(no_args_is_help=True, help="Turn raw dialogues into versions of a dataset, and look at them.")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object; progress goes to standard error.")]
Reference = Annotated[str, typer.Argument(help="The version: name@v3, or name@latest.")]

_TITLES = {
    "ingest": "Read · 읽기",
    "personal_data": "Personal data · 개인정보",
    "duplicates": "Duplicates · 중복",
    "quality": "Quality, toxicity · 품질, 독성",
    "split": "Split · 분할",
    "contract": "Contract · 계약 검사",
}


@app.command()
def prepare(
    source: Annotated[Path, typer.Argument(help="JSON, JSONL, Parquet, CSV or TSV file; text also as .gz.")],
    name: Annotated[str, typer.Option("--name", "-n", help="Name of the dataset.")],
    settings: Annotated[
        Path | None, typer.Option("--settings", help="JSON file with gate settings; the others keep their defaults.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take a file through all gates to a new version (or find the one with the same content)."""
    with _errors(as_json):
        from tollgate.gates import pipeline

        console = Console(stderr=True)
        with console.status("") as status:
            version = pipeline.prepare(name, source, _gate_settings(settings), _shown_on(console, status.update))
        if as_json:
            _print_json({"ok": True, "created": version.created, **_summary(version)})
        else:
            Console().print(_prepared(version), soft_wrap=True, highlight=False)


@app.command()
def log(name: Annotated[str, typer.Argument(help="Name of the dataset.")], as_json: AsJson = False) -> None:
    """List the versions of a dataset, the newest first."""
    with _errors(as_json):
        from tollgate.dataset import versions

        versions.resolve(f"{name}@latest")
        found = list(reversed(versions.list_versions(name)))
        if as_json:
            _print_json({"ok": True, "name": name, "versions": [_summary(version) for version in found]})
        else:
            Console().print(_log_table(found))


@app.command()
def export(
    reference: Reference,
    target: Annotated[Path, typer.Argument(help="Folder to make.")],
    form: Annotated[str, typer.Option(help="openai (JSONL) or hugging-face (load_from_disk).")] = "openai",
    as_json: AsJson = False,
) -> None:
    """Write a version in a form that other tools read."""
    with _errors(as_json):
        from tollgate.dataset import export as exports
        from tollgate.dataset.versions import resolve

        if form not in {"openai", "hugging-face"}:
            raise BadInputError("There is no such form.", [Problem("--form", form, "openai or hugging-face")])
        chosen: exports.Form = "openai" if form == "openai" else "hugging-face"
        written = [str(path) for path in exports.export(resolve(reference), chosen, target)]
        if as_json:
            _print_json({"ok": True, "written": written})
        else:
            Console().print("\n".join(written), soft_wrap=True, highlight=False)


@app.command()
def stats(reference: Reference, as_json: AsJson = False) -> None:
    """Show what is in a version: rows, lengths, categories, quality."""
    with _errors(as_json):
        from tollgate.dataset import versions

        version = versions.resolve(reference)
        report = version.report()
        if as_json:
            _print_json({"ok": True, **_summary(version), "statistics": report["statistics"]})
        else:
            Console().print(*_statistics_tables(version, report["statistics"]), sep="\n")


@contextmanager
def _errors(as_json: bool) -> Generator[None]:
    """End the command with the exit status of the error: 1 a gate said no, 2 bad input, 3 something broke."""
    try:
        yield
    except TollgateError as error:
        _fail(error, error.exit_status, as_json)
    except OSError as error:
        _fail(error, 3, as_json)


def _fail(error: Exception, status: int, as_json: bool) -> NoReturn:
    if as_json:
        _print_json({"ok": False, "error": str(error), "exit_status": status})
    Console(stderr=True).print(str(error), style="red", markup=False, highlight=False)
    raise typer.Exit(status) from error


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode() + "\n")


def _gate_settings(path: Path | None) -> GateSettings:
    from tollgate.gates.gate_settings import read_settings

    if path is None:
        return read_settings({})
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
    return read_settings(values)


def _shown_on(console: Console, update: Any) -> Progress:
    def show(stage: str, result: StageResult | None) -> None:
        title = _TITLES[stage]
        if result is None:
            update(title)
            return
        taken = {**result.dropped, **({"quarantined": result.quarantined} if result.quarantined else {})}
        notes = [f"{reason} {count:,}" for reason, count in taken.items()]
        notes += [f"masked {kind} {count:,}" for kind, count in result.masked.items()]
        line = f"{title:<32} {result.rows_in:>9,} -> {result.rows_kept:>9,}  {', '.join(notes)}"
        console.print(line, highlight=False, soft_wrap=True)

    return show


def _summary(version: DatasetVersion) -> dict[str, Any]:
    manifest = version.manifest.model_dump(mode="json")
    return {"version": version.reference, "folder": str(version.folder), "manifest": manifest}


def _prepared(version: DatasetVersion) -> str:
    counts = version.manifest.counts
    state = "written" if version.created else "there already, with the same content"
    parts = ", ".join(f"{part} {rows:,}" for part, rows in version.rows.items())
    rows = f"{counts['rows_in']:,} rows in, {counts['rows_kept']:,} kept ({parts})"
    return f"{version.reference} {state}: {rows}\n{version.folder}"


def _log_table(found: list[DatasetVersion]) -> Table:
    columns = ("written (UTC)", "train", "validation", "test", "dropped", "quality", "content")
    table = Table(Column("version", no_wrap=True, min_width=max(len(version.reference) for version in found)), *columns)
    for version in found:
        manifest = version.manifest
        table.add_row(
            version.reference,
            f"{manifest.created_at:%Y-%m-%d %H:%M}",
            *(f"{rows:,}" for rows in version.rows.values()),
            f"{sum(manifest.counts['dropped'].values()) + manifest.counts['quarantined']:,}",
            "-" if manifest.quality_score is None else f"{manifest.quality_score:.3f}",
            manifest.content_hash[:12],
        )
    return table


def _statistics_tables(version: DatasetVersion, statistics: dict[str, Any]) -> list[Table]:
    rows = Table("part", "rows", title=version.reference)
    for part, count in statistics["rows"].items():
        rows.add_row(part, f"{count:,}")
    keys = ["min", "p5", "p25", "p50", "p75", "p95", "mean", "max"]
    lengths = Table("characters", *keys)
    for side in ("question", "answer"):
        values = statistics[f"{side}_characters"]
        lengths.add_row(side, *(f"{values.get(key, 0):,.0f}" for key in keys))
    categories = Table("category", *statistics["categories"])
    for category in statistics["categories"]["train"]:
        counts = (statistics["categories"][part].get(category, 0) for part in statistics["categories"])
        categories.add_row(category or "(none)", *(f"{count:,}" for count in counts))
    return [rows, lengths, categories]
