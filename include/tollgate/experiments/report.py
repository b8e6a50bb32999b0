"""The report of an experiment as one HTML page, in Korean and English, that needs nothing but itself.

It shares its skeleton, style and charts with the reports of dataset versions (:mod:`tollgate.dataset.report`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tollgate.dataset import charts
from tollgate.dataset.report import page_environment
from tollgate.experiments.decision import Action
from tollgate.experiments.guardrails import GuardrailResult
from tollgate.experiments.looks import Floats
from tollgate.experiments.measurements import Look
from tollgate.experiments.plan import ExperimentPlan
from tollgate.experiments.report_data import Category, ReportData
from tollgate.experiments.report_texts import words

_MOST_POINTS = 120
_MOST_ROWS = 40
_BINS = 12
_TICKS = 6
_GOOD = {Action.PROMOTE: "good", Action.ROLL_BACK: "bad"}


def render(data: ReportData) -> str:
    """Make the page.

    Args:
        data: What it shows.

    Returns:
        An HTML document in UTF-8 with its style, charts and both languages inside.
    """
    template = page_environment("tollgate.experiments").get_template("experiment.html.j2")
    return template.render(page=_page(data), words=words)


def _page(data: ReportData) -> dict[str, Any]:
    last = data.looks[-1]
    comparison = last.analysis.comparison
    return {
        "reference": data.name,
        "facts": [{"key": key, "value": value, "mono": False} for key, value in data.facts],
        "decision": _decision(data, last),
        "tiles": _tiles(data.plan, last),
        "effect": _effect(data.looks, data.plan),
        "tests": _tests(last) if comparison else [],
        "adjustment": last.analysis.adjustment,
        "distributions": _distributions(data.values, data.plan),
        "guardrails": _guardrails(last.analysis.guardrails),
        "checks": _checks(data.plan, last),
        "categories": _categories(data.categories),
        "answers": data.answers,
        "looks": _rows(data.looks),
        "settings": [{"name": name, "value": str(value)} for name, value in data.plan.model_dump(mode="json").items()],
    }


def _decision(data: ReportData, last: Look) -> dict[str, Any]:
    decision = last.decision
    reasons = data.ended or [{"en": en, "ko": ko} for en, ko in zip(decision.reasons, decision.reasons_ko, strict=True)]
    warnings = [{"en": en, "ko": ko} for en, ko in zip(decision.warnings, decision.warnings_ko, strict=True)]
    return {
        "action": decision.action.value,
        "kind": _GOOD.get(decision.action, ""),
        "reasons": [{"en": one["en"], "ko": one.get("ko", one["en"])} for one in reasons],
        "warnings": warnings,
    }


def _tiles(plan: ExperimentPlan, last: Look) -> list[dict[str, str]]:
    analysis = last.analysis
    users = " / ".join(f"{analysis.arms[arm].users:,}" for arm in ("a", "b"))
    means = " / ".join(_number(analysis.arms[arm].mean) for arm in ("a", "b"))
    tiles = [
        {"key": "users", "value": users},
        {"key": "means", "value": means},
        {"key": "days", "value": f"{analysis.days:.1f}"},
        {"key": "progress", "value": f"{min(1.0, _fewest(last) / plan.users_per_arm):.0%}"},
    ]
    if analysis.comparison:
        tiles.insert(2, {"key": "difference", "value": f"{analysis.comparison.difference:+.3f}"})
    return tiles


def _fewest(look: Look) -> int:
    return min(arm.users for arm in look.analysis.arms.values())


def _effect(looks: Sequence[Look], plan: ExperimentPlan) -> dict[str, Any] | None:
    """The difference over time with its confidence sequence; of many looks some, and always the last."""
    known = [look for look in looks if look.analysis.comparison and look.analysis.sequence]
    every = max(1, math.ceil(len(known) / _MOST_POINTS))
    shown = known[::-1][::every][::-1]
    if not shown:
        return None
    points = []
    for look in shown:
        assert look.analysis.comparison is not None
        assert look.analysis.sequence is not None
        low, high = look.analysis.sequence
        difference = look.analysis.comparison.difference
        title = f"{look.time:%Y-%m-%d %H:%M}: {difference:+.3f} ({low:+.3f} … {high:+.3f})"
        points.append(charts.Estimate(look.analysis.days, low, difference, high, title))
    # Early sequences are very wide: the axis shows the later ones, and cuts off what is beyond.
    reach = max(3 * plan.minimum_effect, *(abs(end) for end in (points[-1].low, points[-1].high)))
    first, last = points[0].x, points[-1].x
    ticks = [
        (first + (last - first) * step / _TICKS, f"{first + (last - first) * step / _TICKS:.1f}")
        for step in range(_TICKS + 1)
    ]
    return {
        "chart": charts.band(points, ticks if last > first else ticks[:1], _rounded(reach), words("effect").en),
        "low": f"{points[-1].low:+.3f}",
        "high": f"{points[-1].high:+.3f}",
        "confidence": f"{1 - plan.alpha:.0%}",
    }


def _rounded(value: float) -> float:
    scale = 10.0 ** math.floor(math.log10(value))
    return next(factor * scale for factor in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if factor * scale >= value * 0.999)


def _tests(last: Look) -> list[dict[str, str]]:
    comparison = last.analysis.comparison
    assert comparison is not None
    interval = f"{comparison.low:+.3f} … {comparison.high:+.3f}"
    rows = [
        (
            "welch",
            "" if comparison.welch_t is None else f"t = {comparison.welch_t:.3f}",
            f"p = {comparison.welch_p:.4g}",
        ),
        ("mann_whitney", f"U = {comparison.mann_whitney_u:,.1f}", f"p = {comparison.mann_whitney_p:.4g}"),
        ("interval", interval, f"{comparison.confidence:.0%}"),
        ("cohens_d", _number(comparison.cohens_d), ""),
        ("hedges_g", _number(comparison.effect_size), ""),
        ("rank_biserial", _number(comparison.rank_biserial), ""),
    ]
    if last.decision.boundary is not None:
        rows.append(("boundary", f"|z| > {last.decision.boundary:.3f}", ""))
    return [{"key": key, "value": value, "more": more} for key, value, more in rows]


def _distributions(values: Mapping[str, Floats], plan: ExperimentPlan) -> dict[str, Any] | None:
    """Both arms' users' values side by side, in per cent of each arm's users."""
    if min(one.size for one in values.values()) == 0:
        return None
    everything = np.concatenate(list(values.values()))
    low, high = (1.0, 5.0) if plan.metric == "user_rating" else (float(everything.min()), float(everything.max()))
    edges = np.linspace(low, high if high > low else low + 1, (8 if plan.metric == "user_rating" else _BINS) + 1)
    counts = {arm: np.histogram(np.clip(one, low, edges[-1]), edges)[0] for arm, one in values.items()}
    columns, ticks = [], []
    for place, start in enumerate(edges[:-1]):
        for arm in ("a", "b"):
            share = 100 * counts[arm][place] / values[arm].size
            title = f"{arm.upper()} {start:.3g}–{edges[place + 1]:.3g}: {share:.1f} %, {counts[arm][place]:,}"
            columns.append(charts.Bar(round(share), title, muted=arm == "b"))
        columns.append(charts.Bar(0, ""))
        ticks.append((3.0 * place, f"{start:.3g}"))
    ticks.append((3.0 * (len(edges) - 1), f"{edges[-1]:.3g}"))
    every = 1 if len(ticks) <= 9 else 2
    arms = [
        {
            "name": arm.upper(),
            "users": f"{one.size:,}",
            "mean": _number(float(one.mean())),
            "median": _number(float(np.median(one))),
            "deviation": _number(float(one.std(ddof=1)) if one.size > 1 else None),
        }
        for arm, one in sorted(values.items())
    ]
    return {"chart": charts.bars(columns, ticks[::every], label=words("distributions").en), "arms": arms}


