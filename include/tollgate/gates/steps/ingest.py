"""Step 1: read the source into rows, and find everything else that the settings name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tollgate.dataset import readers, versions
from tollgate.dataset.schema import RowProblem
from tollgate.dataset.versions import Source
from tollgate.errors import BadInputError, Problem
from tollgate.gates import pii, workfolder
from tollgate.gates.gate_settings import GateSettings
from tollgate.gates.results import StageResult

if TYPE_CHECKING:
    import pyarrow as pa

_PROBLEMS_SHOWN = 10


def ingest(
    source: Path,
    workdir: Path,
    settings: GateSettings,
    root: Path | None = None,
    to: Callable[[pa.RecordBatch], None] | None = None,
) -> StageResult:
    """Read a source into rows; what can't be read goes to ``quarantine.jsonl`` with its line, field and reason.

    References that move, such as ``name@latest``, are followed once, here: the other steps see what they meant.

    Args:
        source: The file to read.
        workdir: The run's work folder, made if it isn't there.
        settings: What the gates look for.
        root: Folder of all datasets; the process's unless told.
        to: Takes each batch of rows; they are left in the work folder for the next step unless told.

    Raises:
        BadInputError: The source can't be read, holds no row, or more of its rows are broken than the settings allow;
            or a version, test set or analyser that the settings need isn't there.
    """
    pii.check_installed(settings.personal_data_settings())
    named = _named_by(settings, root)
    workfolder.make(workdir)
    with ExitStack() as stack:
        put = to or stack.enter_context(workfolder.rows_writer(workdir, "ingest"))
        good, problems = _read(source, settings, put)
    quarantine = "".join(f"{problem.model_dump_json()}\n" for problem in problems)
    workfolder.write_text(workdir / "quarantine.jsonl", quarantine)
    _check_share(source, good, problems, settings.max_broken_share)
    details = {"source": _source(source).model_dump(), **named}
    return workfolder.finish(
        workdir,
        StageResult(
            stage="ingest",
            rows_in=good + len(problems),
            rows_kept=good,
            quarantined=len(problems),
            details={**details, "problems": [problem.model_dump() for problem in problems[:_PROBLEMS_SHOWN]]},
        ),
    )


def _named_by(settings: GateSettings, root: Path | None) -> dict[str, Any]:
    """What the settings name outside the source, as it is now."""
    references = [*settings.against, *([settings.category_reference] if settings.category_reference else [])]
    found = {reference: versions.resolve(reference, root) for reference in references}
    for path in settings.contamination_tests:
        readers.check_readable(Path(path))
    return {
        "versions": {
            reference: {"reference": version.reference, "folder": str(version.folder)}
            for reference, version in found.items()
        },
        "tests": [_source(Path(path)).model_dump() for path in settings.contamination_tests],
    }


def _source(path: Path) -> Source:
    return Source(path=str(path), sha256=readers.sha256(path), size=path.stat().st_size)


def _read(source: Path, settings: GateSettings, put: Callable[[pa.RecordBatch], None]) -> tuple[int, list[RowProblem]]:
    """Hand the rows on as they are read; returns how many are good, and what is wrong with the others."""
    good, problems = 0, list[RowProblem]()
    for batch in readers.read_batches(source, settings.fields):
        put(_with_source(batch.rows, source.name))
        good += batch.rows.num_rows
        problems += batch.problems
    return good, problems


def _with_source(rows: pa.RecordBatch, name: str) -> pa.RecordBatch:
    """Rows that don't say where they are from are from the file."""
    import pyarrow.compute as pc

    place = rows.schema.get_field_index("source")
    return rows.set_column(place, rows.schema.field(place), pc.fill_null(rows.column(place), name))


def _check_share(source: Path, good: int, problems: Sequence[RowProblem], allowed: float) -> None:
    total = good + len(problems)
    if total == 0:
        raise BadInputError("The source holds no rows", [Problem(str(source), "0 rows", "at least one row")])
    if good and len(problems) <= allowed * total:
        return
    shown = [
        Problem(
            f"{source}, line {problem.line}" + (f", {problem.field}" if problem.field else ""),
            problem.reason,
            "a usable row",
        )
        for problem in problems[:_PROBLEMS_SHOWN]
    ]
    summary = f"{len(problems)} of {total} rows can't be used, more than the {allowed:.0%} allowed; the first of them:"
    raise BadInputError(summary, shown)
