"""Whether a model answers in the same form when it is asked the same again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tollgate.evaluation.cases import Case, CaseResult
from tollgate.evaluation.scorers import ScoredCase, json_object
from tollgate.evaluation.summary import Share, share

_MARK = "#repeat-"


def repeated(cases: Sequence[Case], times: int) -> list[Case]:
    """The cases, and each again under an id of its own until it is there ``times`` times.

    Args:
        cases: What is asked; no id may hold the mark of a repeat.
        times: 1 or more.
    """
    again = [case.model_copy(update={"id": f"{case.id}{_MARK}{n}"}) for n in range(2, times + 1) for case in cases]
    return [*cases, *again]


def with_repeats(results: Sequence[CaseResult]) -> tuple[list[CaseResult], dict[str, tuple[str, ...]]]:
    """Part the results of :func:`repeated` cases.

    Returns:
        The first result of each case, and by its id the answers of all further ones.
    """
    first = [result for result in results if _MARK not in result.id]
    further: dict[str, list[str]] = {}
    for result in results:
        name, mark, _ = result.id.rpartition(_MARK)
        if mark:
            further.setdefault(name, []).append(result.answer)
    return first, {name: tuple(answers) for name, answers in further.items()}


def form_of(answer: str) -> str:
    """The form of an answer: for a JSON object its fields and their types, else its kind of text."""
    found = json_object(answer)
    if found is not None:
        return json.dumps(_types(found), ensure_ascii=False, sort_keys=True)
    text = answer.strip()
    if not text:
        return "empty"
    if "```" in text:
        return "code block"
    return "one line" if "\n" not in text else "several lines"


def format_consistency(cases: Sequence[ScoredCase]) -> Share | None:
    """The share of repeated cases all of whose answers have the same form; none where nothing was repeated."""
    groups = [(case.answer or "", *case.repeats) for case in cases if case.repeats]
    same = sum(len({form_of(answer) for answer in answers}) == 1 for answers in groups)
    return share(same, len(groups)) if groups else None


def _types(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _types(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return sorted({json.dumps(_types(inner), sort_keys=True) for inner in value})
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
