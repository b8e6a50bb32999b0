"""Losses over steps as a picture: an SVG for reports, and lines of Braille dots for a terminal."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

from tollgate.training.progress import FILE, Point, ProgressReader, RunProgress

PICTURE = "losses.svg"
"""Name of the picture in the job folder."""

_WIDTH, _HEIGHT = 800, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 66, 48
_MOST_POINTS = 1500
_STYLE = (
    "svg{background:#fff;font-family:system-ui,'Noto Sans KR',sans-serif;font-size:13px}"
    ".ink{fill:#1c2430}.soft{fill:#5b6675}.grid{stroke:#e9ecf0}.axis{stroke:#b9c1cc}"
    ".loss{stroke:#2f6fb2;fill:none;stroke-width:1.6}.eval{stroke:#c8553d;fill:none;stroke-width:2}"
    ".dot{fill:#c8553d}.one{fill:#2f6fb2}"
)


@dataclass(frozen=True)
class Frame:
    """The part of the plane that a picture shows; both sides have a width above 0."""

    first: float
    last: float
    low: float
    high: float

    def across(self, step: float) -> float:
        """Place of a step between the left edge (0) and the right one (1)."""
        return (step - self.first) / (self.last - self.first)

    def up(self, value: float) -> float:
        """Place of a value between the lower edge (0) and the upper one (1)."""
        return (value - self.low) / (self.high - self.low)


def losses_svg(progress: RunProgress, title: str) -> str:
    """Draw training and validation loss over the steps, with the lowest validation loss named.

    Args:
        progress: The job's progress; values that are not finite are left out.
        title: What stands above, such as the job's name.

    Returns:
        An SVG document that needs nothing but itself. Without any loss it says so.
    """
    training, validation = finite(progress.series("loss")), finite(progress.series("eval_loss"))
    pieces = [f'<text class="ink" x="{_LEFT}" y="26" font-size="16" font-weight="600">{escape(title)}</text>']
    frame = frame_of([*training, *validation])
    if frame is None:
        pieces.append(
            f'<text class="soft" x="{_LEFT}" y="{_HEIGHT / 2}">No loss was reported. 보고된 손실 없음.</text>'
        )
    else:
        pieces += _axes(frame)
        pieces += _curve(frame, training, "loss", "one" if len(training) == 1 else None)
        pieces += _curve(frame, validation, "eval", "dot")
        pieces += _legend(training, validation)
    label = escape(f"{title}: training and validation loss", quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'role="img" aria-label="{label}"><style>{_STYLE}</style>{"".join(pieces)}</svg>\n'
    )


def write_losses(folder: Path) -> Path:
    """Write the picture of a job into its folder, as a whole; damaged lines of its progress are left out.

    Returns:
        Where it is.
    """
    progress = RunProgress(ProgressReader(folder / FILE).read())
    path = folder / PICTURE
    partial = path.with_name(f".{PICTURE}.{os.getpid()}")
    partial.write_text(losses_svg(progress, folder.name), encoding="utf-8")
    partial.replace(path)
    return path


def finite(points: Iterable[Point]) -> list[Point]:
    """The points whose value is a finite number."""
    return [point for point in points if math.isfinite(point.value)]


def frame_of(points: Sequence[Point]) -> Frame | None:
    """The frame that holds all points, with round values at its lower and upper edge; None without a point."""
    if not points:
        return None
    first, last = min(point.step for point in points), max(point.step for point in points)
    low, high = min(point.value for point in points), max(point.value for point in points)
    if high <= low:
        low, high = low - (abs(low) or 1.0) / 10, high + (abs(high) or 1.0) / 10
    step = _round_step(high - low)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return Frame(first, last if last > first else first + 1, low, high)


def ticks(low: float, high: float, at_most: int = 6) -> list[float]:
    """Round values between ``low`` and ``high``, at most ``at_most`` + 1 of them, a constant step apart."""
    step = _round_step(high - low, at_most)
    number = math.ceil(low / step - 1e-9)
    found = []
    while number * step <= high + step * 1e-9:
        found.append(number * step)
        number += 1
    return found


def braille(series: Sequence[Sequence[Point]], frame: Frame, columns: int, rows: int) -> list[list[tuple[str, int]]]:
    """Draw curves of Braille dots, each character two dots wide and four high.

    Args:
        series: The curves; where two share a character it belongs to the later one.
        frame: The part of the plane that is shown.
        columns: Width in characters.
        rows: Height in characters.

    Returns:
        Rows from the upper one; of each character its text and the number of its curve, -1 where none passes.
    """
    dots = [[0] * columns for _ in range(rows)]
    owner = [[-1] * columns for _ in range(rows)]
    for number, points in enumerate(series):
        for x, y in _trace(points, frame, 2 * columns, 4 * rows):
            dots[y // 4][x // 2] |= _BRAILLE_BITS[y % 4][x % 2]
            owner[y // 4][x // 2] = number
    return [
        [(chr(0x2800 + bits) if bits else " ", who) for bits, who in zip(*pair, strict=True)]
        for pair in zip(dots, owner, strict=True)
    ]


_BRAILLE_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Unicode's bit of each dot, by row and column within a character."""


