from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select

from jobs.records import mark_failed
from tollgate.store.session import transaction
from tollgate.store.tables import FinetuningJob


@pytest.mark.parametrize(
    ("pulled", "status"), [({"name": "router-1"}, "failed"), ({"name": "router-2"}, "pending"), (None, "pending")]
)
def test_the_failed_jobs_row_says_so_and_a_run_without_one_is_passed_over(
    postgres_url: str, pulled: dict[str, Any] | None, status: str
) -> None:
    row = FinetuningJob(job_name="router-1", base_model="b", method="lora", hyperparameters={}, output_dir="/jobs")
    with transaction() as session:
        session.add(row)
    mark_failed({"ti": SimpleNamespace(xcom_pull=lambda task_ids: pulled)})  # type: ignore[typeddict-item]
    with transaction() as session:
        [found] = session.scalars(select(FinetuningJob))
    assert (found.status, found.end_time is not None) == (status, status == "failed")
