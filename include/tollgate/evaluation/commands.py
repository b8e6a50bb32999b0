"""``tollgate verdict``: judges results that are already on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tollgate.errors import BadInputError, Problem, TollgateError
from tollgate.evaluation.cases import PROBLEMS_SHOWN, Message, read_json_lines
from tollgate.evaluation.verdict_settings import parse_settings

if TYPE_CHECKING:
    from tollgate.evaluation.further import FurtherFigures
    from tollgate.evaluation.scorers import ScoredCase
    from tollgate.evaluation.verdict import Verdict

_COLOURS = {"pass": "green", "inconclusive": "yellow", "fail": "red"}


class ResultLine(BaseModel):
    """A line of a results file: scored already (``correct``), or with what it takes to score it."""

    model_config = ConfigDict(extra="ignore")

    id: str
    category: str | None = None
    messages: tuple[Message, ...] = ()
    expected: str | None = None
    answer: str | None = None
    scorer: str | None = None
    correct: bool | None = Field(None, strict=True)
    valid: bool | None = None
    fields: dict[str, bool] = Field(default_factory=dict)
    value: float | None = Field(None, ge=0, le=1)
    repeats: tuple[str, ...] = ()
    latency_ms: float | None = Field(None, ge=0)
    finish_reason: str | None = None
    error: str | None = None


def read_scored(path: Path, scorer: str | None = None) -> list[ScoredCase]:
    """Read a results file and score the lines that hold no score yet.

    Args:
        path: JSONL as the evaluation runner writes it, or with ``id`` and ``correct`` at least.
        scorer: Name of the scorer; none: the one that suits the right answers. If given, every line is scored anew.

    Raises:
        BadInputError: The file or one of its lines cannot be used; each is named with its field.
    """
    from tollgate.evaluation.scorers import ScoredCase, detect, find_scorer

    lines = read_json_lines(path, ResultLine)
    _check_scorable(path, lines, anew=scorer is not None)
    name = scorer or detect(line.expected for _, line in lines if line.expected is not None)
    score = find_scorer(name)
    scored = []
    for _, line in lines:
        fields: dict[str, Any] = line.model_dump()
        if scorer or line.correct is None:
            fields |= score(line.answer or "", line.expected or "").model_dump() | {"scorer": name}
        scored.append(ScoredCase.model_validate(fields))
    return scored


def _check_scorable(path: Path, lines: list[tuple[int, ResultLine]], *, anew: bool) -> None:
    problems = []
    seen: set[str] = set()
    for number, line in lines:
        where = f"{path.name}, line {number}"
        if line.id in seen:
            problems.append(Problem(f"{where}, id", repr(line.id), "an id that no other line has"))
        seen.add(line.id)
        if (anew or line.correct is None) and (line.answer is None or line.expected is None):
            missing = "answer" if line.answer is None else "expected"
            problems.append(Problem(f"{where}, {missing}", "no value", "a text, or else correct: true or false"))
    if problems:
        raise BadInputError(f"{path} has cases that cannot be scored.", problems[:PROBLEMS_SHOWN])


def read_further(path: Path) -> FurtherFigures:
    """Read the figures beside the cases from the ``report.json`` that an evaluation left.

    Raises:
        BadInputError: It cannot be read, or is none.
    """
    from tollgate.evaluation.further import FurtherFigures

    try:
        return FurtherFigures.model_validate(json.loads(path.read_text(encoding="utf-8"))["further"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        problem = Problem(str(path), str(error)[:200], "report.json of an evaluation")
        raise BadInputError("The report cannot be read.", [problem]) from error


def verdict_command(
    results: Annotated[Path, typer.Option(help="JSONL of the candidate's answers, as the evaluation writes it.")],
    champion: Annotated[Path | None, typer.Option(help="JSONL of the champion's answers to the same cases.")] = None,
    threshold: Annotated[float, typer.Option(help="Accuracy that must be exceeded.", min=0.01, max=0.99)] = 0.90,
    margin: Annotated[
        float, typer.Option(help="So much below the champion's accuracy is still no worse.", min=0.001, max=0.5)
    ] = 0.02,
    minimum_cases: Annotated[int, typer.Option(help="Fewer cases than this never pass.", min=1)] = 100,
    scorer: Annotated[str | None, typer.Option(help="Score anew with this scorer, such as json_exact.")] = None,
    scorers: Annotated[list[Path] | None, typer.Option(help="Python file with own scorers; may be repeated.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option(help="Further setting, such as category_margin=0.15; may be repeated.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="report.json with perplexity and the judge's figures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Judge a candidate by its answers: pass (exit status 0), inconclusive or fail (1)."""
    from tollgate.evaluation.further import FurtherFigures
    from tollgate.evaluation.own_scorers import load_own_scorers
    from tollgate.evaluation.verdict import Outcome, judge

    try:
        given = {"threshold": threshold, "margin": margin, "minimum_cases": minimum_cases}
        settings = parse_settings({**given, **_pairs(setting or [])})
        load_own_scorers(scorers or ())
        others = read_scored(champion, scorer) if champion else None
        further = read_further(report) if report else FurtherFigures()
        verdict = judge(read_scored(results, scorer), others, settings, further)
    except TollgateError as error:
        Console(stderr=True).print(f"[red]{escape(str(error))}[/red]", soft_wrap=True)
        raise typer.Exit(error.exit_status) from error
    if as_json:
        typer.echo(verdict.model_dump_json())
    else:
        show_verdict(verdict, Console())
    raise typer.Exit(0 if verdict.outcome is Outcome.PASS else 1)


def _pairs(words: list[str]) -> dict[str, Any]:
    """The settings that are written ``name=value``, the values being JSON or else text."""
    pairs: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign:
            problem = Problem("--setting", repr(word), "name=value, such as category_margin=0.15")
            raise BadInputError("A setting cannot be read.", [problem])
        try:
            pairs[name] = json.loads(value)
        except ValueError:
            pairs[name] = value
    return pairs


def show_verdict(verdict: Verdict, console: Console) -> None:
    """Print a verdict with its figures, and its reasons in both languages."""
    colour = _COLOURS[verdict.outcome]
    table = Table(title=f"Verdict: [bold {colour}]{verdict.outcome}[/]", show_header=False, title_justify="left")
    table.add_row("Accuracy", f"{verdict.accuracy:.4f} ({verdict.correct} of {verdict.cases})")
    table.add_row("Lower bound", f"{verdict.lower_bound:.4f} (required: {verdict.threshold:.2f})")
    if verdict.champion:
        table.add_row("Champion", f"{verdict.champion.accuracy:.4f}")
        table.add_row("Difference", f"{verdict.champion.difference:+.4f} (mid-p {verdict.champion.p_value:.4f})")
    if verdict.cases_needed:
        table.add_row("More cases needed", str(verdict.cases_needed))
    console.print(table)
    for english, korean in zip(verdict.reasons, verdict.reasons_ko, strict=True):
        console.print(f"[{colour}]•[/] {escape(english)}", soft_wrap=True)
        console.print(f"  {escape(korean)}", soft_wrap=True)
