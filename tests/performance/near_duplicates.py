"""How fast near duplicates are found, how many of the planted ones, in what memory, beside datasketch and rensa.

A fifth of the rows repeat another: one to three characters changed, or up to a fifth cut off or added, so that their
Jaccard similarities spread from below 0.8 to 1. Each search runs in a process of its own; CPU seconds are of all its
threads, without imports and compilation. Documents per CPU second are what a core does.
"""

from __future__ import annotations

import multiprocessing
import re
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from tests.performance.chats import sentence

ROWS = (100_000, 300_000, 1_000_000)
CROWDED_ROWS = (30_000, 100_000)
PEER_ROWS = {"datasketch": 10_000, "rensa": 100_000}
THRESHOLD = 0.8
WORDS = 22  # about 116 characters
CHECKED = 20_000
LEAST_SPEED = 80_000
LEAST_RATIO = {"datasketch": 20, "rensa": 8}
LEAST_RECALL = 0.998
MOST_MEGABYTES = 2_000
MOST_GROWTH = 1.5
_ANSWER = "네"


@dataclass(frozen=True)
class Run:
    """One search: CPU seconds, megabytes at most, rows dropped and the rows kept for them, and clusters."""

    seconds: float
    megabytes: float
    row: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64]
    cluster: npt.NDArray[np.int64]


