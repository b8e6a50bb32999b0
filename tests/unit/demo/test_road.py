"""The road's figures and words; the road itself is walked by the integration tests."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tollgate.demo import road
from tollgate.demo.experiment import EXPERIMENT
from tollgate.demo.road import DemoRoad
from tollgate.demo.summary import CandidateSummary
from tollgate.demo.users import Visit
from tollgate.experiments.plan import sample_size
from tollgate.settings import Settings
from tollgate.stack.secrets import load_or_create


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Calls.2024_05.jsonl", "calls-2024-05"),
        ("고객문의 A1.csv", "a1"),
        ("고객문의.csv", "dataset"),
        (f"{'x' * 150}.csv", "x" * 100),
    ],
)
def test_a_file_gives_its_dataset_a_name_that_is_allowed(file: str, name: str) -> None:
    assert road._dataset_name(Path(file)) == name


OUTCOMES = {"first": "in production", "swapped": "refused", "full": "A/B test against production"}


def walked(decision: str = "promote", serving: str = "router@v3", **outcomes: str) -> DemoRoad:
    """A road whose walk ended so."""
    done = DemoRoad(Settings(), Console(file=io.StringIO()))
    for number, (name, outcome) in enumerate((OUTCOMES | outcomes).items(), start=1):
        done.summary.candidates.append(
            CandidateSummary(
                name=name,
                dataset="highway@v1",
                accuracy=0.9,
                lower_bound=0.9,
                verdict="pass",
                reasons=[],
                model_version=f"router@v{number}",
                outcome=outcome,
            )
        )
    done.summary.experiment = road._experiment_summary(look(decision), [])
    done.summary.production = {"version": serving, "route": "router"}
    return done


def look(action: str, comparison: dict[str, float] | None = None) -> dict[str, Any]:
    arms = {"a": {"users": 60, "mean": 3.9}, "b": {"users": 61, "mean": 4.2}}
    decision = {"action": action, "final": True, "reasons": ["so"]}
    return {"name": "router-v1-v3", "analysis": {"arms": arms, "comparison": comparison}, "decision": decision}


def test_a_walk_as_it_must_be_is_ok() -> None:
    done = walked()
    done._judge()
    assert (done.summary.ok, done.summary.problems) == (True, [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"first": "refused"}, ["part of the data must reach production, it was: refused"]),
        ({"swapped": "in production"}, ["swapped labels must be refused, it was: in production"]),
        ({"full": "refused"}, ["must meet production in an A/B test"]),
        ({"decision": "hold", "serving": "router@v1"}, ["it decided: hold", "must serve the route"]),
    ],
)
def test_what_is_not_as_it_must_is_named(change: dict[str, str], words: list[str]) -> None:
    done = walked(**change)
    done._judge()
    assert not done.summary.ok
    assert len(done.summary.problems) == len(words)
    for problem, word in zip(done.summary.problems, words, strict=True):
        assert word in problem


@pytest.mark.parametrize(
    ("decision", "reason", "users", "serving", "words"),
    [
        ("roll_back", "Guardrail user_rating: worse", 40, "router@v3", []),
        ("continue", "so", 40, "router@v3", ["A/B test decided: continue"]),
        ("roll_back", "rated significantly worse", 40, "router@v3", ["A/B test decided: roll_back"]),
        ("roll_back", "Guardrail user_rating: worse", 300, "router@v3", ["300 users in the smaller arm"]),
        ("roll_back", "Guardrail user_rating: worse", 40, "router@v4", ["must serve the route again"]),
    ],
)
def test_harm_must_be_seen_by_a_guardrail_and_early(
    decision: str, reason: str, users: int, serving: str, words: list[str]
) -> None:
    done = walked(serving=serving, wrong="A/B test against production")
    outcome = look(decision)
    outcome["decision"]["reasons"] = [reason]
    for arm in outcome["analysis"]["arms"].values():
        arm["users"] = users
    done.summary.harm = road._experiment_summary(outcome, [])
    done._judge_harm({"version": "router@v3", "route": "router"})
    assert done.summary.ok == (not words)
    assert len(done.summary.problems) == len(words)
    for problem, word in zip(done.summary.problems, words, strict=True):
        assert word in problem


@pytest.mark.parametrize(
    ("verdict", "answered_by", "ok"),
    [("inconclusive", "kim", True), ("inconclusive", None, False), ("pass", None, False)],
)
def test_the_stricter_gate_must_have_asked_somebody(
    postgres_url: str, verdict: str, answered_by: str | None, ok: bool
) -> None:
    done = walked()
    last = done.summary.candidates[-1]
    done.summary.candidates.append(last.model_copy(update={"verdict": verdict, "answered_by": answered_by}))
    done._judge_question()
    assert done.summary.ok == ok
    assert [f"it said: {verdict}" in problem for problem in done.summary.problems] == ([] if ok else [True])


def test_the_test_is_summed_up_with_failures_and_latencies() -> None:
    comparison = {"welch_p": 0.01, "mann_whitney_p": 0.02, "low": 0.1, "high": 0.3, "difference": 0.2}
    visits = [Visit(user="u1", seconds=[0.010, 0.020], failed=1), Visit(user="u2", seconds=[0.030])]
    found = road._experiment_summary(look("promote", comparison), visits)
    assert (found.users, found.means, found.decision) == ({"a": 60, "b": 61}, {"a": 3.9, "b": 4.2}, "promote")
    assert (found.p_values, found.interval) == ({"welch": 0.01, "mann_whitney": 0.02}, {"low": 0.1, "high": 0.3})
    assert (found.requests, found.failed_requests, found.latency_ms["p50"]) == (4, 1, 20.0)
    assert 20 < found.latency_ms["p99"] <= 30, "no request took longer than 30 ms"


def test_the_crowd_is_as_large_as_the_plan_needs() -> None:
    plan = EXPERIMENT.plan
    assert plan.users_per_arm >= sample_size(plan.minimum_effect, plan.standard_deviation, plan.alpha, plan.power)
    assert EXPERIMENT.users >= 2 * plan.users_per_arm


def test_addresses_say_where_the_passwords_are_but_not_which(tmp_path: Path) -> None:
    configuration = Settings(home=tmp_path)
    secrets = load_or_create(configuration.secrets_file)
    text = str(road.addresses(configuration))
    assert str(configuration.secrets_file) in text
    assert secrets.airflow_admin_password not in text
    assert secrets.gateway_key not in text
