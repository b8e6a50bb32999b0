"""What a demo run did: the content of ``demo.json`` and the table at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table


class DatasetSummary(BaseModel):
    """What came in, and what each gate took."""

    version: str
    rows_in: int
    quarantined: int
    dropped: dict[str, int]
    masked: dict[str, int]
    splits: dict[str, int]


class CandidateSummary(BaseModel):
    """One candidate's way through the gate."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    dataset: str
    accuracy: float
    lower_bound: float
    verdict: str
    reasons: list[str]
    model_version: str
    outcome: str
    answered_by: str | None = None
    training_seconds: float | None = None


class ExperimentSummary(BaseModel):
    """The A/B test with simulated users."""

    name: str
    simulated: bool = True
    users: dict[str, int]
    means: dict[str, float | None]
    p_values: dict[str, float | None]
    interval: dict[str, float | None]
    decision: str
    reasons: list[str]
    requests: int
    failed_requests: int
    latency_ms: dict[str, float]


class DemoSummary(BaseModel):
    """Everything that ``demo.json`` holds.

    Attributes:
        base_accuracy: Of the model before any training, on the test part.
        harm: The A/B test of a challenger that is wrong on purpose, where one was asked for.
        production: ``version`` and ``route`` at the end; null where nothing serves.
        addresses: What to open, by name.
        seconds: How long each stage took.
        problems: What did not go as it must, in words.
        ok: Whether all went as it must.
    """

    dataset: DatasetSummary | None = None
    base_accuracy: float | None = None
    candidates: list[CandidateSummary] = []
    experiment: ExperimentSummary | None = None
    harm: ExperimentSummary | None = None
    production: dict[str, str] | None = None
    addresses: dict[str, str] = {}
    seconds: dict[str, float] = {}
    problems: list[str] = []
    ok: bool = False

    def write(self, path: Path) -> None:
        """Write the summary as JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        partial.replace(path)


def show(summary: DemoSummary, console: Console) -> None:
    """Print the summary as tables."""
    parts: list[RenderableType] = []
    if summary.dataset:
        parts.append(_dataset_table(summary.dataset))
    if summary.candidates:
        parts.append(_candidate_table(summary))
    if summary.experiment:
        parts.append(_experiment_table(summary.experiment, "A/B test with simulated users · 가상 사용자 A/B 테스트"))
    if summary.harm:
        parts.append(_experiment_table(summary.harm, "A/B test of a harmful challenger · 해로운 후보의 A/B 테스트"))
    parts.append(_end_table(summary))
    console.print(Panel(Group(*parts), title="Tollgate demo", border_style="green" if summary.ok else "red"))


def _two_columns(title: str, rows: dict[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    for name, value in rows.items():
        table.add_row(name, escape(str(value)))
    return table


def _dataset_table(dataset: DatasetSummary) -> Table:
    def counts(values: dict[str, int]) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in values.items()) or "nothing"

    return _two_columns(
        f"Data · 데이터: {dataset.version}",
        {
            "rows in": f"{dataset.rows_in:,}",
            "unreadable, in quarantine": dataset.quarantined,
            "masked": counts(dataset.masked),
            "dropped": counts(dataset.dropped),
            "kept": counts(dataset.splits),
        },
    )


def _candidate_table(summary: DemoSummary) -> Table:
    table = Table(title="\nCandidates · 후보 모델", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    table.add_column("trained on", no_wrap=True)
    table.add_column("accuracy\n≥ (95 %)", justify="right")
    table.add_column("verdict", no_wrap=True)
    table.add_column("outcome", min_width=10)
    if summary.base_accuracy is not None:
        table.add_row("base, untrained", "–", f"{summary.base_accuracy:.3f}", "–", "–")
    colours = {"pass": "green", "inconclusive": "yellow", "fail": "red"}
    for candidate in summary.candidates:
        colour = colours.get(candidate.verdict, "white")
        outcome = candidate.outcome
        if candidate.answered_by:
            answer = "rejected" if outcome == "refused" else "approved"
            outcome += f" ({answer} by {candidate.answered_by})"
        table.add_row(
            f"{candidate.model_version}\n({candidate.name})",
            candidate.dataset,
            f"{candidate.accuracy:.3f}\n{candidate.lower_bound:.3f}",
            f"[{colour}]{candidate.verdict}[/]",
            escape(outcome),
        )
    return table


def _experiment_table(experiment: ExperimentSummary, title: str) -> Table:
    def number(value: float | None, form: str = ".3f") -> str:
        return "–" if value is None else format(value, form)

    return _two_columns(
        f"\n{title}",
        {
            "users a / b": " / ".join(str(experiment.users[arm]) for arm in ("a", "b")),
            "mean rating a / b": " / ".join(number(experiment.means[arm]) for arm in ("a", "b")),
            "difference, 95 %": f"{number(experiment.interval['low'])} … {number(experiment.interval['high'])}",
            "Welch p, Mann-Whitney p": ", ".join(number(value, ".2g") for value in experiment.p_values.values()),
            "requests (failed)": f"{experiment.requests:,} ({experiment.failed_requests})",
            "latency p50 / p99": " / ".join(f"{experiment.latency_ms[name]:.0f} ms" for name in ("p50", "p99")),
            "decision": f"{experiment.decision}: {' '.join(experiment.reasons)}",
        },
    )


def _end_table(summary: DemoSummary) -> Table:
    serving = f"{summary.production['version']} on {summary.production['route']}" if summary.production else "nothing"
    rows = {"in production": serving, **summary.addresses}
    rows["seconds"] = ", ".join(f"{name} {seconds:.0f}" for name, seconds in summary.seconds.items())
    for number, problem in enumerate(summary.problems, start=1):
        rows[f"not as it must ({number})"] = problem
    return _two_columns("\nNow · 현재 상태", rows)
