"""What a model is asked: a version's test split, a file of own cases, or KoBEST.

The format of case files is described in ``docs/evaluation.md``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tollgate.errors import BadInputError, Problem
from tollgate.evaluation import kobest
from tollgate.evaluation.cases import (
    PROBLEMS_SHOWN,
    Case,
    Message,
    cases_from_dataset,
    field_problems,
    numbered_lines,
    read_text,
)
from tollgate.evaluation.completions import Way
from tollgate.evaluation.scorers import JUDGE, best_score, find_scorer

_EXPECTED = "a JSONL file, or a JSON list of cases"


@dataclass(frozen=True)
class Suite:
    """Cases that are asked together.

    Args:
        name: For the report.
        cases: What is asked, ids distinct.
        way: How: by a free answer, or by choosing the likeliest choice.
    """

    name: str
    cases: Sequence[Case]
    way: Way = "generate"


class CaseLine(BaseModel):
    """A case as people write it: either ``question`` or ``messages``, and one right answer or several."""

    model_config = ConfigDict(extra="forbid")

    id: str | int
    category: str | None = None
    question: str | None = Field(None, min_length=1)
    system: str | None = None
    messages: list[_Turn] | None = Field(None, min_length=1)
    expected: Any
    scorer: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    choices: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_question(self) -> CaseLine:
        if (self.question is None) == (self.messages is None):
            raise ValueError("either question or messages is needed, not both")
        if self.messages and self.messages[-1].role != "user":
            raise ValueError("the last of messages must be the user's")
        if self.messages and self.system is not None:
            raise ValueError("system goes with question; put it first into messages")
        return self

    def case(self) -> Case:
        """The case, its right answers as texts: values that are no text become JSON.

        Raises:
            ValueError: There is no right answer.
        """
        several = isinstance(self.expected, list)
        wanted = [_text(value) for value in (self.expected if several else [self.expected])]
        if not wanted:
            raise ValueError("expected must name a right answer")
        return Case(
            id=str(self.id),
            category=self.category,
            messages=tuple(self._chat()),
            expected=wanted[0],
            alternatives=tuple(wanted[1:]),
            scorer=self.scorer,
            options=self.options,
            choices=tuple(self.choices),
        )

    def _chat(self) -> Iterator[Message]:
        if self.messages:
            yield from (Message(role=turn.role, content=turn.content) for turn in self.messages)
            return
        if self.system is not None:
            yield Message(role="system", content=self.system)
        yield Message(role="user", content=self.question or "")


class _Turn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


CaseLine.model_rebuild()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def open_suite(path: Path, way: Way = "generate", tasks: Sequence[str] = (), limit: int | None = None) -> Suite:
    """The suite that a path holds.

    Args:
        path: A case file (JSONL or JSON), the folder of a dataset version, or the folder of KoBEST.
        way: For cases that have choices: by a free answer, or by the likeliest choice.
        tasks: Tasks of KoBEST; none: all.
        limit: Rows of each of KoBEST's tasks; none: all.

    Raises:
        BadInputError: It is none of these, or has faults: each is named with file, line and field.
    """
    if path.is_file():
        return Suite(path.stem, read_cases(path), way)
    if kobest.is_folder(path):
        return Suite("kobest", kobest.read_tasks(path, tasks, way, limit), way)
    if (path / "test.parquet").is_file():
        return Suite(path.name, cases_from_dataset(path), way)
    found = "a folder without test.parquet or KoBEST's tasks" if path.is_dir() else "nothing there"
    expected = "a case file, a dataset version's folder, or KoBEST's folder"
    raise BadInputError("There is no such suite.", [Problem(str(path), found, expected)])


def read_cases(path: Path) -> list[Case]:
    """Read a file of own cases.

    Raises:
        BadInputError: It cannot be read, is empty or has faults: each is named with file, line and field.
    """
    cases: list[Case] = []
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for where, record in _records(path):
        try:
            case = CaseLine.model_validate(record).case()
        except ValidationError as error:
            problems.extend(field_problems(where, error))
            continue
        except ValueError as error:
            problems.append(Problem(f"{where}, expected", "an empty list", str(error)))
            continue
        problems.extend(_case_problems(where, case, seen))
        seen.setdefault(case.id, where)
        cases.append(case)
    if problems:
        more = len(problems) - PROBLEMS_SHOWN
        summary = f"{path} has faulty cases" + (f" ({more} more problems are not shown)." if more > 0 else ".")
        raise BadInputError(summary, problems[:PROBLEMS_SHOWN])
    if not cases:
        raise BadInputError(f"{path} is empty.", [Problem(path.name, "no case", _EXPECTED)])
    return cases


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Each case with its place: a line of JSONL, or an item of the JSON list that the whole file is."""
    whole = _json_list(path)
    if whole is not None:
        yield from ((f"{path.name}, item {number}", record) for number, record in enumerate(whole, start=1))
        return
    for number, line in numbered_lines(path):
        where = f"{path.name}, line {number}"
        try:
            yield where, json.loads(line)
        except ValueError as error:
            raise BadInputError(
                f"{path} has a faulty line.", [Problem(where, "a line that is no JSON", "one JSON object")]
            ) from error


def _json_list(path: Path) -> list[Any] | None:
    text = read_text(path, _EXPECTED).lstrip()
    if not text.startswith("["):
        return None
    try:
        return list(json.loads(text))
    except ValueError as error:
        place = f"{path.name}, line {getattr(error, 'lineno', 1)}"
        raise BadInputError(f"{path} is no JSON.", [Problem(place, "broken JSON", _EXPECTED)]) from error


def _case_problems(where: str, case: Case, seen: Mapping[str, str]) -> Iterator[Problem]:
    if case.id in seen:
        yield Problem(f"{where}, id", repr(case.id), f"an id that no other case has ({seen[case.id]} has it)")
    if case.choices and case.expected not in case.choices:
        yield Problem(f"{where}, expected", "an answer that is none of choices", "one of choices")
    if case.scorer is not None and case.scorer != JUDGE:
        yield from _scorer_problems(where, case)


def _scorer_problems(where: str, case: Case) -> Iterable[Problem]:
    """A right answer must be right by its own scorer; if it is not, no model could give it."""
    choices = {"choices": case.choices} if case.scorer == "choice" and case.choices else {}
    try:
        score = find_scorer(case.scorer or "", {**choices, **case.options}, f"{where}, scorer")
    except BadInputError as error:
        return error.problems
    expected = (case.expected, *case.alternatives)
    try:
        wrong = [answer for answer in expected if not best_score(score, answer, expected).correct]
    except (TypeError, ValueError) as error:
        return [Problem(f"{where}, expected", str(error)[:200], f"a right answer and options that {case.scorer} takes")]
    found = "an answer that its own scorer calls wrong"
    return [Problem(f"{where}, expected", found, f"one that {case.scorer} can call right")] if wrong else []