def _trace(points: Sequence[Point], frame: Frame, width: int, height: int) -> Iterable[tuple[int, int]]:
    """The dots that a curve passes, from the upper left corner: every dot of the straight lines between points."""
    places = [
        (round(frame.across(point.step) * (width - 1)), round((1 - frame.up(point.value)) * (height - 1)))
        for point in points
    ]
    if len(places) == 1:
        yield places[0]
    for (x0, y0), (x1, y1) in pairwise(places):
        length = max(abs(x1 - x0), abs(y1 - y0), 1)
        for at in range(length + 1):
            yield round(x0 + (x1 - x0) * at / length), round(y0 + (y1 - y0) * at / length)


def _round_step(width: float, at_most: int = 6) -> float:
    """The smallest 1, 2 or 5 times a power of ten of which ``at_most`` fill ``width``."""
    raw = width / at_most
    scale = 10.0 ** math.floor(math.log10(raw))
    return next(factor * scale for factor in (1, 2, 5, 10) if factor * scale >= raw * (1 - 1e-9))


def _place(frame: Frame, step: float, value: float) -> tuple[float, float]:
    x = _LEFT + frame.across(step) * (_WIDTH - _LEFT - _RIGHT)
    return x, _TOP + (1 - frame.up(value)) * (_HEIGHT - _TOP - _BOTTOM)


def _axes(frame: Frame) -> list[str]:
    pieces = []
    bottom = _HEIGHT - _BOTTOM
    for value in ticks(frame.low, frame.high):
        _, y = _place(frame, frame.first, value)
        kind = "axis" if abs(y - bottom) < 0.5 else "grid"
        pieces.append(f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        pieces.append(f'<text class="soft" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for step in ticks(frame.first, frame.last, 8):
        if step == int(step):
            x, _ = _place(frame, step, frame.low)
            pieces.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
            pieces.append(f'<text class="soft" x="{x:.1f}" y="{bottom + 19}" text-anchor="middle">{step:,.0f}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    pieces.append(f'<text class="soft" x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">steps · 스텝</text>')
    return pieces


def _curve(frame: Frame, points: Sequence[Point], kind: str, dots: str | None) -> list[str]:
    """A line through the points, thinned where there are more than the picture can show, and dots where few."""
    if not points:
        return []
    stride = math.ceil(len(points) / _MOST_POINTS)
    shown = [*points[:-1:stride], points[-1]]
    places = [_place(frame, point.step, point.value) for point in shown]
    pieces = [f'<path class="{kind}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in places)}"/>']
    if dots and len(places) <= 60:
        pieces += [
            f'<circle class="{dots}" cx="{x:.1f}" cy="{y:.1f}" r="3">'
            f"<title>step {point.step:,}: {point.value:.4f}</title></circle>"
            for (x, y), point in zip(places, shown, strict=True)
        ]
    return pieces


def _legend(training: Sequence[Point], validation: Sequence[Point]) -> list[str]:
    entries = []
    if training:
        entries.append(("loss", f"training loss · 학습 손실 {training[-1].value:.4f}"))
    if validation:
        best = min(validation, key=lambda point: point.value)
        lowest = f"(lowest · 최저 {best.value:.4f}, step {best.step:,})"
        entries.append(("eval", f"validation loss · 검증 손실 {validation[-1].value:.4f} {lowest}"))
    pieces, x = [], float(_LEFT)
    for kind, text in entries:
        pieces.append(f'<line class="{kind}" x1="{x}" x2="{x + 22}" y1="46" y2="46"/>')
        pieces.append(f'<text class="ink" x="{x + 28}" y="50">{text}</text>')
        x += 250
    return pieces
