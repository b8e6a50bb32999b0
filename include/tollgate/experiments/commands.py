"""``tollgate experiment``: planning A/B tests, looking at them, and ending them."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tollgate.errors import BadInputError, Problem, TollgateError

if TYPE_CHECKING:
    from pydantic import ValidationError

    from tollgate.experiments.analysis import Standing
    from tollgate.experiments.measurements import Look
    from tollgate.experiments.plan import ExperimentPlan
    from tollgate.experiments.planning import Forecast, Traffic
    from tollgate.experiments.simulation import Outcome

app = typer.Typer(name="experiment", help="Plan A/B tests, look at them, end them.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
PlanFile = Annotated[Path | None, typer.Option("--plan", help="A plan as JSON; default: the default plan.")]
Name = Annotated[str, typer.Argument(help="The experiment's name, from tollgate experiment status.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, in words; kept with the experiment.")]


class Winner(StrEnum):
    """Who gets the route."""

    A = "a"
    B = "b"


@app.command("plan")
def plan_command(
    effect: Annotated[float, typer.Option(help="Difference of means not to be missed.", min=0.00001)] = 0.3,
    deviation: Annotated[
        float | None, typer.Option(help="Standard deviation of the users' means; default 1.13, or measured.", min=1e-6)
    ] = None,
    alpha: Annotated[float, typer.Option(help="Chance of a false difference.", min=0.0001, max=0.4999)] = 0.05,
    power: Annotated[float, typer.Option(help="Chance to find the difference.", min=0.51, max=0.99)] = 0.8,
    share: Annotated[float, typer.Option(help="Challenger's share of the users.", min=0.01, max=0.99)] = 0.5,
    metric: Annotated[str, typer.Option(help="user_rating, success, or a column.")] = "user_rating",
    looks: Annotated[int, typer.Option(help="Looks that may decide.", min=1, max=200)] = 1,
    interval: Annotated[float | None, typer.Option(help="Hours between two looks.", min=0.01)] = None,
    guardrail: Annotated[
        list[str] | None,
        typer.Option(help="metric=margin, such as error_share=0.01 or response_time_p95_ms=20%; may be repeated."),
    ] = None,
    maximum_days: Annotated[int, typer.Option(help="Days after which it ends.", min=1, max=365)] = 30,
    users_per_day: Annotated[float | None, typer.Option(help="New users with the metric a day.", min=0.01)] = None,
    route: Annotated[str | None, typer.Option(help="Measure the traffic of this route in the log.")] = None,
    days: Annotated[int, typer.Option(help="How many days of the log to measure.", min=1, max=365)] = 14,
    write: Annotated[Path | None, typer.Option(help="Write the plan to this file, as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Say how many users a difference takes, how many days that is, and where the looks' boundaries lie."""
    from tollgate.experiments.plan import GUARDRAILS, RATING_DEVIATION
    from tollgate.experiments.planning import Traffic, forecast, parse_guardrail

    with _told():
        traffic = _measured(route, metric, days) if route else None
        if traffic is None and users_per_day:
            traffic = Traffic(users_per_day=users_per_day)
        measured = traffic.standard_deviation if traffic else None
        chosen = tuple(map(parse_guardrail, guardrail)) if guardrail else None
        fields = {
            "metric": metric,
            "minimum_effect": effect,
            "standard_deviation": deviation or measured or RATING_DEVIATION,
            "alpha": alpha,
            "power": power,
            "looks": looks,
            "look_interval_hours": interval,
            "split": {"a": 1 - share, "b": share},
            "guardrails": chosen if chosen is not None else GUARDRAILS if looks > 1 else (),
            "maximum_days": maximum_days,
        }
        plan = _valid_plan(fields, "the options")
        figures = forecast(plan, traffic)
        if write is not None:
            write.write_text(plan.model_dump_json(indent=2) + "\n", encoding="utf-8")
        _show_plan(plan, figures, as_json)


def _measured(route: str, metric: str, days: int) -> Traffic:
    from tollgate.experiments.observations import check_columns, route_traffic
    from tollgate.experiments.plan import ExperimentPlan
    from tollgate.experiments.planning import measured_traffic
    from tollgate.store.session import transaction

    check_columns(ExperimentPlan(metric=metric, minimum_effect=0.1, standard_deviation=0.5))
    with transaction() as session:
        return measured_traffic(route_traffic(session, route, metric, days), days)


