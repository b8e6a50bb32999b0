"""From a finished job to a version; MLflow's side is tested on a real server in tests/integration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from tollgate.errors import BadInputError, ServiceUnavailableError
from tollgate.registry import lifecycle, mlflow_projection, registration
from tollgate.store.session import transaction
from tollgate.store.tables import FinetuningJob

Job = Callable[[str], str]


def test_a_reserved_version_is_small_enough_for_an_xcom(finished_job: Job, tmp_path: Path) -> None:
    version = registration.reserve(finished_job("job-1"), "router", "kim")
    assert version == registration.reserve("job-1", "router", "kim")
    assert (version.served_name, version.stage, version.verdict) == ("router@v1", "candidate", None)
    assert version.model_path == str(tmp_path / "job-1" / "adapter")
    assert len(json.dumps(version.__dict__)) < 1000


def test_full_weights_are_told_from_an_adapter(finished_job: Job, tmp_path: Path) -> None:
    finished_job("job-1")
    (tmp_path / "job-1" / "adapter").rename(tmp_path / "job-1" / "model")
    version = registration.reserve("job-1", "router", "kim")
    with transaction() as session:
        assert lifecycle.get(session, version.model_id).model_format == "transformers"


def test_of_a_merged_adapter_the_weights_are_the_version_and_never_the_adapter(
    finished_job: Job, tmp_path: Path
) -> None:
    finished_job("job-1")
    with transaction() as session:
        row = session.scalars(select(FinetuningJob)).one()
        row.method, row.hyperparameters = "qlora", {"lora_rank": 8, "serve_adapter_as": "merged"}
    with pytest.raises(BadInputError, match="expected a folder model, which the merging leaves"):
        registration.reserve("job-1", "router", "kim")
    (tmp_path / "job-1" / "model").mkdir()
    version = registration.reserve("job-1", "router", "kim")
    assert version == registration.reserve("job-1", "router", "kim")
    with transaction() as session:
        model = lifecycle.get(session, version.model_id)
    assert (model.model_format, model.model_path) == ("transformers", str(tmp_path / "job-1" / "model"))
    assert model.tags == ["qlora", "rank 8", "merged"]
    assert "qlora, rank 8, merged" in mlflow_projection.description(model)


def test_a_job_that_is_unknown_or_without_a_model_gets_no_version(finished_job: Job, tmp_path: Path) -> None:
    finished_job("job-1")
    (tmp_path / "job-1" / "adapter").rmdir()
    with pytest.raises(BadInputError, match="a folder adapter or model"):
        registration.reserve("job-1", "router", "kim")
    with pytest.raises(BadInputError, match="'job-2', expected a name in finetuning_jobs"):
        registration.reserve("job-2", "router", "kim")
    with transaction() as session:
        assert lifecycle.versions(session) == []


@pytest.mark.usefixtures("mlflow_down")
def test_with_mlflow_down_the_verdict_is_kept_and_the_error_says_so(finished_job: Job) -> None:
    with pytest.raises(ServiceUnavailableError, match="MLflow at http://127"):
        registration.register_job(finished_job("job-1"), "router", "kim", "fail", ["0.41 < 0.90"])
    with transaction() as session:
        [model] = lifecycle.versions(session, "router")
    assert (model.verdict, model.verdict_reasons, model.mlflow_model_uri) == ("fail", ["0.41 < 0.90"], None)


def test_a_missing_report_is_refused_before_anything_is_written(finished_job: Job, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="report is missing"):
        registration.register_job(finished_job("job-1"), "router", "kim", evaluation=tmp_path / "none.json")
    with transaction() as session:
        assert lifecycle.versions(session) == []
