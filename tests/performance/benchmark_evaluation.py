"""How many cases a second the evaluation asks, keeps and scores, against a server that answers at once.

``make bench-evaluation`` prints the figures and writes ``build/bench/evaluation.json``. The server is a process of its
own; the runner's processor time is given beside the wall clock, for on a busy machine the wall clock measures others.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.performance.served import PROJECT, fast_server

from tollgate.evaluation.cases import Case, Message
from tollgate.evaluation.runner import run_cases
from tollgate.evaluation.scorers import score_results
from tollgate.evaluation.summary import summarise

WANTED = 500
CASES = 1000
ROUNDS = 5


def cases(count: int) -> list[Case]:
    texts = [f'{{"분류": "하이패스", "노선": "경부선", "번호": {number}}}' for number in range(count)]
    return [
        Case(id=f"case-{number}", category="통행료", messages=(Message(role="user", content=text),), expected=text)
        for number, text in enumerate(texts)
    ]


def one_round(address: str, asked: list[Case]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.jsonl"
        wall, busy = time.perf_counter(), time.process_time()
        results = asyncio.run(run_cases(address, "model", asked, concurrency=32, results_path=path))
        summary = summarise(score_results(results))
        wall, busy = time.perf_counter() - wall, time.process_time() - busy
    assert (summary.cases, summary.accuracy) == (len(asked), 1.0)
    return {"cases_per_second": len(asked) / wall, "cases_per_processor_second": len(asked) / busy}


def main() -> int:
    asked = cases(CASES)
    with fast_server() as address:
        rounds = [one_round(address, asked) for _ in range(ROUNDS)]
    best: dict[str, Any] = {name: max(one[name] for one in rounds) for name in rounds[0]}
    best |= {"cases": CASES, "rounds": rounds, "load": os.getloadavg()[0], "wanted": WANTED}
    folder = PROJECT / "build" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(best, indent=2), encoding="utf-8")
    sys.stdout.write(
        f"{best['cases_per_second']:,.0f} cases/s, {best['cases_per_processor_second']:,.0f} a processor second "
        f"(load {best['load']:.1f}); wanted {WANTED}\n"
    )
    return 0 if best["cases_per_second"] >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
