"""The job of the tests: obeys ``spec.json`` and keeps the contract of a job folder with the standard library alone."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(folder: Path) -> int:
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    with (folder / "starts").open("a", encoding="utf-8") as starts:
        starts.write("start\n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(stop(folder)))
    print(f"작업 시작, 번호 {starts_of(folder)}")
    return MODES[spec["mode"]](folder)


def starts_of(folder: Path) -> int:
    return len((folder / "starts").read_text(encoding="utf-8").splitlines())


def stop(folder: Path) -> int:
    checkpoint = folder / "checkpoints" / "checkpoint-1"
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "state").write_text("saved")
    return 10


def succeed(folder: Path) -> int:
    result = {
        "status": "succeeded",
        "starts": starts_of(folder),
        "continued": (folder / "checkpoints").exists(),
        "variables": sorted(os.environ),
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "user": f"{os.getuid()}:{os.getgid()}",
    }
    (folder / "result.json.part").write_text(json.dumps(result), encoding="utf-8")
    (folder / "result.json.part").replace(folder / "result.json")
    print("10 %\r50 %\r100 %")
    print("last line without a newline", end="")
    return 0


def wait_for_go(folder: Path) -> int:
    (folder / "waiting").touch()
    while not (folder / "go").exists():
        time.sleep(0.02)
    print("going")
    return succeed(folder)


def ignore_sigterm(folder: Path) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return wait_for_go(folder)


def report_progress(folder: Path) -> int:
    """Say one line of progress, write two as a trainer does, and succeed."""
    print("step 1/2 (50 %), loss 1.0000")
    with (folder / "progress.jsonl").open("a", encoding="utf-8") as progress:
        for step in (1, 2):
            line = {"step": step, "max_steps": 2, "percent": 50.0 * step, "loss": 1.0 / step, "phase": "training"}
            progress.write(json.dumps(line) + "\n")
    return wait_for_go(folder)


def crash(folder: Path) -> int:
    report = {"kind": "disk_full", "message": "no space left", "advice": "delete old checkpoints"}
    (folder / "error.json").write_text(json.dumps(report), encoding="utf-8")
    print("the log's last words")
    return 3


def refuse(folder: Path) -> int:
    report = {"kind": "bad_specification", "message": "base_model is not a folder"}
    (folder / "error.json").write_text(json.dumps(report), encoding="utf-8")
    return 2


def eat_memory(folder: Path) -> int:
    eaten = [b"x" * 2**20 * 10 for _ in range(20)]  # 200 MiB, three times the limit
    time.sleep(60)
    return len(eaten)


def leave_no_result(folder: Path) -> int:
    return 0


def breed(folder: Path) -> int:
    """Start a child that never ends, and wait."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(60)
    (folder / "child").write_text(str(child))
    return wait_for_go(folder)


MODES = {
    "succeed": succeed,
    "wait": wait_for_go,
    "stubborn": ignore_sigterm,
    "report": report_progress,
    "crash": crash,
    "refuse": refuse,
    "eat_memory": eat_memory,
    "no_result": leave_no_result,
    "breed": breed,
}

if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
