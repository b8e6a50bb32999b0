from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tollgate.experiments.analysis import open_experiment
from tollgate.experiments.commands import app
from tollgate.experiments.plan import ExperimentPlan
from tollgate.settings import settings
from tollgate.store.session import engine, transaction
from tollgate.store.tables import RegisteredModel, RequestLog


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


def test_a_sequential_plan_is_said_in_words_and_written(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    options = ["--looks", "5", "--guardrail", "error_share=0.02", "--guardrail", "response_time_p95_ms=20%"]
    run = CliRunner().invoke(app, ["plan", *options, "--users-per-day", "5", "--write", str(file), "--json"])
    figures = json.loads(run.stdout)
    plan = ExperimentPlan.model_validate_json(file.read_text())
    assert (plan.looks, [one.relative for one in plan.guardrails]) == (5, [False, True])
    assert figures["boundaries"][1]["z"] == pytest.approx(3.357, abs=1e-3)
    assert figures["enough_time"] is False
    assert any("would be" in sentence for sentence in figures["words"])
    wrong = CliRunner().invoke(app, ["plan", "--guardrail", "error_share"])
    assert (wrong.exit_code, "metric=margin" in wrong.stderr) == (2, True)


def test_traffic_is_measured_in_the_log(postgres_url: str) -> None:
    with transaction() as session:
        session.add(RegisteredModel(model_name="router", version=1, base_model="base", model_path="/m"))
        session.flush()
        session.add_all(
            RequestLog(
                request_id=f"{user}-{number}",
                route="router",
                user_hash=f"u{user}",
                model_id=1,
                user_rating=1 + user % 5,
                status_code=200,
                response_time_ms=1,
            )
            for user in range(70)
            for number in range(3)
        )
    run = CliRunner().invoke(app, ["plan", "--route", "router", "--days", "7", "--json"])
    figures = json.loads(run.stdout)
    assert figures["traffic"]["users_per_day"] == 10
    assert figures["plan"]["standard_deviation"] == pytest.approx(2**0.5, abs=0.02)
    assert figures["days"] == -(-figures["users_in_all"] // 10)
    nothing = CliRunner().invoke(app, ["plan", "--route", "other"])
    assert (nothing.exit_code, "too little traffic" in nothing.stderr) == (2, True)


def test_simulate_prints_every_kind() -> None:
    run = CliRunner().invoke(app, ["simulate", "--simulations", "20", "--json"])
    outcomes = json.loads(run.stdout)["outcomes"]
    assert set(outcomes) == {"equal", "harmful", "planned"}
    assert outcomes["harmful"]["rolled_back"] > 0.8


def test_an_experiment_that_is_not_there_is_named(postgres_url: str, tmp_path: Path) -> None:
    for words in (["stop", "none"], ["conclude", "none", "--winner", "a"]):
        run = CliRunner().invoke(app, [*words, "--reason", "why"])
        assert (run.exit_code, "no such experiment" in run.stderr) == (2, True)
    run = CliRunner().invoke(app, ["report", "none", "--output", str(tmp_path / "x.html")])
    assert run.exit_code == 2
