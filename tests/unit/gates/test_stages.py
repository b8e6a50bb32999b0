"""The gates as tasks: small JSON from one to the next, killed and run again without doing anything twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tollgate.dataset import versions
from tollgate.errors import BadInputError, ServiceUnavailableError
from tollgate.gates import stages
from tollgate.settings import settings
from tollgate.store.session import engine, transaction
from tollgate.store.tables import DatasetQualityLog, TrainingDataset


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the stack for this test alone."""
    monkeypatch.setattr(settings(), "home", tmp_path / "home")
    return tmp_path / "home"


def _through_the_gates(source: Path) -> dict[str, Any]:
    state = stages.ingest("calls", str(source), {}, "manual__2026-01-01T00:00:00+00:00", "calls", "admin")
    for step in (
        stages.mask_personal_data,
        stages.drop_duplicates,
        stages.score_quality,
        stages.check_contamination,
        stages.split,
        stages.check_contract,
    ):
        state = step(json.loads(json.dumps(state)))
    return state


def test_a_run_is_recorded_once(postgres_url: str, home: Path, faulty_source: Path) -> None:
    state = _through_the_gates(faulty_source)
    assert len(json.dumps(state)) < 10_000
    written = stages.write_version(state)
    assert written == stages.write_version(state)
    assert written["reference"] == "calls@v1"
    assert list(Path(state["workdir"]).glob("*.arrow")) == []
    with transaction() as session:
        (dataset,) = session.scalars(select(TrainingDataset)).all()
        assert (dataset.name, dataset.version, dataset.status, dataset.created_by) == ("calls", "v1", "active", "admin")
        assert (dataset.total_samples, dataset.train_samples, dataset.val_samples, dataset.test_samples) == (
            42,
            34,
            4,
            4,
        )
        assert dataset.content_hash == written["content_hash"]
        logs = {log.check_type: log for log in session.scalars(select(DatasetQualityLog)).all()}
        assert {name: log.passed for name, log in logs.items()} == {
            "format_check": False,
            "pii_detection": False,
            "duplicate_check": False,
            "quality_score": False,
            "contamination_check": True,
            "leak_check": True,
            "contract": True,
        }
        assert logs["duplicate_check"].issues["dropped"] == {"exact_duplicate": 1, "near_duplicate": 1}


def test_the_database_down_keeps_the_version_for_the_retry(
    postgres_url: str, home: Path, clean_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = _through_the_gates(clean_source)
    engine.cache_clear()
    with monkeypatch.context() as broken:
        broken.setattr(settings(), "database_url", "postgresql+psycopg2://nobody@127.0.0.1:1/none")
        with pytest.raises(ServiceUnavailableError):
            stages.write_version(state)
    engine.cache_clear()
    assert stages.write_version(state)["created"] is False
    assert [one.reference for one in versions.list_versions("calls")] == ["calls@v1"]


@pytest.mark.parametrize(
    ("name", "gates", "said"),
    [("Calls!", {}, "name can't be used"), ("calls", {"min_quality": "much"}, "gate settings are wrong")],
)
def test_bad_requests_begin_no_work(
    home: Path, clean_source: Path, name: str, gates: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInputError, match=said):
        stages.ingest(name, str(clean_source), gates, "run")
    assert not home.exists()


def test_discarding_a_refused_run(home: Path, clean_source: Path) -> None:
    state = stages.ingest("calls", str(clean_source), {"min_rows": 50}, "run")
    stages.discard(state)
    stages.discard(state)
    assert not Path(state["workdir"]).exists()
