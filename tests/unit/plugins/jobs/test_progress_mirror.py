"""What stands in the task's log and state store while a job writes its progress."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from tests.unit.plugins.jobs.job_contract import FileStore, wait_until

from jobs.errors import JobFailedError, JobStoppedError
from jobs.progress_mirror import LOOK_SECONDS, PROGRESS_KEY, ProgressMirror

LINE = {"max_steps": 10, "eta_seconds": 5.0, "phase": "training"}


class Log:
    """A task's log, with when each line came."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str, *values: Any) -> None:
        self.lines.append(text % values)

    warning = info


class Stream:
    """Stands for MLflow's stream, of which only the calls matter here."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def start(self) -> None:
        self.calls.append("start")

    def wake(self) -> None:
        self.calls.append("wake")

    def close(self, ending: Any = None) -> bool:
        self.calls.append(("close", ending))
        return True


def mirror(folder: Path, store: Any, log: Any, stream: Any = None) -> ProgressMirror:
    return ProgressMirror(folder, store, log, stream)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job").mkdir()
    return tmp_path / "job"


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "state.json")


def write(folder: Path, *lines: dict[str, Any]) -> None:
    with (folder / "progress.jsonl").open("a") as file:
        file.writelines(json.dumps({**LINE, **line}) + "\n" for line in lines)


def test_a_line_stands_in_log_and_store_soon_after_it_was_written(folder: Path, store: FileStore) -> None:
    log = Log()
    words = "step 1/10 (10 %), loss 2.0000, about 5 s left"
    with mirror(folder, store, log):
        begun = time.monotonic()
        write(folder, {"step": 1, "percent": 10.0, "loss": 2.0})
        wait_until(lambda: store.get(PROGRESS_KEY) is not None)
        kept = time.monotonic() - begun
        wait_until(lambda: words in log.lines)
        said = time.monotonic() - begun
        print(f"kept after {kept:.2f} s, said after {said:.2f} s")
        assert store.get(PROGRESS_KEY) == {**LINE, "step": 1, "percent": 10.0, "loss": 2.0}
    assert 2 * LOOK_SECONDS < 1, "two looks fit into the second that is promised"
    assert log.lines.count(words) == 1


def test_the_store_has_the_newest_of_every_figure(folder: Path, store: FileStore) -> None:
    with mirror(folder, store, Log()):
        write(folder, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "eval_loss": 1.5})
        write(folder, {"step": 2, "phase": "saving", "strange": 3})
    kept = store.get(PROGRESS_KEY)
    assert (kept["step"], kept["phase"], kept["loss"], kept["eval_loss"]) == (2, "saving", 1.0, 1.5)
    assert len(json.dumps(kept)) < 1000


def test_what_the_job_says_itself_is_not_said_twice(folder: Path) -> None:
    log = Log()
    with mirror(folder, None, log) as entered:
        write(folder, {"step": 1, "loss": 2.0})
        entered.heard("step 1/10 (0 %), loss 2.0000, about 5 s left")
        write(folder, {"step": 2, "loss": 1.0})
    assert [line for line in log.lines if line.startswith("step")] == ["step 2/10 (0 %), loss 1.0000, about 5 s left"]


def test_what_an_earlier_attempt_said_is_not_said_again(folder: Path, store: FileStore) -> None:
    write(folder, {"step": 1, "loss": 2.0})
    log = Log()
    with mirror(folder, store, log):
        pass
    assert not [line for line in log.lines if line.startswith("step")]
    assert store.get(PROGRESS_KEY)["step"] == 1


def test_at_the_end_the_losses_are_drawn(folder: Path) -> None:
    log = Log()
    with pytest.raises(JobFailedError), mirror(folder, None, log):
        write(folder, {"step": 1, "loss": 2.0})
        raise JobFailedError("over")
    assert f"Losses: {folder / 'losses.svg'}" in log.lines
    assert "<svg" in (folder / "losses.svg").read_text()


def test_a_job_without_progress_leaves_nothing(folder: Path, store: FileStore) -> None:
    with mirror(folder, store, Log()):
        pass
    assert list(folder.iterdir()) == []
    assert store.get(PROGRESS_KEY) is None


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (None, None),
        (JobStoppedError("x"), "KILLED"),
        (JobFailedError("x"), "FAILED"),
        (ConnectionError("the engine may be back, and the job run on"), None),
    ],
)
def test_mlflow_is_told_how_it_ended(folder: Path, error: Exception | None, ending: str | None) -> None:
    stream = Stream()
    expected = pytest.raises(type(error)) if error else contextlib.nullcontext()
    with expected, mirror(folder, None, Log(), stream):
        write(folder, {"step": 1})
        wait_until(lambda: "wake" in stream.calls)
        if error is not None:
            raise error
    assert stream.calls == ["start", "wake", ("close", ending)]


def test_trouble_of_the_store_and_damaged_lines_do_not_reach_the_job(folder: Path) -> None:
    class Broken(FileStore):
        def set(self, key: str, value: Any) -> None:
            raise RuntimeError("API server away")

    log = Log()
    with mirror(folder, Broken(folder / "state"), log):
        write(folder, {"step": 1, "loss": 2.0})
        with (folder / "progress.jsonl").open("a") as file:
            file.write("damaged\n")
        write(folder, {"step": 2, "loss": 1.0})
    assert any("could not be kept" in line for line in log.lines)
    assert "step 2/10 (0 %), loss 1.0000, about 5 s left" in log.lines
    assert any(line.startswith("Losses: ") for line in log.lines)
