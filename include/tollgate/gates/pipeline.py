"""The gates in their order, each a step of its own that a task can run and retry.

    ingest -> mask_personal_data -> drop_duplicates -> score_quality -> check_contamination -> split_rows
    -> check_contract -> write_version

A step reads what the steps before left in the work folder and writes its own (to a temporary name, then renamed), with
a small result beside it: run again after a crash it does the same again. Every step accounts for every row: rows in
are rows kept, dropped by reason, or quarantined, or the step fails. Results hold counts and masked excerpts, never
personal data.
"""

from __future__ import annotations

import atexit
import gc
import shutil
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tollgate.dataset import readers, statistics, versions
from tollgate.dataset.schema import SPLITS, Split
from tollgate.dataset.versions import DatasetVersion, Source
from tollgate.gates import workfolder
from tollgate.gates.gate_settings import GateSettings
from tollgate.gates.judging import judge_process
from tollgate.gates.results import STAGES, Stage, StageResult, summarise
from tollgate.gates.steps.contamination import check_contamination
from tollgate.gates.steps.contract import check_contract
from tollgate.gates.steps.duplicates import drop_duplicates
from tollgate.gates.steps.ingest import ingest
from tollgate.gates.steps.personal_data import MaskingAhead, mask_personal_data
from tollgate.gates.steps.quality import score_all, score_quality
from tollgate.gates.steps.split import split_rows
from tollgate.gates.threads import aside
from tollgate.settings import settings as process_settings

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "STEPS",
    "Gathered",
    "Progress",
    "Step",
    "check_contamination",
    "check_contract",
    "drop_duplicates",
    "gather",
    "ingest",
    "mask_personal_data",
    "prepare",
    "score_quality",
    "split_rows",
    "write_version",
]

_DRAFT = "draft"
_LARGE = 16 << 20  # bytes of a source from which on it pays to do other work while reading

Progress = Callable[[Stage, StageResult | None], None]
"""Called with a step's name when it begins, and again with its result when it has ended."""

Step = Callable[[Path, GateSettings], StageResult]
"""A step over a run's work folder."""

STEPS: dict[Stage, Step] = {
    "personal_data": mask_personal_data,
    "duplicates": drop_duplicates,
    "quality": score_quality,
    "contamination": check_contamination,
    "split": split_rows,
    "contract": check_contract,
}
"""The steps after :func:`ingest`, in their order."""


@dataclass(frozen=True)
class Gathered:
    """What a version is made of: the rows of each part, their statistics, and a draft of the version."""

    parts: dict[Split, pl.DataFrame]
    statistics: dict[str, Any]
    draft: versions.Draft


def gather(workdir: Path, settings: GateSettings) -> Gathered:
    """Read the rows that the step ``split`` left, with their texts; describe them, and draft a version."""
    parts = _parts(workdir)
    folder = workdir / _DRAFT
    folder.mkdir(exist_ok=True)
    draft = versions.draft(parts, settings.model_dump(mode="json"), _sources(workdir), folder)
    return Gathered(parts, statistics.describe(parts), draft)


def _sources(workdir: Path) -> list[Source]:
    return [Source.model_validate(workfolder.read_result(workdir, "ingest").details["source"])]


def write_version(
    name: str, workdir: Path, settings: GateSettings, root: Path | None = None, gathered: Gathered | None = None
) -> DatasetVersion:
    """Write what has passed the contract as the next version, with the report, the judgement and the quarantine.

    Args:
        name: Name of the dataset.
        workdir: The work folder in which all steps have ended.
        settings: The same settings that they ran with.
        root: Folder of all datasets; the process's unless told.
        gathered: What :func:`gather` returned for this work folder, if it was called already.

    Returns:
        The new version, or the one there already with the same content.
    """
    gathered = gathered or gather(workdir, settings)
    results = [workfolder.read_result(workdir, stage) for stage in STAGES]
    summary = summarise(results)
    version = versions.write(
        name,
        gathered.parts,
        gate_settings=settings.model_dump(mode="json"),
        sources=_sources(workdir),
        counts=summary,
        report={
            **summary,
            "name": name,
            "stages": [one.model_dump(mode="json") for one in results],
            "statistics": gathered.statistics,
        },
        attachments=[workdir / "quarantine.jsonl", workdir / "contract.json", workdir / "data_docs"],
        root=root,
        drafted=gathered.draft,
    )
    shutil.rmtree(workdir / _DRAFT)  # still full where the same content was there already
    return version


