"""The launcher of several processes: they end together, whatever happens to one of them or to the launcher itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tollgate.settings import PROJECT

PROCESS = Path(__file__).with_name("example_process.py")
LAUNCH = """
import sys
from pathlib import Path
from tollgate.training.parsing import parse_spec
from trainer import launch

launch.ENTRY = Path(sys.argv[2])
launch.FAILURE_SECONDS = launch.STOP_SECONDS = 3.0
folder = Path(sys.argv[1])
count = int(sys.argv[3])
paths = {"base_model": "/b", "dataset": "/d", "dataset_reference": "sums@v1", "output": str(folder), "job_name": "job"}
spec = parse_spec({**paths, "processes": count, "gradient_accumulation": 3, "batch_size": 4})
sys.exit(launch.train_together(folder, spec, count))
"""
PATIENCE_SECONDS = 180.0

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(ml_python: Path, tmp_path: Path) -> Iterator[Start]:
    """Start the launcher with a process for each mode."""
    launchers: list[subprocess.Popen[str]] = []

    def launch(*modes: str) -> subprocess.Popen[str]:
        (tmp_path / "modes.json").write_text(json.dumps(modes))
        paths = os.pathsep.join(str(PROJECT / name) for name in ("include", "containers"))
        inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        launchers.append(
            subprocess.Popen(
                [ml_python, "-c", LAUNCH, tmp_path, PROCESS, str(len(modes))],
                env={**inherited, "PYTHONPATH": paths},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
        return launchers[-1]

    yield launch
    for launcher in launchers:
        launcher.kill()
        launcher.communicate()


def end(launcher: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = launcher.communicate(timeout=PATIENCE_SECONDS)
    return launcher.returncode, output


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def pids(folder: Path, count: int) -> list[int]:
    return [int((folder / f"pid-{number}").read_text()) for number in range(count)]


def error(folder: Path) -> dict[str, Any]:
    assert not list(folder.glob("error.rank-*")), "one error stands for all"
    return json.loads((folder / "error.json").read_text(encoding="utf-8"))


def test_each_process_knows_its_number_and_where_the_others_are(tmp_path: Path, start: Start) -> None:
    code, output = end(start("succeed", "succeed"))
    assert code == 0
    assert "4 rows x 3 accumulated x 2 processes = 24 rows" in output
    assert "process 0: succeed" in output
    assert "process 1: succeed" not in output, "only the first one speaks for all"
    assert "process 1: succeed" in (tmp_path / "processes" / "rank-1.log").read_text()
    seen = [json.loads((tmp_path / f"environment-{number}.json").read_text()) for number in range(2)]
    assert [(one["RANK"], one["LOCAL_RANK"], one["WORLD_SIZE"]) for one in seen] == [("0", "0", "2"), ("1", "1", "2")]
    assert seen[0]["MASTER_PORT"] == seen[1]["MASTER_PORT"]
    assert int(seen[0]["OMP_NUM_THREADS"]) == max(1, len(os.sched_getaffinity(0)) // 2)
    assert not (tmp_path / "error.json").exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_job_with_the_reason(tmp_path: Path, start: Start, victim: int) -> None:
    launcher = start("ignore", "ignore")
    wait_until(lambda: all((tmp_path / f"ready-{number}").exists() for number in range(2)))
    os.kill(pids(tmp_path, 2)[victim], signal.SIGKILL)
    code, output = end(launcher)
    assert code == 1
    assert error(tmp_path)["kind"] == "process_died"
    assert f"Process {victim} of 0 to 1 was killed by SIGKILL" in error(tmp_path)["message"]
    assert error(tmp_path)["message"] in output
    assert all(map(is_gone, pids(tmp_path, 2)))


def test_the_process_that_failed_first_says_why(tmp_path: Path, start: Start) -> None:
    code, output = end(start("fail after the others", "fail"))
    assert code == 1
    assert error(tmp_path) == {
        "kind": "disk_full",
        "message": "Process 1 of 0 to 1: no space left",
        "advice": "advice",
    }
    assert "[process 1] process 1: fail" in output, "the end of its log"


def test_a_refused_specification_is_refused_for_all(tmp_path: Path, start: Start) -> None:
    code, _ = end(start("refuse", "refuse"))
    assert code == 2
    assert error(tmp_path)["kind"] == "bad_specification"


@pytest.mark.parametrize(
    ("modes", "expected"), [(("stop", "stop"), 10), (("stop", "ignore"), 10), (("wait", "wait"), 143)]
)
def test_sigterm_reaches_all_processes(tmp_path: Path, start: Start, modes: tuple[str, ...], expected: int) -> None:
    launcher = start(*modes)
    wait_until(lambda: all((tmp_path / f"ready-{number}").exists() for number in range(2)))
    launcher.send_signal(signal.SIGTERM)
    assert end(launcher)[0] == expected
    assert all(map(is_gone, pids(tmp_path, 2)))
    assert not (tmp_path / "error.json").exists()


def test_no_process_outlives_a_killed_launcher(tmp_path: Path, start: Start) -> None:
    launcher = start("ignore", "ignore")
    wait_until(lambda: all((tmp_path / f"ready-{number}").exists() for number in range(2)))
    launcher.kill()
    wait_until(lambda: all(map(is_gone, pids(tmp_path, 2))))
