"""Charts of the report pages as inline SVG, coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

_WIDTH, _HEIGHT = 520, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 26
_GAP = 2
_ROUNDING = 3


@dataclass(frozen=True)
class Bar:
    """One bar of a chart."""

    count: int
    title: str
    muted: bool = False


@dataclass(frozen=True)
class Estimate:
    """A value with an interval, at a place on the x axis."""

    x: float
    low: float
    value: float
    high: float
    title: str


def bars(
    columns: Sequence[Bar], ticks: Sequence[tuple[float, str]], marker: float | None = None, label: str = ""
) -> Markup:
    """Draw vertical bars that stand side by side.

    Args:
        columns: The bars from left to right.
        ticks: Places on the x axis (in bars from the left) and what stands there.
        marker: Place of a vertical line, in bars from the left.
        label: What the chart shows, for those who can't see it.

    Returns:
        An ``svg`` element that fills the width of what it stands in.
    """
    most = max((column.count for column in columns), default=0)
    top = _round_up(most)
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    step = inner_width / max(1, len(columns))
    pieces = [*_grid(top, inner_height)]
    for place, column in enumerate(columns):
        height = inner_height * column.count / top
        pieces.append(_bar(column, _LEFT + place * step, step, height, _TOP + inner_height))
    if marker is not None:
        x = _LEFT + marker * step
        pieces.append(f'<line class="marker" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_TOP + inner_height}"/>')
    for at, text in ticks:
        x = _LEFT + at * step
        pieces.append(f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{_safe(text)}</text>')
    return _svg(_WIDTH, _HEIGHT, pieces, label)


def band(points: Sequence[Estimate], ticks: Sequence[tuple[float, str]], limit: float, label: str = "") -> Markup:
    """Draw a value and its interval over time, with a line at zero.

    Args:
        points: At least one, from left to right.
        ticks: Places on the x axis and what stands there.
        limit: The y axis goes from minus to plus this; what lies beyond is cut off at the edge.
        label: What the chart shows, for those who can't see it.

    Returns:
        An ``svg`` element that fills the width of what it stands in.
    """
    first, last = points[0].x, points[-1].x
    width, height = 2 * _WIDTH, 260
    inner_width, inner_height = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM

    def across(x: float) -> float:
        return _LEFT + inner_width * ((x - first) / (last - first) if last > first else 0.5)

    def down(y: float) -> float:
        return _TOP + inner_height * (1 - max(-limit, min(limit, y)) / limit) / 2

    upper = [f"{across(point.x):.1f},{down(point.high):.1f}" for point in points]
    lower = [f"{across(point.x):.1f},{down(point.low):.1f}" for point in points]
    middle = [f"{across(point.x):.1f},{down(point.value):.1f}" for point in points]
    pieces = [
        f'<polygon class="band" points="{" ".join([*upper, *lower[::-1]])}"/>',
        *_levels(limit, down, width),
        f'<polyline class="value" points="{" ".join(middle)}"/>',
    ]
    for point in points:
        place = f'cx="{across(point.x):.1f}" cy="{down(point.value):.1f}"'
        pieces.append(f'<circle class="value" {place} r="2.5"><title>{_safe(point.title)}</title></circle>')
    for at, text in ticks:
        place = f'x="{across(at):.1f}" y="{height - 8}"'
        pieces.append(f'<text class="tick" {place} text-anchor="middle">{_safe(text)}</text>')
    return _svg(width, height, pieces, label)


def _levels(limit: float, down: Callable[[float], float], width: int) -> list[str]:
    pieces = []
    for level in (-limit, -limit / 2, 0.0, limit / 2, limit):
        y, kind = down(level), "axis zero" if level == 0 else "grid"
        text = f"{level:+.3g}" if level else "0"
        pieces += [
            f'<line class="{kind}" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>',
        ]
    return pieces


def span(estimate: Estimate, limit: float, marker: float | None = None) -> Markup:
    """Draw one interval as a line on an axis from minus to plus ``limit``, for a table's row.

    Args:
        estimate: The interval; its ``x`` is not used. An end that is infinite is cut off at the edge.
        limit: Ends of the axis.
        marker: Place of another vertical line besides that at zero, such as a margin.
    """
    width, height = 240, 22

    def across(value: float) -> float:
        return width * (1 + max(-limit, min(limit, value)) / limit) / 2

    def upright(value: float, kind: str) -> str:
        return f'<line class="{kind}" x1="{across(value):.1f}" x2="{across(value):.1f}" y1="0" y2="{height}"/>'

    ends = f'x1="{across(estimate.low):.1f}" x2="{across(estimate.high):.1f}" y1="11" y2="11"'
    pieces = [
        upright(0, "axis zero"),
        *([upright(marker, "marker")] if marker is not None else []),
        f'<line class="span" {ends}/>',
        f'<circle class="value" cx="{across(estimate.value):.1f}" cy="11" r="4"/>',
    ]
    return _svg(width, height, pieces, estimate.title)


def _svg(width: int, height: int, pieces: Sequence[str], label: str) -> Markup:
    box = f"0 0 {width} {height}"
    return Markup(f'<svg class="chart" viewBox="{box}" role="img" aria-label="{_safe(label)}">{"".join(pieces)}</svg>')  # noqa: S704  (all texts are escaped)


def _grid(top: int, inner_height: float) -> list[str]:
    pieces = []
    for share in (0.0, 0.5, 1.0):
        y = _TOP + inner_height * (1 - share)
        kind = "axis" if share == 0 else "grid"
        value = top * share
        text = f"{value:,.0f}" if value == int(value) else ""
        pieces += [
            f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>',
        ]
    return pieces


def _bar(column: Bar, left: float, step: float, height: float, bottom: float) -> str:
    """A bar with its upper corners rounded; a bar of few rows stays visible."""
    title = f"<title>{_safe(column.title)}</title>"
    area = f'<rect class="hover" x="{left:.1f}" y="{_TOP}" width="{step:.1f}" height="{bottom - _TOP:.1f}"/>'
    if not column.count:
        return f"<g>{title}{area}</g>"
    height, width = max(1.5, height), max(1.0, step - _GAP)
    radius = min(_ROUNDING, height, width / 2)
    x, y = left + (step - width) / 2, bottom - height
    path = (
        f"M{x:.1f} {bottom:.1f}V{y + radius:.1f}Q{x:.1f} {y:.1f} {x + radius:.1f} {y:.1f}"
        f"H{x + width - radius:.1f}Q{x + width:.1f} {y:.1f} {x + width:.1f} {y + radius:.1f}V{bottom:.1f}Z"
    )
    kind = "bar muted" if column.muted else "bar"
    return f'<g>{title}{area}<path class="{kind}" d="{path}"/></g>'


def _round_up(value: int) -> int:
    """The smallest 1, 2, 4, 5, 6 or 8 times a power of ten that is not below."""
    if value <= 0:
        return 1
    scale = 10 ** math.floor(math.log10(value))
    return next(factor * scale for factor in (1, 2, 4, 5, 6, 8, 10) if factor * scale >= value)


def _safe(text: str) -> str:
    return str(Markup.escape(text))
