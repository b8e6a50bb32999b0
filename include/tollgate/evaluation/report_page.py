"""The report of an evaluation as files: figures in JSON, and an HTML page in two languages that needs nothing else.

Frame, style and charts are those of the reports of dataset versions.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tollgate.dataset import charts
from tollgate.dataset.report import page_environment
from tollgate.evaluation.report import REPORT_JSON, REPORT_PAGE, ComparedCase, EvaluationReport, Histogram
from tollgate.evaluation.report_texts import words
from tollgate.evaluation.summary import NO_CATEGORY, EvaluationSummary, Share

if TYPE_CHECKING:
    from markupsafe import Markup

    from tollgate.evaluation.cases import Message
    from tollgate.evaluation.categories import CategoryFigures
    from tollgate.evaluation.scorers import ScoredCase
    from tollgate.evaluation.verdict import Verdict

_MOST_CATEGORIES = 40
_TICKS = 6
_BADGES = {"pass": "good", "inconclusive": "unclear", "fail": "bad"}


def render(report: EvaluationReport, losses: str | None = None) -> str:
    """Make the page.

    Args:
        report: What ``report.json`` holds.
        losses: The picture of the training's losses, an SVG document; without one the page does not speak of it.

    Returns:
        An HTML document in UTF-8 with its style, charts and both languages inside.
    """
    template = page_environment("tollgate.evaluation").get_template("evaluation.html.j2")
    # As an image: inline, the picture's style would be the page's as well.
    picture = losses and "data:image/svg+xml;base64," + base64.b64encode(losses.encode()).decode()
    return template.render(page=_page(report) | {"losses": picture}, words=words)


def write_report(folder: Path, report: EvaluationReport, losses: str | None = None) -> None:
    """Write ``report.json`` and ``report.html``; each appears whole or not at all.

    Args:
        folder: Where.
        report: What they say.
        losses: As for :func:`render`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in ((REPORT_JSON, report.model_dump_json(indent=2)), (REPORT_PAGE, render(report, losses))):
        partial = folder / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / name)


def _page(report: EvaluationReport) -> dict[str, Any]:
    return {
        "reference": report.subject,
        "facts": _facts(report),
        "tiles": _tiles(report),
        "verdict": _verdict(report.verdict),
        "figures": _figures(report),
        "categories": _categories(report),
        "fields": [
            {"name": name, "literal": True, "share": 100 * value, "shown": f"{value:.1%}"}
            for name, value in sorted(report.summary.fields.items(), key=lambda pair: pair[1])
        ],
        "further": _further(report),
        "latency": None if report.latency is None else _latency_chart(report.latency),
        "worst": [_case(case) for case in report.worst],
        "wrong": report.summary.cases - report.summary.correct,
        "compared": [
            {"kind": kind, "count": count, "cases": [_compared(one) for one in report.compared if one.kind == kind]}
            for kind, count in report.counts.items()
            if count
        ],
        "champion_name": report.champion_name,
    }


def _facts(report: EvaluationReport) -> list[dict[str, Any]]:
    facts = [
        {"key": "written", "value": f"{report.written:%Y-%m-%d %H:%M} UTC", "mono": False},
        {"key": "suite", "value": report.suite, "mono": False},
    ]
    if report.scorers:
        facts.append({"key": "scorer", "value": ", ".join(report.scorers), "mono": False})
    if report.champion_name:
        facts.append({"key": "champion", "value": report.champion_name, "mono": False})
    return facts


def _tiles(report: EvaluationReport) -> list[dict[str, Any]]:
    summary = report.summary
    tiles = [
        {"key": "accuracy", "value": f"{summary.accuracy:.4f}"},
        {"key": "interval", "value": _interval(summary)},
        {"key": "cases", "value": f"{summary.correct:,} / {summary.cases:,}"},
    ]
    if report.champion is not None:
        tiles.append({"key": "difference", "value": f"{summary.accuracy - report.champion.accuracy:+.4f}"})
    if summary.latency_p95_ms is not None:
        tiles.append({"key": "latency_p95", "value": f"{summary.latency_p95_ms:,.0f} ms"})
    return tiles


def _interval(one: Share) -> str:
    return f"{one.low:.3f}–{one.high:.3f}"


