"""Trainings as processes that a test can watch, signal and wait for, started quickly by :mod:`fork_server`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tollgate.settings import PROJECT

PATIENCE_SECONDS = 300.0


def write_spec(folder: Path, base: Path, data: Path, **changed: Any) -> Path:
    """A job folder with a small specification."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "job_name": "test-job",
        "base_model": str(base),
        "dataset": str(data),
        "dataset_reference": "sums@v1",
        "output": str(folder),
        "lora_rank": 4,
        "lora_alpha": 8,
        "learning_rate": 1e-3,
        "batch_size": 4,
        "max_length": 128,
        "max_steps": 6,
        "save_steps": 2,
        "eval_steps": 3,
        "logging_steps": 1,
        **changed,
    }
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    return folder


def environment() -> dict[str, str]:
    """A training's environment: this checkout's code, whichever one the environment was made for."""
    paths = os.pathsep.join(str(PROJECT / name) for name in ("include", "containers"))
    return {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def launch(python: Path, folder: Path) -> subprocess.Popen[str]:
    """Start a training as its container does; what it prints can be read from the process."""
    command = [str(python), str(PROJECT / "containers" / "trainer" / "train.py"), str(folder)]
    return subprocess.Popen(command, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def progress(folder: Path) -> list[dict[str, Any]]:
    """What the job has reported so far; nothing before its first line."""
    path = folder / "progress.jsonl"
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def figures(folder: Path, *names: str) -> dict[tuple[str, int], float]:
    """The logged figures by name and step; of a step that was computed twice, the later one."""
    return {(name, line["step"]): line[name] for line in progress(folder) for name in names if name in line}


def repeated_differently(folder: Path, name: str) -> list[int]:
    """Steps that a resumed job computed again with another outcome."""
    seen: dict[int, float] = {}
    return [
        line["step"]
        for line in progress(folder)
        if name in line and seen.setdefault(line["step"], line[name]) != line[name]
    ]


def result(folder: Path) -> dict[str, Any]:
    """``result.json``."""
    value: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return value


def error(folder: Path) -> dict[str, Any]:
    """``error.json``."""
    value: dict[str, Any] = json.loads((folder / "error.json").read_text(encoding="utf-8"))
    return value


def said(folder: Path) -> str:
    """Everything that the job has printed."""
    path = folder / "said.log"
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


@dataclass
class Training:
    """A running or ended training."""

    folder: Path
    pid: int
    server: ForkServer

    def wait(self) -> int:
        """Wait for its end; its exit status, negative for a signal."""
        return int(self.server.ask(f"wait {self.pid}"))

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait_for_step(self, step: int) -> None:
        """Wait until it has reported this step or a later one."""
        self.wait_until(lambda: any(line["step"] >= step for line in progress(self.folder)))

    def wait_until(self, condition: Any) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, said(self.folder)
            time.sleep(0.002)


class ForkServer:
    """The process that starts trainings.

    Args:
        python: The interpreter.
        imports: A program that imports what trainings need and what takes long.
    """

    def __init__(self, python: Path, imports: str = "import trainer.sft") -> None:
        script = str(Path(__file__).with_name("fork_server.py"))
        self._process = subprocess.Popen(
            [str(python), script, imports], env=environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        while (line := self._process.stdout.readline().strip()) != "ready":
            assert line or self._process.poll() is None, "the server of trainings did not start"

    def start(self, folder: Path) -> Training:
        """Start a training."""
        return Training(folder, int(self.ask(f"start {folder}")), self)

    def run(self, folder: Path) -> int:
        """Train to the end; the exit status."""
        return self.start(folder).wait()

    def ask(self, command: str) -> str:
        """Send a command and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(command, file=self._process.stdin, flush=True)
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        """End the server; trainings have ended by then."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_SECONDS)
