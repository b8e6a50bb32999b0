"""Runs the steps of ``prepare_dataset`` as tasks do, until the file named last is about to get its name: then SIGKILL.

    python killed_run.py STATE SOURCE GATES [FILE]

``STATE`` keeps what the last step that ended returned, so that the next run goes on there, as an orchestrator would.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tollgate.gates import stages

STEPS = (
    stages.mask_personal_data,
    stages.drop_duplicates,
    stages.score_quality,
    stages.check_contamination,
    stages.split,
    stages.check_contract,
    stages.write_version,
)


def go_on(path: Path, source: str, gates: dict[str, Any]) -> None:
    """Run the steps that have not ended yet."""
    kept: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"done": -1, "state": {}}
    done: int = kept["done"]
    state: dict[str, Any] = kept["state"]
    for number in range(done + 1, len(STEPS) + 1):
        state = STEPS[number - 1](state) if number else stages.ingest("calls", source, gates, "run")
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps({"done": number, "state": state}))
        temporary.rename(path)


def kill_before(name: str) -> None:
    """Die as soon as a file or folder is about to get a name."""

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and Path(os.fsdecode(arguments[1])).name == name:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


if __name__ == "__main__":
    if len(sys.argv) > 4:
        kill_before(sys.argv[4])
    go_on(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
