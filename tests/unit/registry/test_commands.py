"""``tollgate model`` on a real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from tollgate.errors import BadInputError, GateRefusedError
from tollgate.registry import lifecycle
from tollgate.registry.commands import app
from tollgate.registry.lifecycle import StageConflictError
from tollgate.registry.registration import Registration, reserve
from tollgate.store.session import transaction

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
    assert "better [than] before" in _run("history", "highway-router")
    with pytest.raises(BadInputError, match="'nobody'"):
        _run("history", "nobody")


def test_a_wrong_stage_is_named_with_the_right_ones(postgres_url: str) -> None:
    with pytest.raises(BadInputError, match="candidate, staging, production, archived"):
        _run("list", "--stage", "prod")


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
