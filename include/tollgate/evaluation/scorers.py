"""Says whether an answer is right. A scorer is one decorated function; everything else finds it by its name."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field

from tollgate.errors import BadInputError, Problem
from tollgate.evaluation.cases import CaseResult


class Score(BaseModel):
    """One answer's score.

    Attributes:
        correct: Whether it counts as right.
        valid: Whether it has the form asked for (parses as a JSON object); none where there is no form.
        fields: Per field of the right answer, whether the answer has the same value.
    """

    model_config = ConfigDict(frozen=True)

    correct: bool
    valid: bool | None = None
    fields: dict[str, bool] = Field(default_factory=dict)


class ScoredCase(BaseModel):
    """A case with its answer and score: what verdicts and summaries are made from.

    Attributes:
        answer: None where it was not kept; an empty text is an empty answer.
        latency_ms: Milliseconds.
    """

    id: str
    category: str | None = None
    expected: str | None = None
    answer: str | None = None
    correct: bool
    valid: bool | None = None
    fields: dict[str, bool] = Field(default_factory=dict)
    latency_ms: float | None = Field(None, ge=0)
    finish_reason: str | None = None
    error: str | None = None

    @property
    def empty(self) -> bool:
        """Whether the model said nothing: no text, or only white space."""
        return self.answer is not None and not self.answer.strip()


Scorer = Callable[[str, str], Score]
"""Takes the answer and the right answer."""

_SCORERS: dict[str, Scorer] = {}


def scorer(name: str) -> Callable[[Scorer], Scorer]:
    """Register the decorated function under ``name``.

    Raises:
        ValueError: The name is taken.
    """

    def register(function: Scorer) -> Scorer:
        if name in _SCORERS:
            raise ValueError(f"there is a scorer {name!r} already")
        _SCORERS[name] = function
        return function

    return register


def scorer_names() -> list[str]:
    """The names of all registered scorers, sorted."""
    return sorted(_SCORERS)


def find_scorer(name: str) -> Scorer:
    """The scorer of that name.

    Raises:
        BadInputError: There is none.
    """
    if name not in _SCORERS:
        problem = Problem("scorer", repr(name), "one of " + ", ".join(scorer_names()))
        raise BadInputError("There is no such scorer.", [problem])
    return _SCORERS[name]


def detect(expected: Iterable[str]) -> str:
    """The scorer that suits these right answers: ``json_exact`` where all are JSON objects, else ``exact``."""
    answers = list(expected)
    return "json_exact" if answers and all(_json_object(answer) is not None for answer in answers) else "exact"


def score_results(results: Sequence[CaseResult], name: str | None = None) -> list[ScoredCase]:
    """Score every result, with the named scorer or the detected one.

    Raises:
        BadInputError: There is no scorer of that name.
    """
    score = find_scorer(name or detect(result.expected for result in results))
    return [
        ScoredCase.model_validate(result.model_dump() | score(result.answer, result.expected).model_dump())
        for result in results
    ]


@scorer("json_exact")
def json_exact(answer: str, expected: str) -> Score:
    """Right when both parse as the same JSON object; the order of keys and white space do not count."""
    wanted = _json_object(expected)
    found = _json_object(answer)
    if wanted is None:
        return Score(correct=False, valid=found is not None)
    fields = {name: found is not None and name in found and _same(found[name], wanted[name]) for name in wanted}
    return Score(correct=found is not None and _same(found, wanted), valid=found is not None, fields=fields)


@scorer("exact")
def exact(answer: str, expected: str) -> Score:
    """Right when the texts are the same but for Unicode form, white space and case."""
    return Score(correct=_normalised(answer) == _normalised(expected))


@scorer("contains")
def contains(answer: str, expected: str) -> Score:
    """Right when the answer contains the right one, but for Unicode form, white space and case."""
    return Score(correct=bool(_normalised(expected)) and _normalised(expected) in _normalised(answer))


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _json_object(text: str) -> dict[str, Any] | None:
    """The object that a text holds and nothing else; NaN and keys given twice are no JSON that a program can trust."""
    try:
        value = json.loads(
            unicodedata.normalize("NFC", text), object_pairs_hook=_distinct_keys, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _same(left: Any, right: Any) -> bool:
    """Whether two parsed values are equal. Python alone would say that ``True`` equals ``1``."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)
