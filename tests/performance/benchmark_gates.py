"""All benchmarks of the data gates in one run, as a table and as ``build/bench/gates.json``.

    make bench-gates                    the sizes that the requirements name (minutes)
    make bench-gates BENCH_SCALE=0.1    a tenth of them
    make bench-gates BENCH=pipeline     one part

Each part is measured in a process of its own, so that none sees another's memory or compiled kernels. A part's
``measure`` takes its sizes as arguments, numbers or lists of them. Where a library to compare with is not installed the
table says so.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tests.performance.tables import Row, machine, publish, row

PARTS = ("pipeline", "near_duplicates", "names", "personal_data", "toxicity", "reading")
PEERS = {
    "near_duplicates": ("rensa",),
    "names": ("presidio_analyzer", "kiwipiepy"),
    "personal_data": ("presidio_analyzer",),
}
TARGET = Path("build/bench/gates.json")


def measure(part: str, scale: float) -> list[Row]:
    """Measure one part, at a share of its usual size."""
    function = importlib.import_module(f"tests.performance.{part}").measure
    usual = {name: one.default for name, one in inspect.signature(function).parameters.items()}
    sizes = {name: _scaled(size, scale) for name, size in usual.items()} if scale != 1 else {}
    return [*function(**sizes), *_absent(part)]


def _scaled(size: int | Sequence[int], scale: float) -> int | list[int]:
    return max(1, round(size * scale)) if isinstance(size, int) else [max(1, round(one * scale)) for one in size]


def _absent(part: str) -> list[Row]:
    return [row(f"{part}: beside {peer}", peer="peer absent") for peer in PEERS.get(part, ()) if not find_spec(peer)]


def measured_apart(part: str, scale: float) -> list[Row]:
    """Measure one part in a process of its own; if that fails, the row says so."""
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, part, str(scale)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if answer.returncode:
        return [row(f"{part}: ended with {answer.returncode}", ok=False)]
    return json.loads(answer.stdout.splitlines()[-1])


def main(parts: Sequence[str], scale: float) -> int:
    """Measure, print, write; 0 if everything is as good as it must be, else 1."""
    measured_on = machine(scale=scale)
    rows: list[Row] = []
    for part in parts:
        print(f"measuring {part} ...", file=sys.stderr, flush=True)
        rows += measured_apart(part, scale)
    return publish("Data gates", rows, measured_on, TARGET)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], float(sys.argv[2]))))
    else:
        chosen = os.environ.get("BENCH", "").split() or PARTS
        sys.exit(main(chosen, float(os.environ.get("BENCH_SCALE", "1"))))
