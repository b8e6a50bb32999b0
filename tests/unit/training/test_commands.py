"""``tollgate job`` on real folders and a real PostgreSQL."""

from __future__ import annotations

import datetime as dt
import fcntl
import getpass
import io
import json
import os
import pty
import re
import select as select_module
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text
from sqlalchemy import select

from tollgate import cli
from tollgate.settings import settings
from tollgate.store.session import engine, transaction
from tollgate.store.tables import FinetuningJob
from tollgate.training import commands
from tollgate.training.jobs import job_name
from tollgate.training.progress import ProgressLine

STYLES = re.compile(r"\x1b\[[0-9;]*m")
RUN = "manual__2026-11-21T15:00:00+00:00"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.fixture
def job(home: Path, postgres_url: str) -> Path:
    return make_job(job_name("router", RUN))


def make_job(name: str, status: str = "running") -> Path:
    folder = settings().jobs / name
    folder.mkdir(parents=True)
    spec = {"job_name": name, "dataset_reference": "calls@v3", "base_model": "/models/tiny", "method": "lora"}
    (folder / "spec.json").write_text(json.dumps(spec))
    with transaction() as session:
        session.add(
            FinetuningJob(
                job_name=name,
                base_model="/models/tiny",
                method="lora",
                hyperparameters={},
                output_dir=str(folder),
                status=status,
                start_time=dt.datetime(2026, 11, 21, 15, tzinfo=dt.UTC),
                created_by="kim",
            )
        )
    return folder


def write(folder: Path, *lines: dict[str, Any]) -> None:
    with (folder / "progress.jsonl").open("a") as file:
        file.writelines(json.dumps({"max_steps": 10, **line}) + "\n" for line in lines)


def set_status(folder: Path, status: str) -> None:
    with transaction() as session:
        session.scalars(select(FinetuningJob).where(FinetuningJob.job_name == folder.name)).one().status = status


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["job", *words])
    return int(stopped.value.code or 0)


def test_jobs_are_listed_newest_first_with_where_they_are(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(job, {"step": 3, "percent": 30.0, "loss": 1.5, "eta_seconds": 200})
    make_job("later-job", "completed")
    assert run("list", "--json") == 0
    later, first = json.loads(capsys.readouterr().out)["jobs"]
    assert (later["name"], later["status"], later["progress"]) == ("later-job", "completed", None)
    assert (first["progress"]["percent"], first["figures"]) == (30.0, {"loss": 1.5})
    assert run("list") == 0
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if job.name in line)
    for text in ("running", "30 %", "3 min 20 s", "1.5000", "calls@v3", "kim", "2026-11-21 15:00"):
        assert text in row
    assert run("list", "--limit", "1", "--json") == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["jobs"]] == ["later-job"]