def _show_plan(plan: ExperimentPlan, figures: Forecast, as_json: bool) -> None:
    from tollgate.experiments.planning import in_words, shown_boundaries

    words = in_words(plan, figures)
    if as_json:
        typer.echo(json.dumps({**figures.model_dump(), "words": words, "plan": plan.model_dump(mode="json")}))
        return
    console = Console()
    for sentence in words:
        console.print(sentence, highlight=False)
    table = Table(title="Looks", title_justify="left")
    for heading in ("Look", "Users in each arm", "Boundary |z|", "p below"):
        table.add_column(heading, justify="right")
    for one in shown_boundaries(figures):
        boundary = "–" if one.z is None else f"{one.z:.3f}"
        table.add_row(f"{one.look}", f"{one.users_per_arm:,}", boundary, f"{one.p:.3g}")
    console.print(table)
    found = Table(title="What one look finds", title_justify="left", show_header=False)
    for size, smallest in figures.detectable_effect.items():
        found.add_row(f"{size} users in each arm", f"{smallest:.3f}")
    console.print(found)


@app.command("status")
def status_command(as_json: Json = False) -> None:
    """Show every experiment: who is compared, how far it is, how it ended. Looks at nothing but counts."""
    from tollgate.experiments.analysis import standings
    from tollgate.store.session import transaction

    with _told(), transaction() as session:
        found = standings(session)
    if as_json:
        typer.echo(json.dumps({"experiments": [standing.model_dump(mode="json") for standing in found]}))
    else:
        _show(found)


def _show(found: list[Standing]) -> None:
    table = Table(title="Experiments", title_justify="left")
    for heading in ("Name", "Route", "A (champion)", "B (challenger)", "Rated users A / B", "Planned", "State"):
        table.add_column(heading)
    for standing in found:
        table.add_row(
            escape(standing.name),
            escape(standing.route),
            escape(standing.champion),
            escape(standing.challenger),
            f"{standing.users['a']} / {standing.users['b']}",
            str(standing.planned),
            f"{standing.status}: {standing.decision}" if standing.decision else standing.status,
        )
    Console().print(table)


@app.command("stop")
def stop_command(name: Name, reason: Reason, as_json: Json = False) -> None:
    """End an experiment without a winner: the champion keeps the route, the challenger is archived."""
    from tollgate.workflow import experiments

    with _told():
        _tell(experiments.stop(name, reason, getpass.getuser()), as_json)


@app.command("conclude")
def conclude_command(
    name: Name,
    winner: Annotated[Winner, typer.Option(help="a: the champion stays; b: the challenger is promoted.")],
    reason: Reason,
    as_json: Json = False,
) -> None:
    """End an experiment with a winner that a person chose."""
    from tollgate.workflow import experiments

    with _told():
        _tell(experiments.conclude(name, winner.value, reason, getpass.getuser()), as_json)


def _tell(done: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(done))
        return
    serving = done["served_name"] if done["action"] == "promoted" else done["champion"]
    Console().print(f"The experiment has ended. {escape(serving)} has the route {escape(done['route'])}.")
    if done["problem"]:
        text = f"{done['problem']} What it missed follows with the next run of analyze_experiments."
        Console(stderr=True).print(text, style="yellow", markup=False, highlight=False)


