"""The gates on the demo's raw file: what each takes is what was planted, row for row."""

from __future__ import annotations

from pathlib import Path

from tollgate.demo import raw_data
from tollgate.gates import pipeline
from tollgate.gates.gate_settings import GateSettings


def test_the_gates_find_what_the_demo_planted(tmp_path: Path) -> None:
    source, workdir, settings = tmp_path / "raw.jsonl", tmp_path / "work", GateSettings()
    planted = raw_data.write_raw(source, seed=11, candidate="first")
    ingested = pipeline.ingest(source, workdir, settings)
    assert (ingested.rows_in, ingested.quarantined) == (planted.lines, sum(planted.broken.values()))
    assert pipeline.mask_personal_data(workdir, settings).masked == planted.personal_data
    assert pipeline.drop_duplicates(workdir, settings).dropped == {
        "exact_duplicate": planted.exact_duplicates,
        "near_duplicate": planted.near_duplicates,
    }
    assert pipeline.score_quality(workdir, settings).dropped == {
        "toxic": planted.toxic,
        "low_quality": sum(planted.low_quality.values()),
    }
    assert pipeline.check_contamination(workdir, settings).dropped == {}
    split = pipeline.split_rows(workdir, settings)
    assert (split.dropped, split.details["splits"]) == ({}, planted.rows)
