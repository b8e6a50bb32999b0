"""How fast a file of chats becomes checked Arrow batches, and in how much memory, beside readers that check nothing.

Each reader runs in a process of its own; CPU seconds are of all its threads, without imports.
"""

from __future__ import annotations

import gzip
import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.performance.chats import write_chats

MEGABYTES = 200
MOST_SECONDS = 4.0
MOST_MEGABYTES = 400


def _tollgate(path: Path) -> int:
    from tollgate.dataset import readers

    return sum(batch.rows.num_rows + len(batch.problems) for batch in readers.read_batches(path))


def _pyarrow(path: Path) -> int:
    from pyarrow import json

    return json.read_json(path).num_rows


def _polars(path: Path) -> int:
    import polars as pl

    return pl.read_ndjson(path).height


def _pandas(path: Path) -> int:
    import pandas as pd

    return len(pd.read_json(path, lines=True, dtype_backend="pyarrow"))


PEERS: dict[str, Callable[[Path], int]] = {"pyarrow": _pyarrow, "polars": _polars, "pandas": _pandas}


def measure(megabytes: int = MEGABYTES) -> list[dict[str, Any]]:
    """Measure reading as JSONL (beside the peers), as one array, and compressed.

    Args:
        megabytes: Size of the file, in millions of bytes.

    Returns:
        For each metric: metric, value, unit, peer, ratio (to the peer's value), must and ok.
    """
    with tempfile.TemporaryDirectory(prefix="tollgate-reading-") as folder:
        lines = _lines(Path(folder), megabytes)
        others = {"array": _as_array(lines), "gzip": _as_gzip(lines)}
        rows, seconds, memory = _run(_tollgate, lines)
        size = lines.stat().st_size / 1e6
        most = MOST_SECONDS * size / MEGABYTES
        results = [
            _result("JSONL", seconds, "CPU seconds", most, seconds <= most),
            _result("JSONL", memory, "MB at most", MOST_MEGABYTES, memory <= MOST_MEGABYTES),
            _result("JSONL", rows / seconds, "rows per CPU second", None, True),
        ]
        whole = _without_broken_lines(lines)  # a peer gives up at the first
        for name, peer in PEERS.items():
            _, peer_seconds, peer_memory = _run(peer, whole)
            results += [
                _result("JSONL", seconds, "CPU seconds", None, True, (name, peer_seconds)),
                _result("JSONL", memory, "MB at most", None, True, (name, peer_memory)),
            ]
        for name, path in others.items():
            count, seconds, memory = _run(_tollgate, path)
            ok = memory <= MOST_MEGABYTES and count == rows
            results += [
                _result(name, seconds, "CPU seconds", None, True),
                _result(name, memory, "MB at most", MOST_MEGABYTES, ok),
            ]
        return results


def _lines(folder: Path, megabytes: int) -> Path:
    path = folder / "chats.jsonl"
    sample = write_chats(path, 2000).bytes / 2000
    write_chats(path, round(megabytes * 1e6 / sample))
    return path


def _without_broken_lines(lines: Path) -> Path:
    path = lines.with_name("whole.jsonl")
    with lines.open("rb") as source, path.open("wb") as target:
        target.writelines(line for line in source if line.endswith(b"}\n"))
    return path


def _as_array(lines: Path) -> Path:
    """The same rows as one array; broken ones as numbers, which are no rows either."""
    path = lines.with_suffix(".json")
    with lines.open("rb") as source, path.open("wb") as target:
        for number, line in enumerate(source):
            target.write((b",\n" if number else b"[") + (line[:-1] if line.endswith(b"}\n") else b"0"))
        target.write(b"]")
    return path


def _as_gzip(lines: Path) -> Path:
    path = lines.with_suffix(".jsonl.gz")
    with lines.open("rb") as source, gzip.open(path, "wb", compresslevel=1) as target:
        target.writelines(source)
    return path


def _run(reader: Callable[[Path], int], path: Path) -> tuple[int, float, float]:
    """Rows, CPU seconds and megabytes at most, of a reader in a fresh process."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_measured, reader, path).result()


def _measured(reader: Callable[[Path], int], path: Path) -> tuple[int, float, float]:
    head = path.with_name("head.jsonl")
    head.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' * 2)
    reader(head)  # imports
    begin = time.process_time()
    rows = reader(path)
    seconds = time.process_time() - begin
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return rows, seconds, int(peak[1]) * 1024 / 1e6 if peak else float("nan")


def _result(
    metric: str, value: float, unit: str, must: float | None, ok: bool, peer: tuple[str, float] | None = None
) -> dict[str, Any]:
    return {
        "metric": f"reading: {metric}",
        "value": round(value, 2),
        "unit": unit,
        "peer": peer and f"{peer[0]} {peer[1]:.2f}",
        "ratio": peer and round(peer[1] / value, 2),
        "must": must,
        "ok": ok,
    }
