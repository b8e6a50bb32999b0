"""The folder that the steps of one run share: rows as Parquet, results as JSON, each there as a whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tollgate.errors import TollgateError
from tollgate.gates.results import STAGES, Stage, StageResult

if TYPE_CHECKING:
    import polars as pl


def make(workdir: Path) -> None:
    """Make a work folder that only its owner can open: its first rows still hold personal data."""
    workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
    workdir.chmod(0o700)


def discard(workdir: Path) -> None:
    """Delete a work folder, whose first files hold personal data; nothing happens where there is none."""
    shutil.rmtree(workdir, ignore_errors=True)


def delete_rows(workdir: Path) -> None:
    """Delete the rows of all steps, which hold personal data at first; results and notes stay."""
    for path in workdir.glob("*.parquet*"):
        path.unlink(missing_ok=True)


def read_result(workdir: Path, stage: Stage) -> StageResult:
    """What a step that has ended left in the work folder.

    Raises:
        TollgateError: The step has not ended in this folder.
    """
    path = workdir / f"{stage}.result.json"
    if not path.is_file():
        raise TollgateError(f"{stage} has not run in {workdir}: run the steps in order, {' -> '.join(STAGES)}")
    return StageResult.model_validate_json(path.read_bytes())


def finish(workdir: Path, result: StageResult) -> StageResult:
    """Leave a step's result beside its rows, which says that the step has ended, and hand it on."""
    write_text(workdir / f"{result.stage}.result.json", result.model_dump_json(indent=2))
    return result


def read_rows(workdir: Path, stage: Stage) -> pl.DataFrame:
    """The rows that a step left.

    Raises:
        TollgateError: The step has not ended in this folder.
    """
    import polars as pl

    read_result(workdir, stage)
    return pl.read_parquet(workdir / f"{stage}.parquet")


def write_rows(workdir: Path, stage: Stage, rows: pl.DataFrame) -> None:
    """Leave a step's rows."""
    temporary = workdir / f"{stage}.parquet.writing"
    rows.write_parquet(temporary)
    temporary.replace(workdir / f"{stage}.parquet")


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    temporary = path.with_name(f"{path.name}.writing")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
