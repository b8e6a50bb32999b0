"""What the commands of ``tollgate dataset`` show: progress, tables and lines for a terminal, and values for JSON."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from tollgate.dataset.diff import Difference, changes
from tollgate.dataset.report import REPORT_PAGE
from tollgate.dataset.report_texts import words

if TYPE_CHECKING:
    from tollgate.dataset.lifecycle import History
    from tollgate.dataset.versions import DatasetVersion
    from tollgate.gates.pipeline import Progress
    from tollgate.gates.results import StageResult


class Step:
    """One gate of a run: what it did and how long it took."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.began = time.monotonic()
        self.seconds = 0.0
        self.result: StageResult | None = None


def shown_on(console: Console, update: Any, steps: list[Step]) -> Progress:
    """Progress on a terminal: the gate that runs, then a line for each that has ended; ``steps`` gathers them."""

    def show(stage: str, result: StageResult | None) -> None:
        title = " · ".join(reversed(words(stage)))
        if result is None:
            steps.append(Step(title))
            update(title)
            return
        step = steps[-1]
        step.result, step.seconds = result, time.monotonic() - step.began
        console.print(f"{title:<36} {result.rows_in:>11,} -> {result.rows_kept:>11,}", highlight=False, soft_wrap=True)

    return show


def steps_table(steps: list[Step]) -> Table:
    """The closing table of a run: what each gate took and masked, and how long it took."""
    left = ("gate · 게이트", "taken out", "masked")
    names = (left[0], "rows in", "kept", *left[1:], "seconds")
    table = Table(*(Column(name, justify="left" if name in left else "right", no_wrap=True) for name in names))
    for step in steps:
        if step.result is None:
            continue
        taken = {**step.result.dropped, **({"quarantined": step.result.quarantined} if step.result.quarantined else {})}
        table.add_row(
            step.title,
            f"{step.result.rows_in:,}",
            f"{step.result.rows_kept:,}",
            _counts(taken),
            _counts(step.result.masked),
            f"{step.seconds:.1f}",
        )
    return table


def _counts(counts: dict[str, int]) -> str:
    return "\n".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items() if count)


def summary(version: DatasetVersion) -> dict[str, Any]:
    """A version as JSON values."""
    manifest = version.manifest.model_dump(mode="json")
    return {"version": version.reference, "folder": str(version.folder), "manifest": manifest}


def prepared(version: DatasetVersion) -> str:
    """The last lines of a run: the version, its rows, and where its report is."""
    counts = version.manifest.counts
    state = "written" if version.created else "there already, with the same content"
    parts = ", ".join(f"{part} {rows:,}" for part, rows in version.rows.items())
    rows = f"{counts['rows_in']:,} rows in, {counts['rows_kept']:,} kept ({parts})"
    page = version.folder / REPORT_PAGE
    return f"{version.reference} {state}: {rows}\n{page if page.is_file() else version.folder}"


def logged(version: DatasetVersion, history: History) -> dict[str, Any]:
    """A version with its state, tags and history, as JSON values."""
    events = [event.model_dump(mode="json") for event in history.of(version.number)]
    return {**summary(version), **history.standing(version.number).model_dump(mode="json"), "events": events}


def log_table(found: list[DatasetVersion], history: History) -> Table:
    """The versions of a dataset, the newest first."""
    names = ("version", "state", "tags", "written (UTC)", "train / validation / test", "dropped", "quality")
    table = Table(*(Column(name, no_wrap=name in {"version", "state", "written (UTC)"}) for name in names))
    for version in reversed(found):
        manifest, now = version.manifest, history.standing(version.number)
        counts = manifest.counts
        table.add_row(
            version.reference,
            now.state,
            ", ".join(now.tags),
            f"{manifest.created_at:%Y-%m-%d %H:%M}",
            " / ".join(f"{rows:,}" for rows in version.rows.values()),
            f"{sum(counts.get('dropped', {}).values()) + counts.get('quarantined', 0):,}",
            "-" if manifest.quality_score is None else f"{manifest.quality_score:.3f}",
        )
    return table


