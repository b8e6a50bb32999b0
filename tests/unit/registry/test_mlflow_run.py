"""Which points MLflow lacks; what is written to it is tested on a real server in tests/integration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tollgate.registry.mlflow_run import SENT, SentPoints
from tollgate.training.progress import ProgressLine, RunProgress


def missing(sent: SentPoints, progress: RunProgress) -> list[tuple[str, int, float]]:
    return [(name, point.step, point.value) for name, point in sent.missing(progress)]


def test_each_figure_has_its_own_last_step() -> None:
    progress = RunProgress([ProgressLine(step=10, loss=2.0), ProgressLine(step=20, loss=1.0)])
    sent = SentPoints(run_id="a", steps={"loss": 10})
    assert missing(sent, progress) == [("loss", 20, 1.0)]
    sent.steps["loss"] = 20
    progress.extend([ProgressLine(step=20, eval_loss=1.5)])  # the evaluation of a step that was told already
    assert missing(sent, progress) == [("eval_loss", 20, 1.5)]


def test_steps_done_again_after_a_crash_are_not_sent_again() -> None:
    progress = RunProgress([ProgressLine(step=10, loss=2.0), ProgressLine(step=20, loss=1.0)])
    sent = SentPoints(run_id="a", steps={"loss": 20})
    progress.extend([ProgressLine(step=10), ProgressLine(step=20, loss=1.0), ProgressLine(step=30, loss=0.5)])
    assert missing(sent, progress) == [("loss", 30, 0.5)]


def test_the_note_is_kept_in_the_job_folder_and_belongs_to_one_run(tmp_path: Path) -> None:
    SentPoints(run_id="a", steps={"loss": 20}).write(tmp_path)
    assert SentPoints.read(tmp_path, "a").steps == {"loss": 20}
    assert SentPoints.read(tmp_path, "b") == SentPoints(run_id="b")
    assert [path.name for path in tmp_path.iterdir()] == [SENT]


@pytest.mark.parametrize("content", ["", "[]", '{"run_id": 3}', "\x00"])
def test_a_note_that_is_none_means_that_nothing_was_sent(tmp_path: Path, content: str) -> None:
    (tmp_path / SENT).write_text(content)
    assert SentPoints.read(tmp_path, "a") == SentPoints(run_id="a")
