"""The command's file, output and exit status; the road is one that a test has made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from tollgate.demo import road
from tollgate.demo.commands import demo_command
from tollgate.demo.summary import DemoSummary
from tollgate.errors import BadInputError, ServiceUnavailableError


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the road is asked for; it ends with ``ok``, or raises ``error``."""
    walks: dict[str, Any] = {"ok": True, "error": None}

    class ShortRoad:
        def __init__(self, configuration: Any, console: Any, seed: int) -> None:
            self.summary = DemoSummary(base_accuracy=0.5)
            self.console = console
            walks["seed"] = seed

        def walk(self, ask: bool, harm: bool) -> DemoSummary:
            walks.update(ask=ask, harm=harm)
            return self.walk_real_data(None, 0)

        def walk_real_data(self, source: Path | None, steps: int) -> DemoSummary:
            walks.update(source=source, steps=steps)
            self.console.print("walking")
            if walks["error"] is not None:
                raise walks["error"]
            self.summary.ok = walks["ok"]
            return self.summary

    monkeypatch.setattr(road, "DemoRoad", ShortRoad)
    return walks


def call(*words: str) -> Result:
    app = typer.Typer()
    app.command()(demo_command)
    return CliRunner().invoke(app, words)


@pytest.mark.parametrize(("ok", "status"), [(True, 0), (False, 1)])
def test_the_exit_status_says_whether_all_went_as_it_must(
    walks: dict[str, Any], tmp_path: Path, ok: bool, status: int
) -> None:
    walks["ok"] = ok
    done = call("--json", "--seed", "3", "--output", str(tmp_path / "out" / "demo.json"))
    assert (done.exit_code, walks["seed"], walks["source"]) == (status, 3, None)
    assert json.loads(done.stdout)["ok"] is ok, "progress is not on standard output"
    written = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert written == json.loads(done.stdout)
    assert set(written["addresses"]) == {"Airflow", "MLflow", "gateway"}


@pytest.mark.parametrize("words", [(), ("--ask",)])
def test_a_person_is_asked_where_one_wants_to_be(walks: dict[str, Any], tmp_path: Path, words: tuple[str, ...]) -> None:
    assert call(*words, "--output", str(tmp_path / "demo.json")).exit_code == 0
    assert (walks["ask"], walks["harm"]) == (bool(words), False)


def test_a_harmful_challenger_comes_where_one_is_wanted(walks: dict[str, Any], tmp_path: Path) -> None:
    assert call("--harm", "--output", str(tmp_path / "demo.json")).exit_code == 0
    assert (walks["ask"], walks["harm"]) == (False, True)


def test_a_file_of_ones_own_takes_the_other_road(walks: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").touch()
    done = call("--dataset", str(tmp_path / "mine.jsonl"), "--steps", "5", "--output", str(tmp_path / "demo.json"))
    assert (done.exit_code, walks["source"], walks["steps"]) == (0, tmp_path / "mine.jsonl", 5)
    assert "walking" in done.stdout


def test_a_walk_that_breaks_off_leaves_what_it_did_and_why(walks: dict[str, Any], tmp_path: Path) -> None:
    walks["error"] = ServiceUnavailableError("Airflow did not answer.")
    done = call("--output", str(tmp_path / "demo.json"))
    assert done.exception is walks["error"]
    written = json.loads((tmp_path / "demo.json").read_text())
    assert (written["problems"], written["ok"]) == (["Airflow did not answer."], False)
    assert written["base_accuracy"] == 0.5


def test_bad_words_are_refused_before_the_first_step(walks: dict[str, Any], tmp_path: Path) -> None:
    missing = call("--dataset", str(tmp_path / "missing.jsonl"), "--output", str(tmp_path / "demo.json"))
    assert isinstance(missing.exception, BadInputError)
    assert call("--output", str(tmp_path)).exit_code == 2
    assert call("--steps", "0").exit_code == 2
    assert "seed" not in walks
    assert list(tmp_path.iterdir()) == []