def _verdict(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    reasons = [{"ko": ko, "en": en} for ko, en in zip(verdict.reasons_ko, verdict.reasons, strict=True)]
    return {
        "outcome": verdict.outcome.value,
        "badge": _BADGES[verdict.outcome],
        "reasons": reasons,
        "cases_needed": verdict.cases_needed,
    }


def _figures(report: EvaluationReport) -> dict[str, Any]:
    """A table with a column for each model; rows that none of them has are left out."""
    named = (("candidate", report.summary), ("champion", report.champion), ("base", report.base))
    models = [(name, summary) for name, summary in named if summary is not None]
    rows = [
        ("accuracy", [f"{one.accuracy:.4f}" for _, one in models]),
        ("interval", [_interval(one) for _, one in models]),
        ("correct_cases", [f"{one.correct:,} / {one.cases:,}" for _, one in models]),
        ("mean_value", [_number(one.mean_value, ".3f") for _, one in models]),
        ("valid_json", [_number(one.valid_json_share, ".1%") for _, one in models]),
        ("empty_answers", [f"{one.empty_answers:,}" for _, one in models]),
        ("errors", [f"{one.errors:,}" for _, one in models]),
        ("latency", [_latencies(one) for _, one in models]),
    ]
    return {
        "models": [name for name, _ in models],
        "rows": [{"key": key, "values": values} for key, values in rows if any(values)],
    }


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _latencies(one: EvaluationSummary) -> str:
    found = (one.latency_p50_ms, one.latency_p95_ms, one.latency_p99_ms)
    return "" if found[0] is None else " / ".join(_number(value, ",.0f") or "–" for value in found)


def _categories(report: EvaluationReport) -> list[dict[str, Any]]:
    """The weakest first; a model's accuracy is a bar with its interval, the champion's a mark."""
    tested = {one.category: one for one in report.verdict.categories} if report.verdict else {}
    found = report.summary.categories
    if len(found) < 2:
        return []
    names = sorted(found, key=lambda name: (found[name].accuracy, name))[:_MOST_CATEGORIES]
    others = report.champion.categories if report.champion else {}
    return [_category(name, found[name], others.get(name), tested.get(name)) for name in names]


def _category(name: str, one: Share, other: Share | None, tested: CategoryFigures | None) -> dict[str, Any]:
    return {
        "name": "uncategorised" if name == NO_CATEGORY else name,
        "literal": name != NO_CATEGORY,
        "accuracy": f"{one.accuracy:.3f}",
        "interval": _interval(one),
        "counted": f"{one.correct:,} / {one.cases:,}",
        "share": round(100 * one.accuracy, 2),
        "low": round(100 * one.low, 2),
        "span": round(100 * (one.high - one.low), 2),
        "champion": None if other is None else round(100 * other.accuracy, 2),
        "champion_accuracy": "" if other is None else f"{other.accuracy:.3f}",
        "difference": "" if other is None else f"{one.accuracy - other.accuracy:+.3f}",
        "p_value": "" if tested is None else _number(tested.worse_p, ".3f"),
    }


def _further(report: EvaluationReport) -> list[dict[str, str]]:
    further = report.further
    facts: list[tuple[str, str]] = []
    for key, one in (("perplexity", further.perplexity), ("champion_perplexity", further.champion_perplexity)):
        if one is not None:
            facts.append((key, f"{one.value:.3f} ({one.tokens:,})"))
    if further.consistency is not None:
        facts.append(("consistency", f"{further.consistency.accuracy:.1%} ({_interval(further.consistency)})"))
    if further.judge is not None:
        facts.append(("judge_kappa", f"{further.judge.kappa:.2f} ({further.judge.cases:,})"))
        facts.append(("judge_agreement", f"{further.judge.agreement:.1%}"))
    if further.preferences is not None:
        counted = further.preferences
        facts.append(("preferences", f"{counted.wins:,} / {counted.ties:,} / {counted.losses:,}"))
        facts.append(("disagreed", f"{counted.disagreed:,}"))
    for task, figures in (further.harness or {}).items():
        facts.append(
            (f"lm-evaluation-harness: {task}", ", ".join(f"{name} {one:.4f}" for name, one in figures.items()))
        )
    return [{"key": key, "value": value} for key, value in facts]


def _latency_chart(histogram: Histogram) -> Markup:
    width, last = histogram.width, len(histogram.counts) - 1
    columns = []
    for place, count in enumerate(histogram.counts):
        end = "" if place == last else f"{(place + 1) * width:,.0f}"
        columns.append(charts.Bar(count, f"{place * width:,.0f}–{end} ms: {count:,}"))
    every = max(1, round(len(columns) / _TICKS))
    ticks = [(float(place), f"{place * width:,.0f}") for place in range(0, len(columns) + 1, every)]
    return charts.bars(columns, ticks, label=words("latency_chart").en)


def _case(case: ScoredCase) -> dict[str, Any]:
    wrong_fields = [name for name, right in case.fields.items() if not right]
    return {
        "id": case.id,
        "category": case.category,
        "chat": _chat(case.messages),
        "expected": case.expected,
        "answer": case.answer,
        "marks": list(_marks(case)),
        "value": _number(case.value, ".2f"),
        "fields": wrong_fields,
        "error": case.error,
    }


def _marks(case: ScoredCase) -> Iterable[str]:
    if case.error:
        yield "refused"
    elif case.empty:
        yield "empty"
    elif case.valid is False:
        yield "invalid"
    if case.finish_reason == "length":
        yield "cut"


def _compared(one: ComparedCase) -> Mapping[str, Any]:
    return {**one.model_dump(exclude={"messages"}), "chat": _chat(one.messages)}


def _chat(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The turns that a reader needs; the system's instruction is the same in every case."""
    return [{"role": turn.role, "text": turn.content} for turn in messages if turn.role != "system"]