def lineage(found: list[DatasetVersion], history: History) -> list[str]:
    """Where each version comes from: source files, settings that differ from the version before, and decisions."""
    lines = []
    before: dict[str, Any] | None = None
    for version in found:
        manifest = version.manifest
        after = f" after {manifest.parent}" if manifest.parent else ""
        block = [f"[bold]{version.reference}[/]{after}  content {manifest.content_hash[:12]}"]
        block += [f"  from {escape(source.path)}  sha256 {source.sha256[:12]}" for source in manifest.sources]
        if before is not None:
            block += [
                f"  {escape(one.name)}: {escape(_value(one.before))} -> {escape(_value(one.after))}"
                for one in changes(before, manifest.gate_settings)
            ]
        for event in history.of(version.number):
            what = " ".join(filter(None, (event.action, event.tag)))
            why = f": {event.reason}" if event.reason else ""
            block.append(escape(f"  {event.at:%Y-%m-%d %H:%M} {what} by {event.by}{why}"))
        before = manifest.gate_settings
        lines.append("\n".join(block))
    return lines[::-1]


def _value(value: object) -> str:
    return orjson.dumps(value, default=str).decode()


def difference(found: Difference) -> list[str | Table]:
    """What differs between two versions, as tables."""
    counts = Table("", "rows", title=f"{found.old} -> {found.new}")
    rows = {"rows before": found.rows[0], "rows now": found.rows[1], "unchanged": found.unchanged}
    rows |= {"added": found.added, "removed": found.removed, "changed": found.changed}
    rows |= {f"moved {way}": count for way, count in found.moved.items()}
    for name, count in rows.items():
        counts.add_row(name, f"{count:,}")
    shown: list[str | Table] = [counts]
    for title, changed in (
        ("setting", found.settings),
        ("source (sha256)", found.sources),
        ("category", found.categories),
    ):
        if changed:
            table = Table(title, "before", "now")
            for one in changed:
                table.add_row(
                    escape(one.name or "(none)"), *(escape(_cell(value)) for value in (one.before, one.after))
                )
            shown.append(table)
    for title, samples in (("added", found.added_samples), ("removed", found.removed_samples)):
        if samples:
            table = Table(title, "category", "question", "answer")
            for sample in samples:
                table.add_row(
                    *(escape(text) for text in (sample.part, sample.category or "", sample.question, sample.answer))
                )
            shown.append(table)
    if found.changed_samples:
        table = Table("changed", "question", "before", "now")
        for pair in found.changed_samples:
            table.add_row(*(escape(text) for text in (pair.part, pair.question, pair.before, pair.after)))
        shown.append(table)
    if found.identical:
        shown.append("Both hold the same rows in the same parts.")
    return shown


def _cell(value: object) -> str:
    return "-" if value is None else value if isinstance(value, str) else _value(value)


def statistics_tables(version: DatasetVersion, statistics: dict[str, Any]) -> list[Table]:
    """What is in a version: rows, lengths, categories."""
    rows = Table("part", "rows", title=version.reference)
    for part, count in statistics["rows"].items():
        rows.add_row(part, f"{count:,}")
    keys = ["min", "p5", "p25", "p50", "p75", "p95", "mean", "max"]
    lengths = Table("characters", *keys)
    for side in ("question", "answer"):
        values = statistics[f"{side}_characters"]
        lengths.add_row(side, *(f"{values.get(key, 0):,.0f}" for key in keys))
    categories = Table("category", *statistics["categories"])
    names = dict.fromkeys(name for counts in statistics["categories"].values() for name in counts)
    for category in names:
        counts = (statistics["categories"][part].get(category, 0) for part in statistics["categories"])
        categories.add_row(escape(category) or "(none)", *(f"{count:,}" for count in counts))
    return [rows, lengths, categories]