def test_a_job_is_shown_by_its_name_and_by_its_run(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(job, {"step": 4, "percent": 40.0, "loss": 1.0, "memory_bytes": 2_500_000_000}, {"step": 4, "eval_loss": 1.25})
    (job / "error.json").write_text('{"kind": "disk_full", "message": "no space", "advice": "Free some."}')
    for name in (job.name, RUN):
        assert run("show", name, "--json") == 0
        shown = json.loads(capsys.readouterr().out)
        assert (shown["name"], shown["folder"], shown["base_model"]) == (job.name, str(job), "tiny")
        assert shown["figures"] == {"loss": 1.0, "memory_bytes": 2_500_000_000, "eval_loss": 1.25}
    assert run("show", RUN) == 0
    shown = capsys.readouterr().out
    for text in ("4 of 10", "1.2500", "2.5 GB", "disk_full: no space Free some."):
        assert text in shown


def test_a_job_whose_adapter_is_merged_says_so(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", job.name) == 0
    assert "merged into the base" not in capsys.readouterr().out
    spec = json.loads((job / "spec.json").read_text())
    (job / "spec.json").write_text(json.dumps({**spec, "serve_adapter_as": "merged"}))
    assert run("show", job.name) == 0
    assert "lora, merged into the base" in capsys.readouterr().out


def test_without_postgresql_a_job_is_shown_from_its_folder(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(job, {"step": 4, "percent": 40.0})
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", "postgresql+psycopg2://nobody@127.0.0.1:1/none")
    settings.cache_clear()
    engine.cache_clear()
    assert run("show", job.name, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["status"], shown["method"], shown["progress"]["step"]) == ("unknown", "lora", 4)
    assert run("list") == 3


@pytest.mark.parametrize("name", ["nothing", "../jobs", "", ".", "/etc"])
@pytest.mark.parametrize("command", ["show", "watch", "stop"])
def test_an_unknown_job_is_named(job: Path, capsys: pytest.CaptureFixture[str], command: str, name: str) -> None:
    assert run(command, name) == 2
    assert f"found {name!r}, expected a name from tollgate job list" in capsys.readouterr().err


def test_a_job_is_asked_to_stop(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stop", RUN, "--reason", "wrong data") == 0
    assert job.name in capsys.readouterr().out
    request = json.loads((job / "stop.request").read_text())
    assert request["by"] == getpass.getuser()
    assert request["reason"].endswith("wrong data")
    assert dt.datetime.fromisoformat(request["at"]).tzinfo is not None
    assert sorted(path.name for path in job.iterdir()) == ["spec.json", "stop.request"], "nothing half-written"
    assert run("show", job.name) == 0
    assert "wrong data" in capsys.readouterr().out


def test_a_job_that_is_done_cannot_be_stopped(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (job / "result.json").write_text("{}")
    assert run("stop", job.name) == 2
    assert job.name in capsys.readouterr().err
    assert not (job / "stop.request").exists()


def test_a_finished_job_is_watched_once(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(job, {"step": 5, "percent": 50.0, "loss": 1.0}, {"step": 10, "percent": 100.0, "loss": 0.5})
    (job / "result.json").write_text("{}")
    assert run("watch", job.name) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["step 5/10 (50 %), loss 1.0000", "step 10/10 (100 %), loss 0.5000", "succeeded"]


def test_a_running_job_is_watched_to_its_end(
    job: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "LOOK_SECONDS", 0.02)

    def train() -> None:
        for step in range(1, 11):
            write(job, {"step": step, "percent": 10.0 * step, "loss": 1.0 / step})
            time.sleep(0.05)
        (job / "result.json").write_text("{}")

    trainer = threading.Thread(target=train)
    trainer.start()
    assert run("watch", RUN) == 0
    trainer.join()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" (")[0] for line in lines[:-1]] == [f"step {step}/10" for step in range(1, 11)]
    assert lines[-1] == "succeeded"


@pytest.mark.parametrize(
    ("files", "status", "ending", "exit_status"),
    [
        ({"error.json": '{"message": "Out of memory.", "advice": "Lower batch_size."}'}, "failed", "failed", 3),
        ({"stop.json": '{"reason": "kim: wrong data"}'}, "failed", "stopped", 0),
    ],
)
def test_a_job_that_ended_otherwise_says_how(
    job: Path, capsys: pytest.CaptureFixture[str], files: dict, status: str, ending: str, exit_status: int
) -> None:
    for name, text in files.items():
        (job / name).write_text(text)
    set_status(job, status)
    assert run("watch", job.name) == exit_status
    streams = capsys.readouterr()
    assert streams.out.splitlines() == [ending]
    if exit_status:
        assert "Out of memory. Lower batch_size." in streams.err


def test_a_failed_attempt_that_is_tried_again_is_no_end(job: Path) -> None:
    from tollgate.training.job_views import ending_of

    (job / "error.json").write_text('{"message": "killed"}')
    assert ending_of(job) is None
    set_status(job, "failed")
    assert ending_of(job) == "failed"


def test_in_a_terminal_the_losses_are_drawn(job: Path) -> None:
    write(
        job,
        *({"step": step, "percent": 10.0 * step, "loss": 3.0 / step, "tokens_per_second": 812.0} for step in (1, 5, 9)),
        {"step": 9, "percent": 90.0, "eval_loss": 1.0, "eval_perplexity": 2.718, "phase": "evaluating"},
        {"step": 10, "percent": 100.0, "loss": "NaN", "memory_bytes": 2_000_000_000},
    )
    (job / "result.json").write_text("{}")
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=90, height=30, color_system=None)
    assert commands._draw(job, console) == "succeeded"
    shown = screen.getvalue()
    for text in (job.name, "100 %", "step 10 of 10", "succeeded", "tokens/s 812", "memory 2.0 GB", "validation loss"):
        assert text in shown
    plotted = [line for line in shown.splitlines() if any("⠁" <= character <= "⣿" for character in line)]
    assert len(plotted) > 5
    assert max(Text.from_ansi(line).cell_len for line in shown.splitlines()) <= 90


def test_in_a_real_terminal_the_curve_grows_while_the_job_runs(job: Path) -> None:
    write(job, *({"step": step, "percent": 10.0 * step, "loss": 4.0 - step / 2} for step in (1, 2)))
    command = [sys.executable, "-m", "tollgate", "job", "watch", job.name]
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))
    known = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"TERM": "xterm-256color"}
    watcher = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=known)
    os.close(terminal)
    shown = read_until(screen, "step 2 of 10")
    write(job, {"step": 9, "percent": 90.0, "loss": 0.5}, {"step": 9, "eval_loss": 0.75, "phase": "saving"})
    shown += read_until(screen, "step 9 of 10")
    assert "validation loss" in shown
    write(job, {"step": 10, "percent": 100.0, "loss": 0.25})
    (job / "result.json").write_text("{}")
    shown += read_until(screen, "succeeded")
    assert watcher.wait(60) == 0
    first, last = shown.index("step 2 of 10"), shown.rindex("step 10 of 10")
    assert shown[first:last].count("\x1b[1A") > 5, "drawn over, not below"
    assert any("⠁" <= character <= "⣿" for character in shown)


def read_until(screen: int, words: str) -> str:
    """What a terminal gets until it shows certain words."""
    shown = ""
    while words not in STYLES.sub("", shown):
        assert len(shown) < 1_000_000, shown[-3000:]
        assert select_module.select([screen], [], [], 120)[0], shown
        shown += os.read(screen, 65_536).decode(errors="ignore")
    return shown


@pytest.mark.parametrize("width", [20, 40, 250])
@pytest.mark.parametrize("lines", [[], [{"step": 0}], [{"step": 1, "loss": 2.0}]])
def test_a_picture_of_little_in_little_room_is_drawn_too(job: Path, width: int, lines: list) -> None:
    write(job, *lines)
    (job / "result.json").write_text("{}")
    screen = io.StringIO()
    commands._draw(job, Console(file=screen, force_terminal=True, width=width, height=8, color_system=None))
    assert "─" in screen.getvalue()


def test_a_silent_job_says_for_how_long(job: Path) -> None:
    from tollgate.training.job_display import JobPicture
    from tollgate.training.progress import RunProgress

    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=7)
    console = Console(file=io.StringIO(), width=120, record=True)
    progress = RunProgress([ProgressLine(step=1, max_steps=2, time=long_ago)])
    console.print(JobPicture("job").draw(progress, None, 120, 30))
    assert "silent for 7 min 00 s" in console.export_text()
