"""Reading a specification: everything that is wrong with it at once, with what is allowed."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from tollgate.errors import BadInputError, Problem
from tollgate.training.rules import contradictions, stand_ins
from tollgate.training.spec import TrainingSpec

_NOT_VALID = "The training specification is not valid."


def parse_spec(values: dict[str, Any]) -> TrainingSpec:
    """Validate ``values`` as a specification: each field by itself, and what fields demand of each other.

    Raises:
        BadInputError: One problem for each wrong field, all at once, each with its allowed range.
    """
    try:
        spec = TrainingSpec.model_validate(values)
    except ValidationError as error:
        problems = [*map(_problem, error.errors()), *_contradictions_beside(values, error)]
        raise BadInputError(_NOT_VALID, problems) from error
    if problems := contradictions(spec):
        raise BadInputError(_NOT_VALID, problems)
    return spec


def _contradictions_beside(values: dict[str, Any], error: ValidationError) -> list[Problem]:
    """What contradicts each other among the fields that are right by themselves."""
    wrong = frozenset(str(detail["loc"][0]) for detail in error.errors() if detail["loc"])
    try:
        return contradictions(TrainingSpec.model_validate(stand_ins(values, wrong)), wrong)
    except ValidationError:  # a value that no stand-in helps, such as a key that is no text
        return []


def _problem(detail: Any) -> Problem:
    where = ".".join(map(str, detail["loc"])) or "specification"
    allowed = _allowed(str(detail["loc"][0])) if detail["loc"] else ""
    expected = f"{detail['msg']}; allowed: {allowed}" if allowed else detail["msg"]
    return Problem(where=where, value=repr(detail["input"])[:200], expected=expected)


def _allowed(field: str) -> str:
    """The range of a field that is a number, such as ``0 or more, below 1``; nothing for other fields.

    Pydantic names the bound that was broken, or no bound where the value was no number.
    """
    schema = TrainingSpec.model_json_schema()["properties"].get(field, {})
    numbers = [one for one in schema.get("anyOf", [schema]) if one.get("type") in {"integer", "number"}]
    if not numbers:
        return ""
    bounds = numbers[0]
    low, high = bounds.get("minimum"), bounds.get("maximum")
    if low is not None and high is not None:
        text = f"{low:g} to {high:g}" if isinstance(high, float) else f"{low} to {high}"
    else:
        least = f"{low:g} or more" if low is not None else f"above {bounds['exclusiveMinimum']:g}"
        most = f"at most {high:g}" if high is not None else None
        most = f"below {bounds['exclusiveMaximum']:g}" if "exclusiveMaximum" in bounds else most
        text = ", ".join(filter(None, (least, most)))
    return f"{text}, or empty" if len(numbers) < len(schema.get("anyOf", [schema])) else text
