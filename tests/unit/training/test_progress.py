"""Reading a file that grows, tears, is replaced and begins again; what its lines say together."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tollgate.errors import BadInputError
from tollgate.training.progress import ProgressLine, ProgressReader, RunProgress, perplexity, read_progress


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "progress.jsonl"


def add(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def steps(lines: list[ProgressLine]) -> list[int]:
    return [line.step for line in lines]


def test_each_line_is_read_once_and_only_when_it_is_whole(path: Path) -> None:
    reader = ProgressReader(path)
    assert reader.read() == []
    add(path, '{"step": 1}\n{"step": 2, "lo')
    assert steps(reader.read()) == [1]
    assert reader.read() == []
    add(path, 'ss": 0.5}\n{"step": 3}\n')
    second, third = reader.read()
    assert (second.step, second.loss, third.step) == (2, 0.5, 3)
    assert reader.read() == []


def test_a_replaced_or_cut_file_is_read_from_its_beginning(path: Path) -> None:
    reader = ProgressReader(path)
    add(path, '{"step": 1}\n{"step": 2}\n')
    reader.read()
    path.rename(path.with_suffix(".earlier"))
    assert reader.read() == []
    add(path, '{"step": 7}\n{"step": 8}\n{"step": 9}\n')
    assert steps(reader.read()) == [7, 8, 9]
    path.write_text('{"step": 4}\n')
    assert steps(reader.read()) == [4]


def test_only_new_bytes_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ProgressReader(path)
    add(path, "".join(f'{{"step": {step}}}\n' for step in range(1000)))
    reader.read()
    parsed: list[bytes] = []
    real = ProgressReader._parse

    def parse(self: ProgressReader, line: bytes) -> ProgressLine | None:
        parsed.append(line)
        return real(self, line)

    monkeypatch.setattr(ProgressReader, "_parse", parse)
    add(path, '{"step": 1000}\n')
    assert steps(reader.read()) == [1000]
    assert parsed == [b'{"step": 1000}']


@pytest.mark.parametrize("damaged", ["not json", "[1, 2]", '{"step": -1}', '{"loss": 2.0}', "\x00\x00"])
def test_a_damaged_line_is_passed_over_live_and_named_afterwards(path: Path, damaged: str) -> None:
    add(path, f'{{"step": 1}}\n{damaged}\n{{"step": 3}}\n')
    reader = ProgressReader(path)
    assert steps(reader.read()) == [1, 3]
    assert reader.damaged == [(2, damaged)]
    with pytest.raises(BadInputError, match=r"progress.jsonl, line 2"):
        read_progress(path)


def test_without_a_file_there_is_no_progress(path: Path) -> None:
    progress = read_progress(path)
    assert (progress.last, progress.points, progress.newest("loss")) == (None, {}, None)


def test_steps_that_were_done_again_count_as_they_were_last(path: Path) -> None:
    add(path, '{"step": 10, "loss": 3.0}\n{"step": 20, "loss": 2.0}\n{"step": 20, "eval_loss": 2.5}\n')
    add(path, '{"step": 30, "loss": 1.0}\n{"step": 40, "loss": 0.5}\n')
    reader = ProgressReader(path)
    progress = RunProgress(reader.read())
    add(path, '{"step": 20}\n')  # the job died, and goes on from a checkpoint
    progress.extend(reader.read())
    assert [(point.step, point.value) for point in progress.series("loss")] == [(10, 3.0), (20, 2.0)]
    assert progress.newest("eval_loss") == 2.5
    add(path, '{"step": 30, "loss": 1.25}\n')
    progress.extend(reader.read())
    assert [(point.step, point.value) for point in progress.series("loss")] == [(10, 3.0), (20, 2.0), (30, 1.25)]
    assert progress.last is not None
    assert (progress.last.step, read_progress(path).points) == (30, progress.points)


def test_a_training_from_the_start_forgets_everything(path: Path) -> None:
    progress = RunProgress([ProgressLine(step=10, loss=3.0), ProgressLine(step=0)])
    assert progress.series("loss") == []


def test_figures_are_what_was_measured_and_nothing_else() -> None:
    line = ProgressLine.model_validate_json(
        '{"step": 5, "max_steps": 10, "percent": 50, "epoch": 0.5, "seconds": 3, "eta_seconds": null,'
        ' "phase": "training", "time": "2026-01-01T00:00:00+00:00", "loss": 1.5, "entropy": 2, "note": "x", "ok": true}'
    )
    assert line.figures == {"loss": 1.5, "entropy": 2.0}


def test_a_loss_that_is_no_number_stays_one_and_is_left_out_of_stores() -> None:
    line = ProgressLine.model_validate_json('{"step": 5, "loss": "NaN", "eval_loss": "Infinity"}')
    assert math.isnan(line.figures["loss"])
    assert line.figures["eval_loss"] == math.inf
    assert line.place.keys() == {"step", "max_steps", "percent", "phase"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"phase": "saving"}, "step 20/600 (3 %), saving, about 40 s left"),
        ({"phase": "evaluating"}, "step 20/600 (3 %), measuring the validation loss, about 40 s left"),
        (
            {"loss": 1.23456, "tokens_per_second": 812.4},
            "step 20/600 (3 %), loss 1.2346, 812 tokens/s, about 40 s left",
        ),
        (
            {"eval_loss": 1.0, "eval_perplexity": 2.71828, "phase": "evaluating"},
            "step 20/600 (3 %), validation loss 1.0000, perplexity 2.7183, about 40 s left",
        ),
        ({"step": 600, "percent": 100.0}, "step 600/600 (100 %)"),
        ({"max_steps": 0, "eta_seconds": None}, "step 20"),
    ],
)
def test_a_line_in_words(values: dict, words: str) -> None:
    line = {"step": 20, "max_steps": 600, "percent": 3.3, "eta_seconds": 40.2, **values}
    assert ProgressLine.model_validate(line).in_words() == words


def test_perplexity_is_the_exponential_and_never_overflows() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(math.log(7)) == pytest.approx(7)
    assert perplexity(1e6) == perplexity(50.0)
