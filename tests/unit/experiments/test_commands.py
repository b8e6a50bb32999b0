from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tollgate.experiments.analysis import open_experiment
from tollgate.experiments.commands import app
from tollgate.experiments.plan import ExperimentPlan
from tollgate.settings import settings
from tollgate.store.session import engine, transaction
from tollgate.store.tables import RegisteredModel


def test_plan_says_users_and_days() -> None:
    arguments = ["plan", "--effect", "0.5", "--deviation", "1", "--share", "0.1", "--users-per-day", "100"]
    figures = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert (figures["users_per_arm"], figures["users_in_all"], figures["days"]) == (64, 640, 7)
    shown = CliRunner().invoke(app, arguments).stdout
    assert "640" in shown
    assert CliRunner().invoke(app, ["plan", "--effect", "0"]).exit_code == 2


def test_status_lists_experiments(postgres_url: str) -> None:
    assert json.loads(CliRunner().invoke(app, ["status", "--json"]).stdout) == {"experiments": []}
    with transaction() as session:
        for version in (1, 2):
            session.add(RegisteredModel(model_name="router", version=version, base_model="base", model_path="/m"))
        session.flush()
        open_experiment(session, "router", 1, 2, ExperimentPlan(users_per_arm=20), "first", "operator")
    [shown] = json.loads(CliRunner().invoke(app, ["status", "--json"]).stdout)["experiments"]
    assert (shown["name"], shown["status"], shown["users"]) == ("first", "running", {"a": 0, "b": 0})
    assert "first" in CliRunner().invoke(app, ["status"]).stdout


def test_a_database_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", f"postgresql+psycopg2://nobody@127.0.0.1:{unused_tcp_port}/none")
    settings.cache_clear()
    engine.cache_clear()
    run = CliRunner().invoke(app, ["status"])
    settings.cache_clear()
    engine.cache_clear()
    assert run.exit_code == 3
    assert "PostgreSQL did not answer" in run.stderr
