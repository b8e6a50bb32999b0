"""What ``tollgate job`` shows in a terminal: the table of jobs, one job, and the picture of a running one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from rich import filesize
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tollgate.training.curves import Frame, braille, finite, frame_of
from tollgate.training.job_views import Ending, JobView
from tollgate.training.progress import RunProgress

_COLOURS = {"running": "cyan", "completed": "green", "succeeded": "green", "failed": "red", "stopped": "yellow"}
_CURVES = (("loss", "training loss", "blue"), ("eval_loss", "validation loss", "red"))
_FIGURES = {
    "loss": "loss",
    "eval_loss": "validation loss",
    "eval_perplexity": "perplexity",
    "learning_rate": "learning rate",
    "tokens_per_second": "tokens/s",
    "memory_bytes": "memory",
    "gpu_utilization": "GPU",
}
_LABEL = 9
_SMALLEST, _HIGHEST = 6, 24


def jobs_table(jobs: Sequence[JobView]) -> Table:
    """One row for each job."""
    table = Table("job", "status", "progress", "left", "loss", "validation", "dataset", "made by", "begun (UTC)")
    for job in jobs:
        place, figures = job.progress or {}, job.figures
        running = job.status == "running"
        table.add_row(
            escape(job.name),
            f"[{_COLOURS.get(job.status, 'white')}]{job.status}[/]",
            f"{place['percent']:.0f} %" if place else "-",
            duration(place.get("eta_seconds")) if running else "",
            _number(figures.get("loss")),
            _number(figures.get("eval_loss")),
            escape(job.dataset),
            escape(job.created_by or "-"),
            f"{job.started.astimezone(dt.UTC):%Y-%m-%d %H:%M}" if job.started else "-",
        )
    return table


def job_table(job: JobView) -> Table:
    """All that is known about one job, a row each."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    place = job.progress or {}
    rows: list[tuple[str, object]] = [
        ("job", job.name),
        ("status", job.status),
        ("dataset", job.dataset),
        ("base model", job.base_model),
        ("method", f"{job.method}, merged into the base" if job.is_merged else job.method),
        ("made by", job.created_by),
        ("begun", job.started and f"{job.started:%Y-%m-%d %H:%M:%S %Z}"),
        ("ended", job.ended and f"{job.ended:%Y-%m-%d %H:%M:%S %Z}"),
        ("step", place and f"{place['step']:,} of {place['max_steps']:,} ({place['percent']:.0f} %), {place['phase']}"),
        *((name.replace("_", " "), _figure(name, value)) for name, value in job.figures.items()),
        ("asked to stop", job.stop and job.stop.get("reason")),
        ("error", job.error and f"{job.error.get('kind')}: {job.error.get('message')} {job.error.get('advice', '')}"),
        ("losses", job.picture),
        ("MLflow run", job.mlflow_run_id),
        ("folder", job.folder),
    ]
    for name, value in rows:
        if value:
            table.add_row(name, escape(str(value)))
    return table


class JobPicture:
    """A job as it stands: how far, how fast, and both losses over the steps.

    Args:
        name: The job's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def draw(self, progress: RunProgress, ending: Ending | None, width: int, height: int) -> RenderableType:
        """Draw it.

        Args:
            progress: The job's progress.
            ending: How it ended; None: it has not.
            width: The terminal's, in characters.
            height: The terminal's, in lines.
        """
        if progress.last is None:
            return Panel("Waiting for the job's first line …", title=escape(self._name), title_align="left")
        rows = max(_SMALLEST, min(_HIGHEST, height - 10))
        parts = [_position(progress, ending, width - 4), _speed(progress), Text()]
        parts += _plot(progress, width - 4, rows)
        return Panel(Group(*parts), title=escape(self._name), title_align="left")


def duration(seconds: float | None) -> str:
    """A time span such as ``12 s``, ``3 min 20 s`` or ``2 h 05 min``; ``-`` for none."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _position(progress: RunProgress, ending: Ending | None, width: int) -> RenderableType:
    last = progress.last
    assert last is not None, "draw() looks for the first line"
    state = ending or last.phase
    words = f"{last.percent:3.0f} %  step {last.step:,} of {last.max_steps:,}  "
    left = "" if ending else f"  {duration(last.eta_seconds)} left"
    line = Text.assemble(words, (state, _COLOURS.get(state, "yellow")), left, _age(progress, ending))
    done = round(max(width, 1) * min(max(last.percent, 0.0), 100.0) / 100)
    return Group(Text.assemble(("━" * done, "green"), ("─" * (width - done), "dim")), line)


def _age(progress: RunProgress, ending: Ending | None) -> Text:
    """How long nothing was heard, where that is longer than a minute."""
    last = progress.last
    if ending or last is None or last.time is None:
        return Text()
    silent = (dt.datetime.now(dt.UTC) - last.time).total_seconds()
    return Text(f"  silent for {duration(silent)}", style="yellow") if silent > 60 else Text()


def _speed(progress: RunProgress) -> RenderableType:
    parts = [
        f"{words} {_figure(name, value)}"
        for name, words in _FIGURES.items()
        if (value := progress.newest(name)) is not None
    ]
    return Columns(parts, padding=(0, 3))


def _plot(progress: RunProgress, width: int, rows: int) -> list[RenderableType]:
    curves = [finite(progress.series(name)) for name, _, _ in _CURVES]
    frame = frame_of([point for curve in curves for point in curve])
    if frame is None:
        return [Text("No loss yet.", style="dim")]
    columns = max(10, width - _LABEL - 1)
    lines = braille(curves, frame, columns, rows)
    shown = [_plot_line(frame, number, len(lines), line) for number, line in enumerate(lines)]
    first, last = f"{frame.first:,.0f}", f"{frame.last:,.0f}"
    shown.append(Text(" " * (_LABEL + 1) + first + last.rjust(columns - len(first)), style="dim"))
    legend = Text(" " * (_LABEL + 1))
    for (_, words, colour), curve in zip(_CURVES, curves, strict=True):
        if curve:
            legend.append(f"⣀⣀ {words}   ", style=colour)
    return [*shown, legend]


def _plot_line(frame: Frame, number: int, rows: int, line: Sequence[tuple[str, int]]) -> Text:
    marked = number in {0, rows // 2, rows - 1}
    value = frame.high - (frame.high - frame.low) * number / max(rows - 1, 1)
    text = Text((f"{value:.4g}" if marked else "").rjust(_LABEL) + "│", style="dim")
    for character, owner in line:
        text.append(character, style="not dim " + _CURVES[owner][2] if owner >= 0 else "")
    return text


def _figure(name: str, value: float) -> str:
    if name == "memory_bytes":
        return filesize.decimal(int(value))
    if name == "tokens_per_second":
        return f"{value:,.0f}"
    if name == "gpu_utilization":
        return f"{value:.0f} %"
    return f"{value:.3g}" if name == "learning_rate" else f"{value:.4f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
