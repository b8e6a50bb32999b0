"""What earlier tasks of the run returned, pulled by name.

Handing results over as arguments would draw an arrow for each of them; the graph is to show the road, not the data.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import get_current_context


def result_of(task_id: str, key: str = "return_value") -> Any:
    """The result of a task of this run; null where it was skipped."""
    return get_current_context()["ti"].xcom_pull(task_ids=task_id, key=key)