def planted(path: Path, rows: int, seed: int = 0) -> None:
    """Write rows with their text and, for each that repeats another, the other's position (else -1)."""
    draw = Random(seed)
    texts = [sentence(draw, WORDS) for _ in range(rows * 4 // 5)]
    _write(path, texts, [draw.randrange(len(texts)) for _ in range(rows - len(texts))], draw, _repeated)


def crowded(path: Path, rows: int, seed: int = 0) -> None:
    """Write rows as :func:`planted`, but three quarters of each text are the same, so that all share their bands."""
    draw = Random(seed)
    same = sentence(draw, WORDS * 3 // 4)
    texts = [f"{same} {sentence(draw, WORDS // 4)}" for _ in range(rows * 9 // 10)]
    _write(path, texts, [draw.randrange(len(texts)) for _ in range(rows - len(texts))], draw, _changed)


def _write(
    path: Path, texts: list[str], origins: list[int], draw: Random, repeat: Callable[[Random, str], str]
) -> None:
    origin = [-1] * len(texts) + origins
    texts = texts + [repeat(draw, texts[other]) for other in origins]
    pq.write_table(pa.table({"text": pa.array(texts, pa.large_string()), "origin": origin}), path)


def _repeated(draw: Random, text: str) -> str:
    way, share = draw.random(), draw.random() / 4
    if way < 0.5:
        return _changed(draw, text)
    if way < 0.75:
        return text[: round(len(text) * (1 - share))]
    return text + sentence(draw, WORDS)[: round(len(text) * share)]


def _changed(draw: Random, text: str) -> str:
    characters = list(text)
    for place in draw.sample(range(len(text)), draw.randint(1, 3)):
        characters[place] = chr(draw.randint(ord("가"), ord("힣")))
    return "".join(characters)


def measure(rows: Sequence[int] = ROWS, crowded_rows: Sequence[int] = CROWDED_ROWS) -> list[dict[str, Any]]:
    """Measure speed at several sizes, recall, memory and the peers.

    Args:
        rows: Numbers of rows, rising; the last is held against the peers.
        crowded_rows: Numbers of rows, rising, that share most of their text.

    Returns:
        For each metric: metric, value, unit, peer, ratio (to the peer's value), must and ok.
    """
    with tempfile.TemporaryDirectory(prefix="tollgate-near-duplicates-") as folder:
        path = Path(folder) / "planted.parquet"
        costs = []
        for count in rows:
            planted(path, count)
            run = _in_process(_tollgate, path)
            costs.append(run.seconds / count)
        speed = 1 / costs[-1]
        results = [
            _result(f"{rows[-1]:,} rows", speed, "documents per CPU second", LEAST_SPEED, speed >= LEAST_SPEED),
            _result(f"{rows[-1]:,} rows", run.megabytes, "MB at most", MOST_MEGABYTES, run.megabytes <= MOST_MEGABYTES),
            *_costs("", rows, costs),
            *_quality("", path, run),
        ]
        for name, search in PEERS.items():
            peer_rows = min(PEER_ROWS[name], rows[-1])
            planted(path, peer_rows)
            results.append(_beside(name, speed, search, path, peer_rows))
        return results + _crowded(Path(folder) / "crowded.parquet", crowded_rows)


def _crowded(path: Path, rows: Sequence[int]) -> list[dict[str, Any]]:
    costs = []
    for count in rows:
        crowded(path, count)
        run = _in_process(_tollgate, path)
        costs.append(run.seconds / count)
    return [*_costs("boilerplate, ", rows, costs), *_quality("boilerplate, ", path, run)]


def _costs(label: str, rows: Sequence[int], costs: Sequence[float]) -> list[dict[str, Any]]:
    results = [
        _result(f"{label}{count:,} rows", cost * 1e6, "CPU microseconds per row", None, True)
        for count, cost in zip(rows, costs, strict=True)
    ]
    growth = costs[-1] / costs[0]
    return [*results, _result(f"{label}growth of the cost per row", growth, "x", MOST_GROWTH, growth <= MOST_GROWTH)]


def _quality(label: str, path: Path, run: Run) -> list[dict[str, Any]]:
    """Recall of planted pairs, and the share of dropped rows that repeat the kept one, by plain comparison."""
    table = pq.read_table(path)
    texts, origin = table["text"], table["origin"].to_numpy()
    copies = Random(1).sample(np.flatnonzero(origin >= 0).tolist(), min(CHECKED, int((origin >= 0).sum())))
    true = np.array([row for row in copies if _alike(texts, row, origin[row])])
    dropped = np.isin(np.arange(len(texts)), run.row)
    met = (run.cluster[true] == run.cluster[origin[true]]) & (dropped[true] | dropped[origin[true]])
    checked = Random(2).sample(range(run.row.size), min(CHECKED, run.row.size))
    verified = float(np.mean([_alike(texts, run.row[place], run.kept[place]) for place in checked]))
    recall = float(met.mean())
    return [
        _result(f"{label}recall at 0.8 and above", recall, "share", LEAST_RECALL, recall >= LEAST_RECALL),
        _result(f"{label}dropped rows that repeat the kept one", verified, "share", 1.0, verified == 1),
    ]


def _alike(texts: pa.ChunkedArray, one: int, other: int) -> bool:
    from tollgate.gates import dedup

    return dedup.jaccard(*(dedup.fold(texts[int(row)].as_py()) for row in (one, other))) >= THRESHOLD


def _beside(name: str, speed: float, search: Callable[[Path], Run], path: Path, rows: int) -> dict[str, Any]:
    try:
        peer = rows / _in_process(search, path).seconds
    except ImportError:
        return _result(f"beside {name}", speed, "documents per CPU second", None, True) | {"peer": "peer absent"}
    must = LEAST_RATIO[name]
    result = _result(f"beside {name}", speed, "documents per CPU second", must, speed >= must * peer)
    return result | {"peer": f"{name} {peer:.0f}", "ratio": round(speed / peer, 1)}


def _in_process(search: Callable[[Path], Run], path: Path) -> Run:
    """Run a search in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(search, path).result()


def _peak() -> float:
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak[1]) * 1024 / 1e6 if peak else float("nan")


def _tollgate(path: Path) -> Run:
    from tollgate.gates import dedup

    texts = pq.read_table(path, columns=["text"])["text"].combine_chunks()
    answers = pa.repeat(pa.scalar(_ANSWER, pa.large_string()), len(texts))
    dedup.find_duplicates(texts[:100], answers[:100], np.zeros(100), THRESHOLD)  # imports and compilation
    begin = time.process_time()
    found = dedup.find_duplicates(texts, answers, np.zeros(len(texts)), THRESHOLD)
    seconds = time.process_time() - begin
    return Run(seconds, _peak(), found.row, found.kept, found.cluster)


def _shingles(text: str) -> set[str]:
    return {text[start : start + 5] for start in range(max(1, len(text) - 4))}


def _datasketch(path: Path) -> Run:
    """Its usual form: 128 permutations, its own choice of bands, and the fastest hash at hand."""
    from datasketch import MinHash, MinHashLSH

    texts = pq.read_table(path)["text"].to_pylist()
    begin = time.process_time()
    index = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    encoded = ([shingle.encode() for shingle in _shingles(text)] for text in texts)
    for row, signature in enumerate(MinHash.generator(encoded, num_perm=128, hashfunc=zlib.crc32)):
        index.query(signature)
        index.insert(row, signature)
    return _peer_run(begin)


def _rensa(path: Path) -> Run:
    """Its fastest form: all signatures in one matrix, and one pass over 16 bands."""
    from rensa import RMinHash, RMinHashLSH

    texts = pq.read_table(path)["text"].to_pylist()
    begin = time.process_time()
    signatures = RMinHash.digest_matrix_from_token_sets([list(_shingles(text)) for text in texts], 128, 42)
    RMinHashLSH(THRESHOLD, 128, 16).query_duplicate_flags_matrix_one_shot(signatures)
    return _peer_run(begin)


def _peer_run(begin: float) -> Run:
    nothing = np.empty(0, np.int64)
    return Run(time.process_time() - begin, _peak(), nothing, nothing, nothing)


PEERS: dict[str, Callable[[Path], Run]] = {"datasketch": _datasketch, "rensa": _rensa}


def _result(metric: str, value: float, unit: str, must: float | None, ok: bool) -> dict[str, Any]:
    return {
        "metric": f"near duplicates: {metric}",
        "value": round(value, 4),
        "unit": unit,
        "peer": None,
        "ratio": None,
        "must": must,
        "ok": ok,
    }


if __name__ == "__main__":
    for line in measure():
        print(line)
