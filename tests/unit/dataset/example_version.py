"""A small dataset version, written as the gates write one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from tollgate.dataset import versions
from tollgate.dataset.versions import DatasetVersion

ANSWER = json.dumps({"분류": "통행료", "긴급": False}, ensure_ascii=False)


def write_version(
    root: Path, name: str = "highway", test_questions: Sequence[str] = ("q0", "q1", "q2")
) -> DatasetVersion:
    """Questions are their own ids; the right answer to each is :data:`ANSWER`."""
    parts = {"train": _rows(["t0", "t1", "t2", "t3"]), "validation": _rows(["v0"]), "test": _rows(test_questions)}
    stage = {
        "stage": "ingest",
        "rows_in": 5,
        "rows_kept": 5,
        "dropped": {},
        "masked": {},
        "quarantined": 0,
        "details": {},
    }
    return versions.write(
        name,
        parts,  # type: ignore[arg-type]
        gate_settings={},
        sources=[],
        counts={},
        report={"stages": [stage], "statistics": {}},
        root=root,
    )


def _rows(questions: Sequence[str]) -> pl.DataFrame:
    rows = [
        {
            "id": question,
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": ANSWER}],
            "category": "통행료",
            "source": "made",
            "quality_score": 1.0,
            "cluster": number,
        }
        for number, question in enumerate(questions)
    ]
    return pl.DataFrame(rows)