def _parts(workdir: Path) -> dict[Split, pl.DataFrame]:
    """The rows of each part, with the columns of a version."""
    import polars as pl
    import pyarrow as pa

    from tollgate.dataset.schema import ROW_SCHEMA

    columns = workfolder.read_columns(workdir, "split")
    names = ["messages", "category", "source"]
    schema = pa.schema([ROW_SCHEMA.field(name) for name in names])
    columns = columns.with_columns(pl.col("quality_score").cast(pl.Float64).round(3))
    parts: dict[Split, pl.DataFrame] = {}
    for part in SPLITS:
        chosen = columns.filter(columns["part"] == part)
        batches = workfolder.read_places(workdir, chosen["place"].to_numpy(), names)
        texts = pl.DataFrame(pa.Table.from_batches(batches, schema))
        parts[part] = chosen.hstack(texts.get_columns()).select(versions.COLUMNS)
    return parts


_ALONGSIDE: dict[Stage, Callable[[Path, GateSettings], Any]] = {"duplicates": score_all, "contract": gather}
"""What a run over a large source does while a step leaves a core idle: what the steps behind it need."""


@contextmanager
def _collecting_seldom() -> Generator[None]:
    """Have Python look for garbage in cycles a hundred times less often, and not at its end.

    Of all that libraries hold, nothing is garbage. At its end Python would look at all of it once more, for half a
    second, though everything that was opened is closed by then.
    """
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    often = gc.get_threshold()
    gc.set_threshold(100 * often[0], *often[1:])
    try:
        yield
    finally:
        gc.set_threshold(*often)


def prepare(
    name: str,
    source: Path,
    settings: GateSettings | None = None,
    progress: Progress | None = None,
    root: Path | None = None,
) -> DatasetVersion:
    """Take a source through all gates to a written version.

    Args:
        name: Name of the dataset.
        source: The file to read.
        settings: What the gates look for and how strict they are; the defaults unless told.
        progress: Told when each step begins and ends.
        root: Folder of all datasets; the process's unless told.

    Returns:
        The new version, or the one there already with the same content.

    Raises:
        BadInputError: The source or the name can't be used.
        GateRefusedError: The rows that are left do not meet the contract.
    """
    chosen = settings or GateSettings()
    versions.check_name(name)
    readers.check_readable(source)
    tell: Progress = progress or (lambda _stage, _result: None)
    folder = root or process_settings().datasets
    folder.mkdir(parents=True, exist_ok=True)
    started: dict[Stage, Future[Any]] = {}
    with ExitStack() as stack:
        stack.enter_context(_collecting_seldom())
        workdir, steps = stack.enter_context(workfolder.temporary(folder)), dict(STEPS)
        read = partial(ingest, source.absolute(), root=root)
        large = source.stat().st_size >= _LARGE
        if large:
            pool = stack.enter_context(aside())
            ahead = stack.enter_context(MaskingAhead(workdir, chosen))
            read = partial(read, to=ahead.put)
            steps["personal_data"] = lambda _workdir, _settings: ahead.finish()
            steps["quality"] = partial(score_quality, scored=lambda: started["duplicates"].result())
            steps["contract"] = partial(check_contract, judge=stack.enter_context(judge_process()))
        every: dict[Stage, Step] = {"ingest": read, **steps}
        for stage, step in every.items():
            tell(stage, None)
            if large and stage in _ALONGSIDE:
                started[stage] = pool.submit(_ALONGSIDE[stage], workdir, chosen)
            tell(stage, step(workdir, chosen))
        gathered = started["contract"].result() if large else None
        return write_version(name, workdir, chosen, root, gathered)
