"""Says whether an answer is right. A scorer is one decorated function; everything else finds it by its name."""

from __future__ import annotations

import importlib
import inspect
import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from tollgate.errors import BadInputError, Problem
from tollgate.evaluation.cases import CaseResult, Message


class Score(BaseModel):
    """One answer's score.

    Attributes:
        correct: Whether it counts as right.
        valid: Whether it has the form asked for (parses as a JSON object); none where there is no form.
        fields: Per field of the right answer, whether the answer has the same value.
        value: How right it is, in [0, 1]; none where it is right or wrong only.
    """

    model_config = ConfigDict(frozen=True)

    correct: bool
    valid: bool | None = None
    fields: dict[str, bool] = Field(default_factory=dict)
    value: float | None = Field(None, ge=0, le=1)


class ScoredCase(BaseModel):
    """A case with its answer and score: what verdicts and summaries are made from.

    Attributes:
        answer: None where it was not kept; an empty text is an empty answer.
        messages: The chat up to the question.
        scorer: Who scored it; ``judge`` is an LLM.
        value: How right the answer is, in [0, 1].
        repeats: The answers to the same question asked again.
        latency_ms: Milliseconds.
    """

    id: str
    category: str | None = None
    messages: tuple[Message, ...] = ()
    expected: str | None = None
    answer: str | None = None
    scorer: str | None = None
    correct: bool
    valid: bool | None = None
    fields: dict[str, bool] = Field(default_factory=dict)
    value: float | None = Field(None, ge=0, le=1)
    repeats: tuple[str, ...] = ()
    latency_ms: float | None = Field(None, ge=0)
    finish_reason: str | None = None
    error: str | None = None

    @property
    def empty(self) -> bool:
        """Whether the model said nothing: no text, or only white space."""
        return self.answer is not None and not self.answer.strip()


Scorer = Callable[..., Score]
"""Takes the answer and the right answer, and its options by their names."""

Decorated = TypeVar("Decorated", bound=Scorer)

JUDGE = "judge"
"""Name of the scorer that is an LLM (:mod:`tollgate.evaluation.llm_judge`)."""

_SCORERS: dict[str, Scorer] = {}
_FURTHER = ("tollgate.evaluation.text_scorers", "tollgate.evaluation.number_scorers")
"""Modules whose scorers are registered when one is looked up."""


def scorer(name: str) -> Callable[[Decorated], Decorated]:
    """Register the decorated function under ``name``.

    Raises:
        ValueError: The name is taken.
    """

    def register(function: Decorated) -> Decorated:
        if name in _SCORERS or name == JUDGE:
            raise ValueError(f"there is a scorer {name!r} already")
        _SCORERS[name] = function
        return function

    return register


def scorer_names() -> list[str]:
    """The names of all registered scorers, sorted."""
    for module in _FURTHER:
        importlib.import_module(module)
    return sorted(_SCORERS)


def find_scorer(name: str, options: Mapping[str, Any] | None = None, where: str = "scorer") -> Scorer:
    """The scorer of that name, with its options set.

    Args:
        name: As given to :func:`scorer`.
        options: The scorer's keyword arguments.
        where: Where the name was read, for the error.

    Raises:
        BadInputError: There is none, or it has no such option.
    """
    names = scorer_names()
    if name not in names:
        problem = Problem(where, repr(name), "one of " + ", ".join(names))
        raise BadInputError("There is no such scorer.", [problem])
    function = _SCORERS[name]
    known = inspect.signature(function).parameters
    allowed = [parameter.name for parameter in known.values() if parameter.kind is parameter.KEYWORD_ONLY]
    wrong = sorted(set(options or ()) - set(allowed))
    if wrong:
        expected = f"an option of {name}: {', '.join(allowed) or 'it has none'}"
        raise BadInputError("The scorer has no such option.", [Problem(where, repr(key), expected) for key in wrong])
    return partial(function, **options) if options else function


def detect(expected: Iterable[str]) -> str:
    """The scorer that suits these right answers: ``json_exact`` where all are JSON objects, else ``exact``."""
    answers = list(expected)
    return "json_exact" if answers and all(json_object(answer) is not None for answer in answers) else "exact"


def score_results(results: Sequence[CaseResult], name: str | None = None) -> list[ScoredCase]:
    """Score every result: with its own scorer if it names one, else with the named one or the one that suits all.

    A result that the judge is to score counts as wrong here; :mod:`tollgate.evaluation.llm_judge` scores it afterwards.

    Raises:
        BadInputError: There is no scorer of that name, or it refuses its options.
    """
    general = name or detect(result.expected for result in results)
    return [_score_result(result, result.scorer or general) for result in results]


def _score_result(result: CaseResult, name: str) -> ScoredCase:
    if name == JUDGE:
        found = Score(correct=False)
    else:
        score = find_scorer(name, _options(result, name), f"case {result.id}, scorer")
        found = best_score(score, result.answer, (result.expected, *result.alternatives))
    return ScoredCase.model_validate({**result.__dict__, **found.__dict__, "scorer": name})


def _options(result: CaseResult, name: str) -> dict[str, Any]:
    choices = {"choices": result.choices} if name == "choice" and result.choices else {}
    return {**choices, **result.options}


def best_score(score: Scorer, answer: str, expected: Sequence[str]) -> Score:
    """The best score that an answer has against any of the right answers."""
    scores = [score(answer, wanted) for wanted in expected]
    return max(scores, key=lambda one: (one.correct, one.value or 0.0, sum(one.fields.values())))


@scorer("json_exact")
def json_exact(answer: str, expected: str) -> Score:
    """Right when both parse as the same JSON object; the order of keys and white space do not count."""
    wanted = json_object(expected)
    found = json_object(answer)
    if wanted is None:
        return Score(correct=False, valid=found is not None)
    fields = {name: found is not None and name in found and _same(found[name], wanted[name]) for name in wanted}
    return Score(correct=found is not None and _same(found, wanted), valid=found is not None, fields=fields)


@scorer("json_valid")
def json_valid(answer: str, expected: str) -> Score:
    """Right when the answer is a JSON object, whatever stands in it; ``expected`` does not count."""
    valid = json_object(answer) is not None
    return Score(correct=valid, valid=valid)


@scorer("json_fields")
def json_fields(answer: str, expected: str, *, minimum: float = 1.0) -> Score:
    """Right when at least the share ``minimum`` of the right answer's fields have its values; further fields are free.

    Args:
        answer: The answer.
        expected: The right answer, a JSON object.
        minimum: In [0, 1].
    """
    whole = json_exact(answer, expected)
    value = sum(whole.fields.values()) / len(whole.fields) if whole.fields else float(whole.correct)
    return Score(correct=bool(whole.valid) and value >= minimum, valid=whole.valid, fields=whole.fields, value=value)


@scorer("exact")
def exact(answer: str, expected: str) -> Score:
    """Right when the texts are the same but for Unicode form, white space and case."""
    return Score(correct=normalised(answer) == normalised(expected))


@scorer("contains")
def contains(answer: str, expected: str) -> Score:
    """Right when the answer contains the right one, but for Unicode form, white space and case."""
    return Score(correct=bool(normalised(expected)) and normalised(expected) in normalised(answer))


def normalised(text: str) -> str:
    """A text in Unicode form C, in lower case, with single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def json_object(text: str) -> dict[str, Any] | None:
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
