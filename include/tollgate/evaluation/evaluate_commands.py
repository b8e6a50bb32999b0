"""``tollgate evaluate``: puts a suite to a served model, and leaves its answers, figures and report in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tollgate.errors import BadInputError, Problem, TollgateError

if TYPE_CHECKING:
    from tollgate.evaluation.cases import CaseResult
    from tollgate.evaluation.llm_judge import Judge, LabelledPair
    from tollgate.evaluation.report import EvaluationReport
    from tollgate.evaluation.scorers import ScoredCase
    from tollgate.evaluation.suite_run import Asking, SuiteOutcome
    from tollgate.evaluation.suites import Suite

KEY, JUDGE_KEY = "TOLLGATE_EVALUATION_KEY", "TOLLGATE_JUDGE_KEY"
"""Environment variables of the bearer keys; on a command line everyone on the machine could read them."""

Through = Literal["harness", "direct"]


def evaluate_command(
    suite: Annotated[Path, typer.Option(help="Case file, folder of a dataset version, or KoBEST's folder.")],
    server: Annotated[str, typer.Option(help="Address of a server that speaks OpenAI's API; key: " + KEY + ".")],
    model: Annotated[str, typer.Option(help="Name under which it serves the model.")],
    output: Annotated[Path | None, typer.Option(help="Folder; a run that broke off goes on in it.")] = None,
    champion: Annotated[Path | None, typer.Option(help="cases.jsonl of the champion, to stand beside.")] = None,
    scorer: Annotated[str | None, typer.Option(help="For cases that name none.")] = None,
    scorers: Annotated[list[Path] | None, typer.Option(help="Python file with own scorers; may be repeated.")] = None,
    choose: Annotated[
        str | None, typer.Option(help="Cases with choices: likelihood or generate. Default: KoBEST by likelihood.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Task of KoBEST; may be repeated.")] = None,
    through: Annotated[
        str | None,
        typer.Option(help="harness (lm-evaluation-harness) or direct. Default: KoBEST by likelihood: harness."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Model's folder, for the harness. Default: where the server says that it is.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Rows of each task of KoBEST, from the first.", min=1)] = None,
    concurrency: Annotated[int, typer.Option(help="Requests at a time.", min=1, max=1024)] = 32,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.", min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.0,
    repeats: Annotated[int, typer.Option(help="Times that each case is asked, for the form.", min=1, max=20)] = 1,
    perplexity: Annotated[bool, typer.Option(help="Measure the right answers' perplexity too (vLLM).")] = False,
    judge_server: Annotated[str | None, typer.Option(help="Address of an LLM judge; key: " + JUDGE_KEY + ".")] = None,
    judge_model: Annotated[str | None, typer.Option(help="Its name.")] = None,
    judge_labels: Annotated[Path | None, typer.Option(help="JSONL of pairs that people compared.")] = None,
) -> None:
    """Ask a model a suite of cases; the folder then holds cases.jsonl, report.json and report.html."""
    console = Console(stderr=True)
    try:
        from tollgate.evaluation.own_scorers import load_own_scorers
        from tollgate.evaluation.suite_run import Asking

        load_own_scorers(scorers or ())
        asking = Asking(
            server=server,
            model=model,
            api_key=os.environ.get(KEY),
            concurrency=concurrency,
            max_tokens=max_tokens,
            temperature=temperature,
            repeats=repeats,
            perplexity=perplexity,
            scorer=scorer,
        )
        opened = _open(suite, choose, tuple(task or ()), limit)
        folder = output or Path("evaluation") / opened.name / model.replace("/", "_")
        judge = _judge(judge_server, judge_model, concurrency)
        if _through(through, suite, opened, asking, judge) == "harness":
            outcome = _ask_harness(suite, asking, folder, tuple(task or ()), tokenizer, limit, console)
            report = _report(opened, asking, folder, outcome, _scored(champion))
        else:
            report = _evaluate(opened, asking, folder, judge, judge_labels, champion, console)
    except TollgateError as error:
        console.print(f"[red]{escape(str(error))}[/red]", soft_wrap=True)
        raise typer.Exit(error.exit_status) from error
    _show(report, folder)


def _open(path: Path, choose: str | None, tasks: tuple[str, ...], limit: int | None) -> Suite:
    from tollgate.evaluation import kobest
    from tollgate.evaluation.suites import open_suite

    if choose not in {None, "likelihood", "generate"}:
        problem = Problem("--choose", repr(choose), "likelihood or generate")
        raise BadInputError("There is no such way to choose.", [problem])
    likelihood = choose == "likelihood" or (choose is None and kobest.is_folder(path))
    return open_suite(path, "likelihood" if likelihood else "generate", tasks, limit)


def _through(given: str | None, path: Path, suite: Suite, asking: Asking, judge: Judge | None) -> Through:
    """By what the suite is asked: the harness for KoBEST by likelihood, unless the user says otherwise."""
    from tollgate.evaluation import kobest

    possible = suite.way == "likelihood" and kobest.is_folder(path)
    if given not in {None, "harness", "direct"}:
        raise BadInputError("There is no such way to ask.", [Problem("--through", repr(given), "harness or direct")])
    if given == "direct" or (given is None and not possible):
        return "direct"
    problems = []
    if not possible:
        problems.append(Problem("--suite", f"{path}, or --choose generate", "KoBEST's folder, and --choose likelihood"))
    if asking.perplexity or judge is not None:
        problems.append(Problem("--through", "harness with --perplexity or a judge", "direct for these"))
    if problems:
        raise BadInputError("The harness can't be asked for this.", problems)
    return "harness"


def _ask_harness(
    path: Path,
    asking: Asking,
    folder: Path,
    tasks: tuple[str, ...],
    tokenizer: Path | None,
    limit: int | None,
    console: Console,
) -> SuiteOutcome:
    from tollgate.evaluation.further import FurtherFigures
    from tollgate.evaluation.harness import run_harness
    from tollgate.evaluation.suite_run import SuiteOutcome

    with _bar(console) as progress:
        bar = progress.add_task("kobest", total=None)
        outcome = run_harness(
            path,
            asking,
            folder,
            tasks,
            tokenizer,
            limit,
            lambda answered, total: progress.update(bar, completed=answered, total=total),
        )
    if outcome.cut:
        console.print(
            f"{outcome.cut} questions are longer than the server's context; the harness left out their beginning.",
            soft_wrap=True,
        )
    return SuiteOutcome(cases=outcome.cases, further=FurtherFigures(harness=outcome.figures))


def _judge(server: str | None, model: str | None, concurrency: int) -> Judge | None:
    from tollgate.evaluation.llm_judge import Judge

    if server is None and model is None:
        return None
    if server is None or model is None:
        missing = "--judge-server" if server is None else "--judge-model"
        raise BadInputError("The judge is named by half.", [Problem(missing, "no value", "its address and its name")])
    return Judge(server=server, model=model, api_key=os.environ.get(JUDGE_KEY), concurrency=concurrency)


def _evaluate(
    suite: Suite,
    asking: Asking,
    folder: Path,
    judge: Judge | None,
    labels: Path | None,
    champion: Path | None,
    console: Console,
) -> EvaluationReport:
    from tollgate.evaluation.llm_judge import read_labels
    from tollgate.evaluation.suite_run import check_judge, check_scorers, requests_of, run_suite

    check_scorers(suite, asking.scorer)
    labelled: list[LabelledPair] = read_labels(labels) if labels else []
    others = _scored(champion)
    check_judge(suite, asking, judge)
    total = requests_of(suite, asking, judge, len(labelled), len(others))
    with _progress(console, suite.name, total) as advance:
        outcome = run_suite(suite, asking, folder, judge, labelled, others, advance)
    return _report(suite, asking, folder, outcome, others)


def _scored(path: Path | None) -> list[ScoredCase]:
    from tollgate.evaluation.commands import read_scored

    return read_scored(path) if path else []


def _report(
    suite: Suite, asking: Asking, folder: Path, outcome: SuiteOutcome, others: list[ScoredCase]
) -> EvaluationReport:
    from tollgate.evaluation.report import make_report
    from tollgate.evaluation.report_page import write_report

    report = make_report(asking.model, suite.name, outcome.cases, others or None, outcome.further)
    write_report(folder, report)
    return report


@contextmanager
def _progress(console: Console, title: str, total: int) -> Iterator[Callable[[CaseResult], None]]:
    """A bar that moves with every result; where the output is no terminal, nothing."""
    with _bar(console) as progress:
        task = progress.add_task(escape(title), total=total)
        yield lambda result: progress.advance(task)


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _show(report: EvaluationReport, folder: Path) -> None:
    console = Console()
    table = Table(title=f"{report.subject}: {report.suite}", title_justify="left")
    for name in ("category", "accuracy", "95 %", "cases"):
        table.add_column(name, justify="left" if name == "category" else "right")
    rows = [("all", report.summary), *(report.summary.categories.items() if len(report.summary.categories) > 1 else ())]
    for name, one in rows:
        table.add_row(escape(name), f"{one.accuracy:.4f}", f"{one.low:.4f} – {one.high:.4f}", f"{one.cases:,}")
    console.print(table)
    further = report.further
    facts = {
        "empty answers": report.summary.empty_answers or None,
        "refused by the server": report.summary.errors or None,
        "latency p50 / p95": f"{report.summary.latency_p50_ms or 0:.0f} / {report.summary.latency_p95_ms or 0:.0f} ms",
        "perplexity": further.perplexity and f"{further.perplexity.value:.3f}",
        "same form": further.consistency and f"{further.consistency.accuracy:.4f}",
        "judge's kappa": further.judge and f"{further.judge.kappa:.2f} ({further.judge.cases} pairs)",
    }
    for task, figures in (further.harness or {}).items():
        facts[f"lm-evaluation-harness, {task}"] = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    for name, fact in facts.items():
        if fact is not None:
            console.print(f"{name}: {fact}", highlight=False)
    console.print(f"{folder / 'report.html'}", soft_wrap=True, highlight=False)
