"""The errors a user meets, each with what was wrong, where, and what was expected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class TollgateError(Exception):
    """Base of every error that Tollgate raises on purpose; its text is written for the user."""

    exit_status = 3


@dataclass(frozen=True)
class Problem:
    """One thing wrong with what the user gave.

    Args:
        where: File, line or field, as far as known, for example ``"data.jsonl, line 12, messages[0].role"``.
        value: What was found, already shortened and free of personal data.
        expected: What would have been right, in words.
    """

    where: str
    value: str
    expected: str

    def __str__(self) -> str:
        return f"{self.where}: found {self.value}, expected {self.expected}"


class BadInputError(TollgateError):
    """What the user gave cannot be used. Never retried: the same input would fail again."""

    exit_status = 2

    def __init__(self, summary: str, problems: Iterable[Problem] = ()) -> None:
        self.summary = summary
        self.problems = tuple(problems)
        super().__init__("\n  - ".join([summary, *map(str, self.problems)]))

    def __reduce__(self) -> tuple[type[BadInputError], tuple[str, tuple[Problem, ...]]]:
        return type(self), (self.summary, self.problems)


class GateRefusedError(TollgateError):
    """A gate looked at valid input and said no; the text says which gate and why."""

    exit_status = 1


class ServiceUnavailableError(TollgateError):
    """A service (PostgreSQL, MLflow, vLLM, gateway, Airflow) did not answer. Worth a retry."""

    exit_status = 3