def _guardrails(found: Sequence[GuardrailResult]) -> list[dict[str, Any]]:
    rows = []
    for one in found:
        row: dict[str, Any] = {
            "metric": one.metric,
            "a": _number(one.a),
            "b": _number(one.b),
            "harm": "" if one.harm is None else f"{one.harm:+.4g}",
            "low": "" if one.low is None else f"{one.low:+.4g}",
            "limit": _number(one.limit),
            "confidence": f"{1 - one.alpha:.2%}",
            "violated": one.violated,
            "chart": None,
        }
        if one.low is not None and one.harm is not None and one.limit is not None:
            reach = max(abs(one.low), abs(one.harm), 2 * one.limit) or 1.0
            bound = charts.Estimate(0, one.low, one.harm, math.inf, one.metric)
            row["chart"] = charts.span(bound, reach, one.limit)
        rows.append(row)
    return rows


def _checks(plan: ExperimentPlan, last: Look) -> list[dict[str, Any]]:
    analysis = last.analysis
    ratio = analysis.sample_ratio
    sizes = ", ".join(f"{arm.upper()} {count:,} ({ratio.expected[arm]:,.1f})" for arm, count in ratio.observed.items())
    checks = [
        {
            "key": "sample_ratio",
            "value": f"{sizes}, p = {ratio.p_value:.3g}",
            "passed": ratio.p_value >= plan.sample_ratio_threshold,
        }
    ]
    if response := analysis.response:
        rated = ", ".join(f"{arm.upper()} {response.rated[arm]:,}/{asked:,}" for arm, asked in response.asked.items())
        passed = response.p_value >= plan.missing_threshold
        checks.append({"key": "response", "value": f"{rated}, p = {response.p_value:.3g}", "passed": passed})
    checks += [
        {"key": "crossed", "value": f"{analysis.crossed_users:,}", "passed": None},
        {"key": "foreign", "value": f"{analysis.foreign_ratings:,}", "passed": None},
    ]
    return checks


