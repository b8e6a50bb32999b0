"""The tasks of ``prepare_dataset``: the gates, one task each, over a work folder that all tasks of a run share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tollgate.dataset import readers, versions
from tollgate.dataset.records import record_version
from tollgate.errors import BadInputError, Problem
from tollgate.gates import pipeline
from tollgate.gates.pipeline import GateSettings, StageResult
from tollgate.settings import settings
from tollgate.store.session import transaction

Gate = Callable[[Path, GateSettings], StageResult]
GATES: dict[str, Gate] = {
    "mask_personal_data": pipeline.mask_personal_data,
    "drop_duplicates": pipeline.drop_duplicates,
    "score_quality": pipeline.score_quality,
    "check_contract": pipeline.check_contract,
}
"""The gates between reading and writing, by the name of their task."""


def ingest(name: str, source: str, gates: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    """Read the source into a new work folder.

    Args:
        name: Name of the dataset.
        source: Absolute path of the file.
        gates: Fields of ``GateSettings`` that differ from the defaults.
        run_id: The run; its work folder follows from it.

    Raises:
        BadInputError: Name, settings or file cannot be used.
    """
    parse_gates(gates)
    versions.check_name(name)
    path = _source(source)
    readers.check_readable(path)
    return _summary(pipeline.ingest(path, work_folder(run_id), parse_gates(gates)))


def run_gate(task: str, gates: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    """Run one of :data:`GATES` and return what it did, in figures.

    Raises:
        GateRefusedError: The contract is not met.
    """
    return _summary(GATES[task](work_folder(run_id), parse_gates(gates)))


def split_and_write(
    name: str, gates: Mapping[str, Any], run_id: str, by: str, description: str | None
) -> dict[str, Any]:
    """Write the version and its rows in PostgreSQL.

    Returns:
        ``reference``, ``rows`` of each part, ``counts`` of what came in, was dropped and masked, and the ``report``.
    """
    version = pipeline.split_and_write(name, work_folder(run_id), parse_gates(gates))
    with transaction() as session:
        dataset_id = record_version(session, version, by, description)
    return {
        "reference": version.reference,
        "dataset_id": dataset_id,
        "is_new": version.created,
        "rows": version.rows,
        "counts": version.manifest.counts,
        "report": str(version.folder / "report.json"),
    }


def discard_work(run_id: str) -> None:
    """Delete the run's work folder, which holds personal data."""
    pipeline.discard(work_folder(run_id))


def work_folder(run_id: str) -> Path:
    """The work folder of a run."""
    return settings().home / "work" / hashlib.sha256(run_id.encode()).hexdigest()[:16]


def parse_gates(gates: Mapping[str, Any]) -> GateSettings:
    """The gates' settings.

    Raises:
        BadInputError: One problem for each wrong field.
    """
    try:
        return GateSettings.model_validate(dict(gates))
    except ValidationError as error:
        problems = [
            Problem("gates." + ".".join(map(str, detail["loc"])), repr(detail["input"])[:200], detail["msg"])
            for detail in error.errors()
        ]
        raise BadInputError("The gates' settings are not valid.", problems) from error


def _source(source: str) -> Path:
    path = Path(source)
    if not path.is_absolute():
        raise BadInputError("The source cannot be read.", [Problem("source", repr(source), "an absolute path")])
    return path


def _summary(result: StageResult) -> dict[str, Any]:
    """What XCom keeps of a gate: figures only, no excerpt."""
    return result.model_dump(mode="json", exclude={"details"})
