from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from tollgate.demo.summary import CandidateSummary, DatasetSummary, DemoSummary, ExperimentSummary, show


def complete() -> DemoSummary:
    candidate = CandidateSummary(
        name="all data",
        dataset="highway@v2",
        accuracy=0.961,
        lower_bound=0.942,
        verdict="inconclusive",
        reasons=["close"],
        model_version="highway-router@v3",
        outcome="A/B test against production",
        answered_by="the demo's operator",
    )
    experiment = ExperimentSummary(
        name="highway-router-v1-v3",
        users={"a": 60, "b": 61},
        means={"a": 3.9, "b": None},
        p_values={"welch": 0.0001, "mann_whitney": None},
        interval={"low": 0.2, "high": None},
        decision="promote",
        reasons=["better [sic]"],
        requests=1200,
        failed_requests=3,
        latency_ms={"p50": 12.0, "p99": 80.4},
    )
    return DemoSummary(
        dataset=DatasetSummary(
            version="highway@v2",
            rows_in=12345,
            quarantined=7,
            dropped={"near_duplicate": 11},
            masked={},
            splits={"train": 100, "test": 50},
        ),
        base_accuracy=0.102,
        candidates=[candidate],
        experiment=experiment,
        production={"version": "highway-router@v3", "route": "highway-router"},
        seconds={"datasets": 12.4},
        problems=["something [bold]odd[/]"],
    )


def shown(summary: DemoSummary) -> str:
    text = io.StringIO()
    show(summary, Console(file=text, width=200, force_terminal=False))
    return text.getvalue()


def test_the_tables_say_what_was_measured() -> None:
    text = shown(complete())
    for figure in (
        "12,345",
        "near duplicate 11",
        "train 100, test 50",
        "0.102",
        "0.961",
        "0.942",
        "(approved by the demo's operator)",
        "60 / 61",
        "3.900 / –",
        "0.0001, –",
        "1,200 (3)",
        "12 ms / 80 ms",
        "promote: better [sic]",
        "highway-router@v3 on highway-router",
        "something [bold]odd[/]",
    ):
        assert figure in text


def test_a_walk_that_broke_off_has_a_summary_too() -> None:
    text = shown(DemoSummary(problems=["Airflow did not answer."]))
    assert "Airflow did not answer." in text
    assert "in production" in text


def test_the_file_holds_everything_and_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "demo.json"
    complete().write(path)
    assert DemoSummary.model_validate_json(path.read_bytes()) == complete()
    assert list(path.parent.iterdir()) == [path]