def _categories(found: Sequence[Category]) -> list[dict[str, Any]]:
    if not found:
        return []
    reach = _rounded(max(max(abs(one.comparison.low), abs(one.comparison.high)) for one in found) or 1.0)
    return [
        {
            "name": one.name,
            "users": f"{one.comparison.a.users:,} / {one.comparison.b.users:,}",
            "means": f"{one.comparison.a.mean:.3f} / {one.comparison.b.mean:.3f}",
            "difference": f"{one.comparison.difference:+.3f}",
            "interval": f"{one.comparison.low:+.3f} … {one.comparison.high:+.3f}",
            "chart": charts.span(
                charts.Estimate(0, one.comparison.low, one.comparison.difference, one.comparison.high, one.name), reach
            ),
        }
        for one in found
    ]


def _rows(looks: Sequence[Look]) -> list[dict[str, Any]]:
    """Looks as a table: those of the plan, and the newest."""
    chosen = [*[look for look in looks[:-1] if look.decision.look is not None][-_MOST_ROWS:], looks[-1]]
    rows = []
    for look in chosen:
        comparison, sequence = look.analysis.comparison, look.analysis.sequence
        rows.append(
            {
                "time": f"{look.time:%Y-%m-%d %H:%M}",
                "look": "" if look.decision.look is None else str(look.decision.look),
                "users": " / ".join(f"{look.analysis.arms[arm].users:,}" for arm in ("a", "b")),
                "difference": f"{comparison.difference:+.3f}" if comparison else "",
                "p": f"{comparison.welch_p:.4g}" if comparison else "",
                "boundary": "" if look.decision.boundary is None else f"{look.decision.boundary:.2f}",
                "sequence": f"{sequence[0]:+.3f} … {sequence[1]:+.3f}" if sequence else "",
                "action": look.decision.action.value,
            }
        )
    return rows


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
