"""``tollgate job``: which training jobs there are, where one is, and the wish that it stops."""

from __future__ import annotations

import getpass
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.live import Live

from tollgate.errors import TollgateError
from tollgate.settings import settings
from tollgate.training.job_display import JobPicture, job_table, jobs_table
from tollgate.training.job_views import Ending, JobView, all_jobs, ending_of, find_job, view_job
from tollgate.training.progress import FILE, ProgressLine, ProgressReader, RunProgress
from tollgate.training.stopping import stop_job

app = typer.Typer(no_args_is_help=True, help="Training jobs: list, show, watch live, stop.")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Name = Annotated[str, typer.Argument(help="The job's name, or the id of its run of finetune.")]

LOOK_SECONDS = 0.5
ENDING_SECONDS = 3.0
"""How often a watcher asks whether the job has ended, which may ask PostgreSQL."""


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="So many at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first: status, progress, time left, losses, dataset, who made them."""
    jobs = all_jobs(limit)
    if as_json:
        _print_json({"jobs": [_values(job) for job in jobs]})
    else:
        Console().print(jobs_table(jobs))


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show one job: where it is, its newest figures, why it failed, where its files are."""
    job = view_job(find_job(name, settings()))
    if as_json:
        _print_json(_values(job))
    else:
        Console().print(job_table(job))


@app.command()
def watch(name: Name) -> None:
    """Show a job's losses live until it ends; a finished one is shown once. Exit status 3 where it failed.

    Without a terminal every line of its progress is printed in words.
    """
    folder = find_job(name, settings())
    console = Console()
    try:
        ending = _draw(folder, console) if console.is_terminal else _print_lines(folder, console)
    except KeyboardInterrupt:
        return  # the job goes on
    if ending == "failed":
        error = view_job(folder).error or {}
        raise TollgateError(f"{folder.name} failed. {error.get('message', '')} {error.get('advice', '')}".rstrip())


@app.command()
def stop(
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the job.")] = "",
    as_json: AsJson = False,
) -> None:
    """Ask a job to save a checkpoint after its present step and to stop."""
    by = getpass.getuser()
    folder = stop_job(find_job(name, settings()), reason or "no reason given", by)
    if as_json:
        _print_json({"job": folder.name, "by": by, "reason": reason})
    else:
        Console().print(f"{folder.name} was asked to stop.", markup=False, highlight=False, soft_wrap=True)


def _draw(folder: Path, console: Console) -> Ending | None:
    picture, progress, ending = JobPicture(folder.name), RunProgress(), None
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for lines, ending in _follow(folder):
            progress.extend(lines)
            live.update(picture.draw(progress, ending, console.width, console.height), refresh=True)
    return ending


def _print_lines(folder: Path, console: Console) -> Ending | None:
    for lines, ending in _follow(folder):
        for line in lines:
            console.print(line.in_words(), markup=False, highlight=False, soft_wrap=True)
        if ending is not None:
            console.print(ending, markup=False, highlight=False)
            return ending
    return None


def _follow(folder: Path) -> Iterator[tuple[list[ProgressLine], Ending | None]]:
    """New lines and the job's ending, again and again until it has one."""
    reader = ProgressReader(folder / FILE)
    asked = float("-inf")
    while True:
        ending = None
        if time.monotonic() - asked >= ENDING_SECONDS or (folder / "result.json").is_file():
            ending, asked = ending_of(folder), time.monotonic()
        yield reader.read(), ending  # read after the ending was asked, so that the last lines are among them
        if ending is not None:
            return
        time.sleep(LOOK_SECONDS)


def _values(job: JobView) -> dict[str, object]:
    return job.model_dump(mode="json")


def _print_json(value: dict[str, object]) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
