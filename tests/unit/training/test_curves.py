"""The picture of the losses and the dots of the terminal's."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tollgate.training.curves import Frame, braille, frame_of, losses_svg, ticks, write_losses
from tollgate.training.progress import Point, ProgressLine, RunProgress

SVG = "{http://www.w3.org/2000/svg}"


def points(*values: tuple[int, float]) -> list[Point]:
    return [Point(step, value, ProgressLine(step=step)) for step, value in values]


def run(losses: list[float], validation: dict[int, float]) -> RunProgress:
    lines = [ProgressLine(step=number + 1, loss=loss) for number, loss in enumerate(losses)]
    return RunProgress([*lines, *(ProgressLine(step=len(losses), eval_loss=loss) for loss in validation.values())])


def test_the_picture_shows_both_curves_where_they_are() -> None:
    progress = RunProgress(
        [
            ProgressLine(step=10, loss=2.0),
            ProgressLine(step=20, loss=1.0),
            ProgressLine(step=20, eval_loss=1.5),
            ProgressLine(step=30, loss=0.0),
            ProgressLine(step=30, eval_loss=1.75),
        ]
    )
    picture = ET.fromstring(losses_svg(progress, "a <job>"))
    paths = {path.get("class"): path.get("d") for path in picture.iter(f"{SVG}path")}
    # 64 and 780 are the plot's sides, 66 (a loss of 2) and 352 (0) its upper and lower edge
    assert paths == {"loss": "M64.0 66.0L422.0 209.0L780.0 352.0", "eval": "M422.0 137.5L780.0 101.8"}
    texts = [text.text or "" for text in picture.iter(f"{SVG}text")]
    assert texts[0] == "a <job>"
    assert any("1.7500 (lowest · 최저 1.5000, step 20)" in text for text in texts)
    assert {"0", "1", "2", "10", "20", "30"} <= set(texts)


@pytest.mark.parametrize(
    "progress", [RunProgress(), RunProgress([ProgressLine(step=1, loss=math.nan)]), RunProgress([ProgressLine(step=3)])]
)
def test_without_a_loss_the_picture_says_so(progress: RunProgress) -> None:
    picture = ET.fromstring(losses_svg(progress, "job"))
    assert not list(picture.iter(f"{SVG}path"))
    assert any("No loss was reported" in (text.text or "") for text in picture.iter(f"{SVG}text"))


def test_values_that_are_not_finite_are_left_out() -> None:
    picture = ET.fromstring(losses_svg(run([2.0, math.inf, math.nan, 1.0], {}), "job"))
    (path,) = picture.iter(f"{SVG}path")
    assert (path.get("d") or "").count("L") == 1


def test_a_long_training_makes_a_small_picture_that_ends_where_it_ended() -> None:
    picture = losses_svg(run([1.0 / (step + 1) for step in range(200_000)], {}), "job")
    assert len(picture) < 100_000
    (path,) = ET.fromstring(picture).iter(f"{SVG}path")
    assert (path.get("d") or "").split("L")[-1].startswith("780.0 ")


def test_the_picture_is_written_as_a_whole_and_again(tmp_path: Path) -> None:
    (tmp_path / "progress.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    path = write_losses(tmp_path)
    ET.fromstring(path.read_text(encoding="utf-8"))
    assert write_losses(tmp_path) == path
    assert sorted(file.name for file in tmp_path.iterdir()) == ["losses.svg", "progress.jsonl"]


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [([(1, 0.13), (9, 2.61)], 0.0, 3.0), ([(1, 5.0)], 4.4, 5.6), ([(1, -1.0), (2, 1.0)], -1.0, 1.0)],
)
def test_a_frame_holds_all_points_between_round_values(values: list, low: float, high: float) -> None:
    frame = frame_of(points(*values))
    assert frame is not None
    assert (frame.low, frame.high) == (pytest.approx(low), pytest.approx(high))
    assert frame.last > frame.first
    for step, value in values:
        assert 0 <= frame.across(step) <= 1
        assert 0 <= frame.up(value) <= 1


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0.0, 3.0) == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3])
    assert ticks(1, 600, 8) == pytest.approx([100, 200, 300, 400, 500, 600])
    assert ticks(0, 1e-6) == pytest.approx([0, 2e-7, 4e-7, 6e-7, 8e-7, 1e-6])


def test_a_falling_line_of_dots_runs_from_corner_to_corner() -> None:
    frame = Frame(0, 7, 0.0, 7.0)
    rows = braille([points((0, 7.0), (7, 0.0))], frame, columns=4, rows=2)
    assert ["".join(character for character, _ in row) for row in rows] == ["⠑⢄  ", "  ⠑⢄"]
    assert [owner for _, owner in rows[0]] == [0, 0, -1, -1]


def test_one_point_is_one_dot_and_a_later_curve_owns_a_shared_character() -> None:
    frame = Frame(0, 7, 0.0, 7.0)
    ((first, *_), _) = braille([points((0, 7.0)), points((0, 7.0))], frame, columns=4, rows=2)
    assert first == ("⠁", 1)
