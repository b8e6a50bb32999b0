"""Reading a job's progress; what is written to MLflow is tested on a real server in tests/integration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tollgate.errors import BadInputError
from tollgate.registry.mlflow_run import _progress


def test_a_line_that_was_being_written_when_the_job_died_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert list(_progress(path)) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("damaged", ["not json", "[1, 2]"])
def test_a_damaged_line_is_named(tmp_path: Path, damaged: str) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_text(f'{{"step": 1}}\n{damaged}\n{{"step": 3}}\n')
    with pytest.raises(BadInputError, match=r"progress.jsonl, line 2"):
        list(_progress(path))


def test_a_job_without_progress_has_no_series(tmp_path: Path) -> None:
    assert list(_progress(tmp_path / "progress.jsonl")) == []
