"""Stands for ``train.py`` in tests of the launcher: obeys ``modes.json`` by its number; standard library alone."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(folder: Path) -> int:
    number = int(os.environ["RANK"])
    mode = json.loads((folder / "modes.json").read_text(encoding="utf-8"))[number]
    (folder / f"pid-{number}").write_text(str(os.getpid()))
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
    (folder / f"environment-{number}.json").write_text(json.dumps({name: os.environ[name] for name in names}))
    print(f"process {number}: {mode}", flush=True)
    if mode == "succeed":
        return 0
    if mode == "refuse":
        return say_why(folder, number, "bad_specification", "rank is too large", 2)
    if mode == "fail":
        return say_why(folder, number, "disk_full", "no space left", 1)
    if mode == "fail after the others":
        time.sleep(1.5)
        return say_why(folder, number, "failed", "connection closed by peer", 1)
    if mode == "stop":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(10))
    if mode == "ignore":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / f"ready-{number}").touch()
    while True:
        time.sleep(60)


def say_why(folder: Path, number: int, kind: str, message: str, code: int) -> int:
    report = {"kind": kind, "message": message, "advice": "advice"}
    (folder / f"error.rank-{number}.json").write_text(json.dumps(report), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