@app.command("analyze")
def analyze_command(
    file: Annotated[Path, typer.Argument(help="CSV: user, variant, time, the metric, and the guardrails' columns.")],
    plan: PlanFile = None,
    report: Annotated[Path | None, typer.Option(help="Write the report as an HTML page to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Take the looks that a plan would have taken at an experiment in a file, until one decides."""
    from tollgate.experiments import measurements

    with _told():
        chosen = _read_plan(plan)
        data = measurements.read(file, chosen)
        looks = list(measurements.replay(data, chosen))
        if report is not None:
            from tollgate.experiments.report_data import of_file

            _write_report(report, of_file(file.name, chosen, data, looks))
    if as_json:
        taken = [{"time": look.time.isoformat(), **look.decision.model_dump(mode="json")} for look in looks]
        last = looks[-1]
        typer.echo(
            json.dumps(
                {
                    "decision": last.decision.model_dump(mode="json"),
                    "analysis": last.analysis.model_dump(mode="json"),
                    "looks": taken,
                }
            )
        )
    else:
        _show_looks(looks)


def _show_looks(looks: list[Look]) -> None:
    table = Table(title="Looks", title_justify="left")
    for heading in ("Time (UTC)", "Users A / B", "Difference", "Sequence", "Decision"):
        table.add_column(heading)
    for look in looks:
        figures = look.analysis
        sequence = figures.sequence
        table.add_row(
            f"{look.time:%Y-%m-%d %H:%M}",
            " / ".join(str(figures.arms[arm].users) for arm in ("a", "b")),
            f"{figures.comparison.difference:+.3f}" if figures.comparison else "",
            f"{sequence[0]:+.3f} … {sequence[1]:+.3f}" if sequence else "",
            look.decision.action.value,
        )
    console = Console()
    console.print(table)
    last = looks[-1].decision
    for sentence in (*last.reasons, *last.warnings):
        console.print(sentence, markup=False, highlight=False)


@app.command("report")
def report_command(
    name: Name,
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("experiment.html"),
) -> None:
    """Write an experiment's report as one HTML page, in Korean and English. Reading it early is peeking."""
    from tollgate.experiments.report_data import of_experiment
    from tollgate.store.session import transaction

    with _told():
        with transaction() as session:
            contents = of_experiment(session, name)
        _write_report(output, contents)
    Console().print(f"Written: {output}", markup=False, highlight=False)


def _write_report(path: Path, contents: Any) -> None:
    from tollgate.experiments.report import render

    path.write_text(render(contents), encoding="utf-8")


@app.command("simulate")
def simulate_command(
    plan: PlanFile = None,
    simulations: Annotated[int, typer.Option(help="Experiments of each kind.", min=10, max=1_000_000)] = 10_000,
    harm: Annotated[float, typer.Option(help="Effect of the harmful challenger on the mean rating.", max=0)] = -0.5,
    users_per_day: Annotated[
        float | None, typer.Option(help="New rated users a day; default: the size is there after 85 % of the days.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random numbers.")] = 0,
    as_json: Json = False,
) -> None:
    """Simulate a plan, looked at hourly: equal arms, a harmful challenger, one as good as planned."""
    from tollgate.experiments.plan import GUARDRAILS, ExperimentPlan
    from tollgate.experiments.simulation import Scenario, planned_traffic, simulate

    with _told():
        chosen = _read_plan(plan) if plan else ExperimentPlan(looks=30, guardrails=GUARDRAILS)
        traffic = users_per_day or planned_traffic(chosen)
        effects = {"equal": 0.0, "harmful": harm, "planned": chosen.minimum_effect}
        outcomes = {}
        console = Console(stderr=True)
        for kind, effect in effects.items():
            with console.status(f"{kind}: {effect:+g}"):
                outcomes[kind] = simulate(chosen, Scenario(effect, traffic), simulations, seed)
    if as_json:
        figures = {kind: outcome.model_dump() for kind, outcome in outcomes.items()}
        typer.echo(json.dumps({"users_per_day": traffic, "plan": chosen.model_dump(mode="json"), "outcomes": figures}))
    else:
        _show_outcomes(outcomes, effects)


def _show_outcomes(outcomes: dict[str, Outcome], effects: dict[str, float]) -> None:
    table = Table(title="Simulated experiments, looked at hourly", title_justify="left")
    columns = ("", "B's effect", "Promoted", "Rolled back", "before the end", "No winner", "Days (median)")
    peeking = ("t-test each hour: B better", "any difference", "t-test once: B better")
    for heading in (*columns, *peeking):
        table.add_column(heading, justify="left" if not heading else "right")
    for kind, one in outcomes.items():
        shares = (one.promoted, one.rolled_back, one.rolled_back_early, one.held)
        others = (one.peeking_better, one.peeking_any, one.fixed)
        table.add_row(
            kind,
            f"{effects[kind]:+g}",
            *(f"{share:.2%}" for share in shares),
            f"{one.median_days:.1f}",
            *(f"{share:.2%}" for share in others),
        )
    console = Console()
    Console(width=console.width if console.is_terminal else 170).print(table)


def _read_plan(path: Path | None) -> ExperimentPlan:
    if path is None:
        return _valid_plan({}, "the default plan")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = Problem(str(path), str(error)[:200], "a plan as JSON, as tollgate experiment plan --write makes it")
        raise BadInputError("The plan cannot be read.", [problem]) from error
    return _valid_plan(fields, str(path))


def _valid_plan(fields: Any, where: str) -> ExperimentPlan:
    from pydantic import ValidationError

    from tollgate.experiments.plan import ExperimentPlan

    try:
        return ExperimentPlan.model_validate(fields)
    except ValidationError as error:
        raise BadInputError("The plan is not valid.", _problems(error, where)) from error


def _problems(error: ValidationError, where: str) -> list[Problem]:
    return [
        Problem(
            ", ".join([where, *([".".join(map(str, detail["loc"]))] if detail["loc"] else [])]),
            repr(detail["input"])[:80],
            detail["msg"],
        )
        for detail in error.errors()
        if detail["type"] != "default_factory_not_called"  # users_per_arm, for it follows from a wrong field
    ]


@contextmanager
def _told() -> Iterator[None]:
    """Say on standard error what was wrong, and leave with its exit status."""
    try:
        yield
    except TollgateError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(error.exit_status) from error
