"""Charts of the report page as inline SVG, coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    box = f"0 0 {_WIDTH} {_HEIGHT}"
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
