"""Rows of ``training_datasets`` and ``dataset_quality_logs`` for a dataset version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from tollgate.store.tables import DatasetQualityLog, TrainingDataset

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from tollgate.dataset.versions import DatasetVersion

CHECK_TYPES = {
    "ingest": "format_check",
    "personal_data": "pii_detection",
    "duplicates": "duplicate_check",
    "quality": "quality_score",
    "contract": "contract",
    "contamination": "contamination_check",
    "split": "leak_check",
}
"""``check_type`` of each gate's row in ``dataset_quality_logs``."""


def record_version(
    session: Session, version: DatasetVersion, created_by: str | None = None, description: str | None = None
) -> int:
    """Record a version and what each gate found in it. Done again, it changes nothing.

    Args:
        session: An open session; the caller commits.
        version: The version on disk.
        created_by: Name of the user who had it made.
        description: What it is for.

    Returns:
        The id of its row in ``training_datasets``.
    """
    values = _columns(version) | {"created_by": created_by, "description": description}
    statement = insert(TrainingDataset).values(values)
    session.execute(statement.on_conflict_do_nothing(index_elements=["name", "version"]))
    found = select(TrainingDataset.id).where(
        TrainingDataset.name == version.name, TrainingDataset.version == f"v{version.number}"
    )
    dataset_id = session.execute(found).scalar_one()
    logs = [{"dataset_id": dataset_id, **log} for log in _logs(version)]
    session.execute(
        insert(DatasetQualityLog).values(logs).on_conflict_do_nothing(index_elements=["dataset_id", "check_type"])
    )
    return dataset_id


def _columns(version: DatasetVersion) -> dict[str, Any]:
    manifest, rows = version.manifest, version.rows
    return {
        "name": version.name,
        "version": f"v{version.number}",
        "format": "parquet",
        "file_path": str(version.folder),
        "content_hash": manifest.content_hash,
        "total_samples": sum(rows.values()),
        "train_samples": rows["train"],
        "val_samples": rows["validation"],
        "test_samples": rows["test"],
        "details": {"counts": manifest.counts, "statistics": version.report()["statistics"], "parent": manifest.parent},
        "quality_score": manifest.quality_score,
    }


def _logs(version: DatasetVersion) -> list[dict[str, Any]]:
    """One log a gate; ``passed`` means that the gate found nothing to take out or to mask."""
    logs = []
    for stage in version.report()["stages"]:
        found = stage["details"].get("found", {})
        clean = not (stage["dropped"] or stage["masked"] or stage["quarantined"] or found)
        issues = {
            "rows_in": stage["rows_in"],
            "rows_kept": stage["rows_kept"],
            "dropped": stage["dropped"],
            "masked": stage["masked"],
            "quarantined": stage["quarantined"],
            "found": found,
        }
        passed = bool(stage["details"]["passed"]) if stage["stage"] == "contract" else clean
        logs.append({"check_type": CHECK_TYPES[stage["stage"]], "passed": passed, "issues": issues})
    return logs
