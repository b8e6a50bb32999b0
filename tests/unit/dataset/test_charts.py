"""A chart draws one bar a column, to scale, and escapes what it is given."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from tollgate.dataset.charts import Bar, bars


def _heights(svg: str) -> list[float]:
    """Height of each bar, from its path: the bottom less the top."""
    return [
        float(bottom) - float(top) for bottom, top in re.findall(r'd="M[\d.]+ ([\d.]+)V[\d.]+Q[\d.]+ ([\d.]+) ', svg)
    ]


def test_bars_are_to_scale_and_small_ones_visible() -> None:
    svg = bars([Bar(100, "a"), Bar(50, "b"), Bar(0, "c"), Bar(1, "d", muted=True)], [])
    full, half, little = _heights(svg)
    assert abs(full - 2 * half) < 0.2
    assert 1 < little < half
    assert svg.count('class="bar muted"') == 1


def test_it_is_well_formed_whatever_the_words() -> None:
    svg = bars([Bar(1, '<b>"&')], [(0, "<i>")], marker=0.5, label='"><script>')
    root = ElementTree.fromstring(svg)
    assert root.attrib["aria-label"] == '"><script>'
    assert [one.text for one in root.iter("title")] == ['<b>"&']
    assert [one.tag for one in root.iter() if one.tag in {"script", "b", "i"}] == []


def test_no_columns_is_an_empty_chart() -> None:
    assert ElementTree.fromstring(bars([], [])).findall(".//path") == []
