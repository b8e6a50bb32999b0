"""The spool: order, bounds, what a killed process leaves, and who takes it over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import spool as module
from gateway.spool import Spool

BIG = 10**9


def drain(spool: Spool, most: int = 10) -> list[bytes]:
    lines = []
    while (batch := spool.next_batch(most)) is not None:
        lines += [line.rstrip(b"\n") for line in batch.lines]
        spool.done(batch)
    return lines


def test_lines_come_out_in_order_over_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 50)
    spool = Spool.create(tmp_path, BIG)
    lines = [f"line {number}".encode() for number in range(100)]
    for line in lines[:60]:
        spool.append(line)
    found = drain(spool)
    for line in lines[60:]:
        spool.append(line)
    assert found + drain(spool, 7) == lines
    assert len(list(tmp_path.glob("*/*.jsonl"))) == 1  # what is done is deleted
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_was_not_done_comes_again(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, BIG)
    spool.append(b"a")
    assert spool.next_batch(5) == spool.next_batch(5)
    spool.append(b"b")
    assert drain(spool) == [b"a", b"b"]


def test_the_bound_holds_and_space_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 100)
    spool = Spool.create(tmp_path, 1000)
    kept = [spool.append(b"x" * 49) for _ in range(30)]
    assert kept == [True] * 20 + [False] * 10
    assert spool.is_filling
    assert spool.size <= 1000
    drain(spool)
    assert spool.append(b"y")
    assert not spool.is_filling


def test_a_killed_process_leaves_its_lines_to_the_next(tmp_path: Path) -> None:
    program = (
        "import sys, os, signal; from pathlib import Path; from gateway.spool import Spool\n"
        "spool = Spool.create(Path(sys.argv[1]), 10**9)\n"
        "for number in range(100): spool.append(b'%d' % number)\n"
        "batch = spool.next_batch(40); spool.done(batch)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, env=_environment())
    assert killed.returncode == -signal.SIGKILL
    own = Spool.create(tmp_path, BIG)
    (orphan,) = Spool.adopt(tmp_path)
    assert list(Spool.adopt(tmp_path)) == []  # held now, and the own one is not taken
    assert drain(orphan) == [b"%d" % number for number in range(40, 100)]
    orphan.close()
    assert list(Spool.adopt(tmp_path)) == []
    own.close()


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, BIG)
    spool.append(b"whole")
    (segment,) = tmp_path.glob("*/*.jsonl")
    with segment.open("ab") as file:
        file.write(b"torn")
    assert drain(spool) == [b"whole"]


def _environment() -> dict[str, str]:
    root = Path(__file__).parents[4]
    return os.environ | {"PYTHONPATH": f"{root / 'include'}:{root / 'containers'}"}
