"""A job's row in ``finetuning_jobs`` when its task has failed for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import Context


def mark_failed(context: Context) -> None:
    """Mark the job of a failed training task as failed (a task's ``on_failure_callback``)."""
    from tollgate.workflow.finetune import fail_job

    job = context["ti"].xcom_pull(task_ids="validate")
    if job:
        fail_job(job["name"])
