"""Experiments from CSV files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from tollgate.errors import BadInputError
from tollgate.experiments.commands import app
from tollgate.experiments.decision import Action
from tollgate.experiments.measurements import observe, read, replay
from tollgate.experiments.plan import ExperimentPlan, Guardrail

PLAN = ExperimentPlan(
    users_per_arm=100, looks=5, guardrails=(Guardrail(metric="response_time_p95_ms", margin=0.5, relative=True),)
)


def table(effect: float, users: int = 120, days: float = 10, slower: float = 1.0, seed: int = 3) -> pd.DataFrame:
    """Two ratings of each user, over the days."""
    random = np.random.default_rng(seed)
    rows = []
    for arm in ("a", "b"):
        for number in range(users):
            for _ in range(2):
                rating = np.clip(np.rint(random.normal(3.5 + effect * (arm == "b"), 0.9)), 1, 5)
                when = pd.Timestamp("2026-03-01T00:00:00Z") + pd.Timedelta(days=days * number / users)
                time = random.lognormal(5, 0.3) * (slower if arm == "b" else 1)
                rows.append((f"{arm}{number}", arm, rating, when.isoformat(), time))
    return pd.DataFrame(rows, columns=["user", "variant", "metric", "time", "response_time_ms"])


def write(folder: Path, rows: pd.DataFrame) -> Path:
    path = folder / "ratings.csv"
    rows.to_csv(path, index=False)
    return path


def test_users_count_once_and_those_in_both_arms_not_at_all(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "user": ["u1", "u1", "u2", "x", "x", "u3"],
            "variant": ["a", "A", "b", "a", "b", "b"],
            "metric": ["4", "5", "3", "1", "1", ""],
            "time": ["2026-03-01T00:00:00+09:00"] * 6,
        }
    )
    plan = ExperimentPlan(users_per_arm=10)
    seen = observe(read(write(tmp_path, rows), plan).rows, plan)
    assert seen.means["a"].tolist() == [4.5]
    assert seen.means["b"].tolist() == [3.0]
    assert (seen.arms["b"].served, seen.arms["b"].users, seen.crossed_users) == (2, 1, 1)
    assert {name: arm.assigned for name, arm in seen.arms.items()} == {"a": 2, "b": 3}


@pytest.mark.parametrize(
    ("effect", "slower", "action", "reason"),
    [
        (1.0, 1.0, Action.PROMOTE, "significantly better"),
        (-1.0, 1.0, Action.ROLL_BACK, "significantly worse"),
        (0.0, 4.0, Action.ROLL_BACK, "response_time_p95_ms"),
        (0.0, 1.0, Action.HOLD, "champion stays"),
    ],
)
def test_a_file_is_looked_at_as_the_plan_says(
    tmp_path: Path, effect: float, slower: float, action: Action, reason: str
) -> None:
    looks = list(replay(read(write(tmp_path, table(effect, slower=slower)), PLAN), PLAN))
    assert looks[-1].decision.action is action
    assert looks[-1].decision.final
    assert reason in looks[-1].decision.reasons[0]
    assert all(look.decision.action is Action.CONTINUE for look in looks[:-1])
    if effect:
        assert looks[-1].analysis.days < 9, "before all users are there"
    taken = [look.decision.look for look in looks if look.decision.look]
    assert taken == sorted(set(taken))


def test_history_makes_the_interval_narrower(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    rows = table(0.3, users=150)
    leaning = {user: random.normal(0, 1) for user in rows["user"].unique()}
    rows["history"] = [3.5 + leaning[user] for user in rows["user"]]
    rows["metric"] = [rating * 0.3 + leaning[user] for user, rating in zip(rows["user"], rows["metric"], strict=True)]
    fields = {"users_per_arm": 150, "metric": "score", "minimum_effect": 0.1, "standard_deviation": 1.1}
    plain, adjusted = ExperimentPlan(**fields), ExperimentPlan(**fields, adjust_for_history=True)
    path = write(tmp_path, rows)
    found = [list(replay(read(path, plan), plan))[-1].analysis for plan in (plain, adjusted)]
    widths = [one.comparison.high - one.comparison.low for one in found if one.comparison]
    assert widths[1] < 0.5 * widths[0]
    assert found[1].adjustment is not None
    assert found[1].adjustment.known == 1
    assert found[1].adjustment.correlation > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "c"}, "line 2, variant"),
        ({"time": "yesterday"}, "line 2, time"),
        ({"metric": "good"}, "line 2, user_rating"),
        ({"user": " "}, "line 2, user"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path: Path, change: dict, message: str) -> None:
    plan = ExperimentPlan(users_per_arm=10)
    rows = table(0, users=3).astype(str)
    for name, value in change.items():
        rows.loc[0, name] = value
    with pytest.raises(BadInputError, match=message):
        read(write(tmp_path, rows), plan)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    plan = ExperimentPlan(users_per_arm=10)
    with pytest.raises(BadInputError, match="no such file"):
        read(tmp_path / "none.csv", plan)
    with pytest.raises(BadInputError, match="columns user, variant, time, response_time_ms, user_rating"):
        read(write(tmp_path, table(0, users=3).drop(columns=["response_time_ms"])), PLAN)
    with pytest.raises(BadInputError, match="no rows"):
        read(write(tmp_path, table(0, users=0)), plan)


def test_the_command_says_what_the_plan_decides(tmp_path: Path) -> None:
    plan, file = tmp_path / "plan.json", write(tmp_path, table(1.0))
    plan.write_text(PLAN.model_dump_json())
    run = CliRunner().invoke(app, ["analyze", str(file), "--plan", str(plan), "--json"])
    figures = json.loads(run.stdout)
    assert figures["decision"]["action"] == "promote"
    assert figures["looks"][-1]["action"] == "promote"
    assert figures["analysis"]["comparison"]["difference"] > 0.5
    shown = CliRunner().invoke(app, ["analyze", str(file), "--plan", str(plan)]).stdout
    assert "significantly better" in shown
    plan.write_text('{"alpha": 2}')
    wrong = CliRunner().invoke(app, ["analyze", str(file), "--plan", str(plan)])
    assert wrong.exit_code == 2
    assert "alpha" in wrong.stderr
