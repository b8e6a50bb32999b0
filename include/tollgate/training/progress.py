"""Where a training job is: the lines of its ``progress.jsonl``, read as they come, and what they say together.

A job that crashed goes on from its last checkpoint and writes to the same file; the steps since that checkpoint are
done, and told, again. A line whose step is smaller than that of the line before begins again there: what was said about
later steps no longer counts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from tollgate.errors import BadInputError, Problem

FILE = "progress.jsonl"
"""The file's name in the job folder."""

Phase = Literal["training", "evaluating", "saving"]

POSITION = frozenset({"step", "max_steps", "percent", "epoch", "seconds", "eta_seconds", "phase", "time"})
"""Fields that say where the job is; every other number is a figure of the step."""

_LARGEST_LOSS = 50.0  # the exponential of more says nothing

Points = dict[str, dict[int, "Point"]]
"""Figures by their name and step."""


def perplexity(loss: float) -> float:
    """The perplexity of a mean cross-entropy in nats: its exponential, for losses above 50 that of 50."""
    return math.exp(min(loss, _LARGEST_LOSS))


class ProgressLine(BaseModel):
    """One line: where the job is, and what was measured there. Other numbers that a trainer logs are kept too."""

    model_config = ConfigDict(extra="allow", frozen=True)

    step: int = Field(ge=0, description="Optimizer steps done.")
    max_steps: int = Field(0, ge=0, description="Steps of the whole training; 0: not known.")
    percent: float = Field(0.0, description="Share of the steps done, 0 to 100.")
    epoch: float | None = Field(None, description="Passes over the training part, with fractions.")
    seconds: float | None = Field(None, description="Since this process began to train.")
    eta_seconds: float | None = Field(None, description="Until the last step, by the rate of this process; empty: yet.")
    phase: Phase = Field("training", description="What the job does now.")
    time: AwareDatetime | None = Field(None, description="When the line was written.")
    loss: float | None = Field(None, description="Training loss, the mean since the last report.")
    perplexity: float | None = Field(None, description="Exponential of the training loss.")
    eval_loss: float | None = Field(None, description="Loss on the validation part.")
    eval_perplexity: float | None = Field(None, description="Exponential of the validation loss.")
    learning_rate: float | None = Field(None, description="Learning rate of the step.")
    grad_norm: float | None = Field(None, description="Norm of the gradient before it was clipped.")
    tokens_per_second: float | None = Field(None, description="Real tokens, no padding, per second of training.")
    memory_bytes: int | None = Field(None, description="Peak: of the fullest GPU, else resident memory of the process.")
    gpu_utilization: float | None = Field(None, description="Share of time in which the GPU worked, 0 to 100.")

    @property
    def figures(self) -> dict[str, float]:
        """Every number that was measured, by its name; what is not finite is among them."""
        values = self.model_dump(exclude=set(POSITION))
        return {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }

    @property
    def place(self) -> dict[str, Any]:
        """The line as small JSON, without what is empty or no number, for stores that other programs read."""
        values = self.model_dump(mode="json", include=set(ProgressLine.model_fields), exclude_none=True)
        return {name: value for name, value in values.items() if not isinstance(value, float) or math.isfinite(value)}

    def in_words(self) -> str:
        """The line for a log, such as ``step 20/600 (3 %), loss 1.2345, 812 tokens/s, about 40 s left``."""
        parts = [f"step {self.step}" + (f"/{self.max_steps} ({self.percent:.0f} %)" if self.max_steps else "")]
        parts += [
            f"{name} {value:.4f}"
            for name, value in (
                ("loss", self.loss),
                ("validation loss", self.eval_loss),
                ("perplexity", self.eval_perplexity),
            )
            if value is not None
        ]
        if self.phase != "training" and self.eval_loss is None:
            parts.append({"evaluating": "measuring the validation loss", "saving": "saving"}[self.phase])
        if self.tokens_per_second is not None:
            parts.append(f"{self.tokens_per_second:,.0f} tokens/s")
        if self.eta_seconds is not None and self.step < self.max_steps:
            parts.append(f"about {self.eta_seconds:.0f} s left")
        return ", ".join(parts)


class ProgressReader:
    """Reads the file again and again, each line once.

    A last line without its end stays for the next time. A file that was replaced by another, or cut, is read from its
    beginning.

    Args:
        path: The file; it need not be there yet.

    Attributes:
        damaged: Whole lines so far that are no progress: number and beginning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._number = 0
        self._file: int | None = None
        self.damaged: list[tuple[int, str]] = []

    def read(self) -> list[ProgressLine]:
        """The lines that were finished since the last call, in the file's order."""
        try:
            with self._path.open("rb") as file:
                self._begin_again_if_replaced(file.fileno())
                file.seek(self._offset)
                whole, end, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._offset += len(whole) + len(end)
        found = [self._parse(line) for line in whole.split(b"\n")] if end else []
        return [line for line in found if line is not None]

    def _begin_again_if_replaced(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if self._file is not None and (status.st_ino != self._file or status.st_size < self._offset):
            self._offset = self._number = 0
            self.damaged.clear()
        self._file = status.st_ino

    def _parse(self, line: bytes) -> ProgressLine | None:
        self._number += 1
        try:
            return ProgressLine.model_validate_json(line)
        except ValidationError:
            self.damaged.append((self._number, line.decode("utf-8", errors="replace")[:80]))
            return None


class Point(NamedTuple):
    """One figure of one step, and the line that it stands in."""

    step: int
    value: float
    line: ProgressLine


class RunProgress:
    """What all lines so far say together: of a step that was done twice, what was said last.

    Attributes:
        last: The last line; None before the first.
        points: Every figure by its name and step.
    """

    def __init__(self, lines: Sequence[ProgressLine] = ()) -> None:
        self.last: ProgressLine | None = None
        self.points: Points = {}
        self.extend(lines)

    def extend(self, lines: Sequence[ProgressLine]) -> None:
        """Add lines, in the file's order."""
        for line in lines:
            if self.last is not None and line.step < self.last.step:
                self._forget_after(line.step)
            self.last = line
            for name, value in line.figures.items():
                self.points.setdefault(name, {})[line.step] = Point(line.step, value, line)

    def series(self, name: str) -> list[Point]:
        """The points of one figure by step; empty where it was never measured."""
        return [point for _, point in sorted(self.points.get(name, {}).items())]

    def newest(self, name: str) -> float | None:
        """The figure of the latest step that has it."""
        series = self.series(name)
        return series[-1].value if series else None

    def _forget_after(self, step: int) -> None:
        for points in self.points.values():
            for later in [one for one in points if one > step]:
                del points[later]


def read_progress(path: Path) -> RunProgress:
    """Read a whole file; without one there is no progress.

    Raises:
        BadInputError: Finished lines of it are no progress, each named by its number.
    """
    reader = ProgressReader(path)
    progress = RunProgress(reader.read())
    if reader.damaged:
        problems = [
            Problem(f"{path.name}, line {number}", text, "a JSON object with step and figures")
            for number, text in reader.damaged
        ]
        raise BadInputError("The job's progress is not readable.", problems)
    return progress
