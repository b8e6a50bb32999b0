"""``tollgate model`` on a real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import update
from tests.unit.serving.fake_vllm import FakeVllm, write_adapter, write_base
from typer.testing import CliRunner

from tollgate.errors import BadInputError, GateRefusedError
from tollgate.registry import lifecycle
from tollgate.registry.commands import app
from tollgate.registry.lifecycle import StageConflictError
from tollgate.registry.registration import Registration, reserve
from tollgate.serving import rollout
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.store.tables import StageTransition

Staged = Callable[[str], Registration]


def _run(*words: str) -> str:
    result = CliRunner().invoke(app, words, catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == 0
    return result.stdout


def test_list_shows_the_newest_first_and_filters(staged: Staged) -> None:
    staged("job-1")
    champion = staged("job-2")
    with transaction() as session:
        lifecycle.promote_to_production(session, champion.model_id, "lee", "better")
    versions = json.loads(_run("list", "--json"))["versions"]
    assert [(version["served_name"], version["stage"], version["verdict"]) for version in versions] == [
        ("highway-router@v2", "production", "pass"),
        ("highway-router@v1", "staging", "pass"),
    ]
    assert versions[0]["reasons"] == ["정확도 0.97 > 0.90"]
    assert [v["version"] for v in json.loads(_run("list", "--stage", "staging", "--json"))["versions"]] == [1]
    assert json.loads(_run("list", "--model", "other", "--json"))["versions"] == []
    text = _run("list")
    assert text.index("highway-router@v2") < text.index("highway-router@v1")
    assert "정확도 0.97 > 0.90" in text


def test_history_says_who_and_why(staged: Staged) -> None:
    champion = staged("job-1")
    with transaction() as session:
        lifecycle.promote_to_production(session, champion.model_id, "lee", "better [than] before")
    changes = json.loads(_run("history", "highway-router", "--json"))["changes"]
    assert [(change["to_stage"], change["by"]) for change in changes] == [
        ("candidate", "kim"),
        ("staging", "kim"),
        ("production", "lee"),
    ]
    assert [(change["why"], change["why_ko"]) for change in changes] == [
        ("made by job job-1", "학습 작업 job-1의 결과"),
        ("passed", "passed"),
        ("better [than] before", "better [than] before"),
    ]
    text = _run("history", "highway-router")
    assert "better [than] before" in text
    assert "학습 작업 job-1의 결과" in text
    assert text.count("passed") == 1, "a person's own words stand once"
    with transaction() as session:
        session.execute(update(StageTransition).values(reason_ko=None))  # as in rows from before there was Korean
    assert "made by job job-1" in _run("history", "highway-router")
    with pytest.raises(BadInputError, match="'nobody'"):
        _run("history", "nobody")


def test_a_wrong_stage_is_named_with_the_right_ones(postgres_url: str) -> None:
    with pytest.raises(BadInputError, match="candidate, staging, production, archived"):
        _run("list", "--stage", "prod")


@pytest.fixture
def vllm(mlflow_down: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVllm]:
    """A server of which the settings know; MLflow is down meanwhile."""
    with FakeVllm() as server:
        monkeypatch.setenv("TOLLGATE_VLLM_URLS", json.dumps([server.address]))
        monkeypatch.setenv("TOLLGATE_BASE_MODEL", str(write_base(tmp_path / "base")))
        settings.cache_clear()
        yield server


def _served() -> dict[str, list[str]]:
    """The versions of each route, and those in production."""
    with transaction() as session:
        served = [
            lifecycle.get(session, model_id).served_name for model_id in rollout.current(session, "highway-router")
        ]
        return {"route": served, "production": [v.served_name for v in lifecycle.versions(session, stage="production")]}


def test_promote_and_rollback_move_stage_and_route_together(staged: Staged, vllm: FakeVllm, tmp_path: Path) -> None:
    for name in ("job-1", "job-2"):
        write_adapter(Path(staged(name).model_path), tmp_path / "base")
    _run("promote", "highway-router@v1", "--why", "first")
    told = json.loads(_run("promote", "highway-router@v2", "--why", "better", "--json"))
    assert (told["served_name"], told["stage"], told["replaced"]) == (
        "highway-router@v2",
        "production",
        "highway-router@v1",
    )
    assert told["mlflow"] is False
    assert _served() == {"route": ["highway-router@v2"], "production": ["highway-router@v2"]}
    assert json.loads(_run("promote", "highway-router@v2", "--why", "again", "--json"))["changed"] is False

    assert "highway-router@v1 is in production" in _run("rollback", "highway-router@v2", "--why", "worse")
    assert _served() == {"route": ["highway-router@v1"], "production": ["highway-router@v1"]}
    assert set(vllm.loaded) == {"highway-router@v1", "highway-router@v2"}


def test_a_version_that_does_not_load_changes_nothing(staged: Staged, vllm: FakeVllm, tmp_path: Path) -> None:
    first, second = staged("job-1"), staged("job-2")
    write_adapter(Path(first.model_path), tmp_path / "base")
    write_adapter(Path(second.model_path), tmp_path / "base", hidden=8)
    _run("promote", "highway-router@v1", "--why", "first")
    with pytest.raises(BadInputError):
        _run("promote", "highway-router@v2", "--why", "better")
    assert _served() == {"route": ["highway-router@v1"], "production": ["highway-router@v1"]}


def test_promote_refuses_what_never_passed(finished_job: Callable[[str], str]) -> None:
    reserve(finished_job("job-1"), "highway-router", "kim")
    with pytest.raises(GateRefusedError, match="verdict is open"):
        _run("promote", "highway-router@v1", "--why", "please")


def test_rollback_needs_a_production_version_and_a_former_one(staged: Staged) -> None:
    only = staged("job-1")
    with pytest.raises(StageConflictError, match="is staging, not production"):
        _run("rollback", "highway-router@v1", "--why", "worse")
    with transaction() as session:
        lifecycle.promote_to_production(session, only.model_id, "lee", "first")
    with pytest.raises(BadInputError, match="nothing to go back to"):
        _run("rollback", "highway-router@v1", "--why", "worse")
