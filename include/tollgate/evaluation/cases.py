"""What is asked of a model, what it answered, and the files both are kept in."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tollgate.errors import BadInputError, Problem

Record = TypeVar("Record", bound=BaseModel)

PROBLEMS_SHOWN = 20
"""So many faulty lines of a file are named; a file of another kind would have thousands."""


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(frozen=True)

    role: str
    content: str


class Case(BaseModel):
    """One question with its right answer.

    Attributes:
        id: Unique within a suite.
        category: Group that the summary counts it under.
        messages: The chat up to the question, without the answer.
        expected: The answer that is right.
        alternatives: Further answers that are as right.
        scorer: Name of the scorer; none: the suite's.
        options: The scorer's options, such as ``tolerance``.
        choices: The answers to choose from; empty where the answer is free.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    category: str | None = None
    messages: tuple[Message, ...] = Field(min_length=1)
    expected: str
    alternatives: tuple[str, ...] = ()
    scorer: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    choices: tuple[str, ...] = ()


class CaseResult(BaseModel):
    """What the server answered to one case; one line of a results file.

    Attributes:
        key: Digest of model, question, right answer and way of asking. A result counts for a case only while this
            stays the same.
        answer: The text; empty where the server refused the case.
        finish_reason: ``stop``, ``length`` …, as the server says.
        latency_ms: Milliseconds from sending the request to the end of the answer.
        logprobs: Where the answer was chosen by likelihood: the log probability (natural) of each of ``choices``; for
            a perplexity, of the right answer.
        tokens: The number of tokens behind each of ``logprobs``.
        error: Why the server refused this case (it does not list what a retry can heal).
    """

    id: str
    category: str | None = None
    messages: tuple[Message, ...] = ()
    expected: str
    alternatives: tuple[str, ...] = ()
    scorer: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    choices: tuple[str, ...] = ()
    model: str
    key: str
    answer: str
    finish_reason: str | None = None
    latency_ms: float = Field(ge=0)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    logprobs: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()
    error: str | None = None


def case_key(case: Case, model: str, sampling: dict[str, Any]) -> str:
    """Digest (16 hexadecimal digits) of everything that decides a case's answer and its score."""
    content: list[Any] = [model, [(turn.role, turn.content) for turn in case.messages], case.expected, sampling]
    if case.choices:
        content.append(case.choices)
    text = json.dumps(content, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cases_from_dataset(version_folder: Path, split: str = "test") -> list[Case]:
    """Read one split of a dataset version: a case an example, the last assistant turn being the right answer.

    Args:
        version_folder: ``<home>/datasets/<name>/v<number>``.
        split: ``test``, ``validation`` or ``train``.

    Raises:
        BadInputError: There is no such split, it is not Parquet, lacks a column, or a row ends without an answer.
    """
    import polars

    path = version_folder / f"{split}.parquet"
    if not path.is_file():
        raise BadInputError("The dataset version has no such split.", [Problem(str(path), "no file", "a Parquet file")])
    try:
        rows = polars.read_parquet(path, columns=["id", "messages", "category"])
    except (polars.exceptions.PolarsError, OSError) as error:
        expected = "Parquet with the columns id, messages and category"
        raise BadInputError("The split cannot be read.", [Problem(str(path), str(error)[:200], expected)]) from error
    return _distinct(path, [_case(path, number, row) for number, row in enumerate(rows.iter_rows(named=True), start=1)])


def _case(path: Path, number: int, row: dict[str, Any]) -> Case:
    turns = row["messages"]
    if not turns or len(turns) < 2 or turns[-1]["role"] != "assistant":
        found = f"{len(turns or [])} turns, the last of {turns[-1]['role'] if turns else 'nobody'}"
        problem = Problem(f"{path.name}, row {number}, messages", found, "a question and, last, the assistant's answer")
        raise BadInputError("The split has a row that cannot be asked.", [problem])
    asked = tuple(Message(role=turn["role"], content=turn["content"]) for turn in turns[:-1])
    return Case(id=row["id"], category=row["category"], messages=asked, expected=turns[-1]["content"])


def _distinct(path: Path, cases: list[Case]) -> list[Case]:
    seen: set[str] = set()
    for number, case in enumerate(cases, start=1):
        if case.id in seen:
            problem = Problem(f"{path.name}, row {number}, id", repr(case.id), "an id that no other row has")
            raise BadInputError("The split names a case twice.", [problem])
        seen.add(case.id)
    return cases


def read_json_lines(path: Path, model: type[Record]) -> list[tuple[int, Record]]:
    """Read a JSONL file whose every line must be valid; empty lines are passed over.

    Returns:
        Each record with the number of its line, from 1.

    Raises:
        BadInputError: The file cannot be read, is not UTF-8, holds no line, or has faulty lines: each is named with
            its field.
    """
    records: list[tuple[int, Record]] = []
    problems: list[Problem] = []
    for number, line in numbered_lines(path):
        try:
            records.append((number, model.model_validate_json(line)))
        except ValidationError as error:
            problems.extend(field_problems(f"{path.name}, line {number}", error))
    if problems:
        more = len(problems) - PROBLEMS_SHOWN
        summary = f"{path} has faulty lines" + (f" ({more} more problems are not shown)." if more > 0 else ".")
        raise BadInputError(summary, problems[:PROBLEMS_SHOWN])
    if not records:
        raise BadInputError(f"{path} is empty.", [Problem(path.name, "no line", "one JSON object a line")])
    return records


def write_json_lines(path: Path, records: Iterable[BaseModel]) -> None:
    """Write one JSON object a line; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(record.model_dump_json() + "\n" for record in records)
    temporary.replace(path)


def read_text(path: Path, expected: str = "a JSONL file") -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        BadInputError: It cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        problem = Problem(str(path), error.strerror or "an unreadable file", expected)
        raise BadInputError(f"{path} cannot be read.", [problem]) from error
    except UnicodeDecodeError as error:
        problem = Problem(f"{path.name}, byte {error.start}", "bytes that are not UTF-8", f"{expected} in UTF-8")
        raise BadInputError(f"{path} is not text in UTF-8.", [problem]) from error


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not empty, each with its number from 1.

    Raises:
        BadInputError: It cannot be read, or is not UTF-8.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line


def field_problems(where: str, error: ValidationError) -> Iterator[Problem]:
    """One problem for each field that a record of a file got wrong; values are not shown, only their types."""
    for detail in error.errors(include_url=False):
        if detail["type"] == "json_invalid":
            yield Problem(where, "a line that is no JSON", "one JSON object")
            continue
        field = ".".join(map(str, detail["loc"]))
        found = "no value" if detail["type"] == "missing" else type(detail["input"]).__name__
        yield Problem(f"{where}, {field}" if field else where, found, detail["msg"])
