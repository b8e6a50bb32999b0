"""The gates as tasks: each takes and returns one small JSON object, which an orchestrator hands from task to task.

The object holds the dataset's name, the run's work folder, the gate settings and the result of the step that made it.
Every step can be killed and run again; ``ingest`` run again begins the run anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from tollgate.dataset import readers, versions
from tollgate.dataset.records import record_version
from tollgate.gates import pipeline, workfolder
from tollgate.gates.gate_settings import GateSettings, read_settings
from tollgate.gates.results import StageResult
from tollgate.settings import settings as process_settings
from tollgate.store.session import transaction

_WRITTEN = "version.json"


def ingest(
    name: str,
    source: str,
    gates: Mapping[str, Any],
    run_id: str,
    description: str | None = None,
    created_by: str | None = None,
) -> dict[str, Any]:
    """Check what was asked for, then read the source into the run's own work folder.

    Args:
        name: Name of the dataset.
        source: Path of the file to read.
        gates: Gate settings that differ from the defaults.
        run_id: Name of the run; another run has another work folder.
        description: What the dataset is for.
        created_by: Who had it made.

    Returns:
        The object that the next step takes.

    Raises:
        BadInputError: The name, the source or a setting can't be used.
    """
    settings = read_settings(gates)
    versions.check_name(name)
    readers.check_readable(Path(source))
    workdir = process_settings().home / "work" / name / re.sub(r"[^A-Za-z0-9._-]", "_", run_id)
    workfolder.discard(workdir)
    result = pipeline.ingest(Path(source).absolute(), workdir, settings)
    state = {
        "name": name,
        "workdir": str(workdir),
        "settings": settings.model_dump(mode="json"),
        "description": description,
        "created_by": created_by,
    }
    return {**state, "result": result.model_dump(mode="json")}


def mask_personal_data(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Run :func:`tollgate.gates.pipeline.mask_personal_data` on what ``ingest`` returned."""
    return _run(pipeline.mask_personal_data, stage)


def drop_duplicates(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Run :func:`tollgate.gates.pipeline.drop_duplicates` on what ``mask_personal_data`` returned."""
    return _run(pipeline.drop_duplicates, stage)


def score_quality(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Run :func:`tollgate.gates.pipeline.score_quality` on what ``drop_duplicates`` returned."""
    return _run(pipeline.score_quality, stage)


def check_contamination(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Run :func:`tollgate.gates.pipeline.check_contamination` on what ``score_quality`` returned."""
    return _run(pipeline.check_contamination, stage)


def split(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Run :func:`tollgate.gates.pipeline.split_rows` on what ``check_contamination`` returned."""
    return _run(pipeline.split_rows, stage)


def check_contract(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Run :func:`tollgate.gates.pipeline.check_contract` on what ``split`` returned.

    Raises:
        GateRefusedError: The contract is not met.
    """
    return _run(pipeline.check_contract, stage)


def write_version(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Write the version and its rows in PostgreSQL, then delete the work folder's rows.

    Returns:
        JSON values: ``reference``, ``created`` (False where the same content was there already), ``folder``,
        ``dataset_id``, ``content_hash``, ``quality_score`` and ``counts`` (rows in, kept, quarantined, dropped, masked,
        splits).

    Raises:
        ServiceUnavailableError: PostgreSQL did not answer; the version is on disk, and a retry records it.
    """
    workdir = Path(stage["workdir"])
    written = workdir / _WRITTEN
    if written.is_file():  # an earlier try was killed between cleaning up and reporting
        workfolder.delete_rows(workdir)
        return orjson.loads(written.read_bytes())
    version = pipeline.write_version(stage["name"], workdir, GateSettings.model_validate(stage["settings"]))
    with transaction() as session:
        dataset_id = record_version(session, version, stage.get("created_by"), stage.get("description"))
    answer = {
        "reference": version.reference,
        "created": version.created,
        "folder": str(version.folder),
        "dataset_id": dataset_id,
        "content_hash": version.manifest.content_hash,
        "quality_score": version.manifest.quality_score,
        "counts": version.manifest.counts,
    }
    workfolder.write_text(written, orjson.dumps(answer).decode())
    workfolder.delete_rows(workdir)
    return answer


def discard(stage: Mapping[str, Any]) -> None:
    """Delete a run's work folder, for a run that was refused or given up."""
    workfolder.discard(Path(stage["workdir"]))


def _run(step: Callable[[Path, GateSettings], StageResult], stage: Mapping[str, Any]) -> dict[str, Any]:
    result = step(Path(stage["workdir"]), GateSettings.model_validate(stage["settings"]))
    return {**stage, "result": result.model_dump(mode="json")}
