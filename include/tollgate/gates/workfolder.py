"""The folder that the steps of one run share: rows as Arrow files, results as JSON, each there whole or not at all.

Two steps leave whole rows: ``ingest``, and ``personal_data`` with what it masked. The others leave columns: the place
of each row that they kept among the rows of ``personal_data``, and what they found out about it. So texts are written
twice in a run, however many steps look at them, and are read by mapping the file into memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tollgate.dataset.locks import delete, is_left, owned
from tollgate.errors import TollgateError
from tollgate.gates.results import STAGES, Stage, StageResult

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import polars as pl
    import pyarrow as pa

_ENDING, _UNFINISHED = ".arrow", ".writing"
_TEMPORARY = ".preparing-"


def make(workdir: Path) -> None:
    """Make a work folder that only its owner can open: its first rows still hold personal data."""
    workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
    workdir.chmod(0o700)


@contextmanager
def temporary(parent: Path) -> Generator[Path]:
    """A work folder for one run, deleted at its end; what killed runs left is deleted first."""
    for left in filter(is_left, parent.glob(f"{_TEMPORARY}*")):
        discard(left)
    workdir = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=parent))
    try:
        with owned(workdir):
            yield workdir
    finally:
        discard(workdir)


def discard(workdir: Path) -> None:
    """Delete a work folder, whose first files hold personal data; nothing happens where there is none."""
    delete(workdir)


def delete_rows(workdir: Path) -> None:
    """Delete the rows of all steps, which hold personal data at first; results and notes stay."""
    for path in workdir.glob(f"*{_ENDING}*"):
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


@contextmanager
def rows_writer(workdir: Path, stage: Stage) -> Generator[Callable[[pa.RecordBatch], None]]:
    """Leave a step's rows batch by batch; they are there when the block has ended without an error."""
    import pyarrow as pa

    from tollgate.dataset.schema import ROW_SCHEMA

    temporary = workdir / f"{stage}{_ENDING}{_UNFINISHED}"
    with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, ROW_SCHEMA) as writer:
        yield writer.write_batch
    temporary.replace(workdir / f"{stage}{_ENDING}")


def read_rows(workdir: Path, stage: Stage) -> list[pa.RecordBatch]:
    """The rows that a step left, in batches that stay in the file until they are looked at.

    Raises:
        TollgateError: The step has not ended in this folder.
    """
    import pyarrow as pa

    read_result(workdir, stage)
    reader = pa.ipc.open_file(pa.memory_map(str(workdir / f"{stage}{_ENDING}")))
    return [reader.get_batch(number) for number in range(reader.num_record_batches)]


def read_places(
    workdir: Path, places: npt.NDArray[np.int64], columns: Sequence[str] = ("messages",)
) -> Iterator[pa.RecordBatch]:
    """Some columns of the rows of ``personal_data`` at some places, which rise."""
    import numpy as np
    import pyarrow as pa

    start = 0
    for whole in read_rows(workdir, "personal_data"):
        batch = whole.select(list(columns))
        first, last = np.searchsorted(places, (start, start + batch.num_rows))
        if last - first == batch.num_rows:
            yield batch
        elif last > first:
            yield batch.take(pa.array(places[first:last] - start))
        start += batch.num_rows


def write_columns(workdir: Path, stage: Stage, columns: pl.DataFrame) -> None:
    """Leave what a step found out about the rows that it kept: their ``place``, which rises, and other columns."""
    temporary = workdir / f"{stage}{_ENDING}{_UNFINISHED}"
    columns.write_ipc(temporary)
    temporary.replace(workdir / f"{stage}{_ENDING}")


def read_columns(workdir: Path, stage: Stage) -> pl.DataFrame:
    """The columns that a step left.

    Raises:
        TollgateError: The step has not ended in this folder.
    """
    import polars as pl

    read_result(workdir, stage)
    return pl.read_ipc(workdir / f"{stage}{_ENDING}")


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    temporary = path.with_name(f"{path.name}{_UNFINISHED}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
