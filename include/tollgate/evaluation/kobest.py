"""KoBEST (Kim et al. 2022, arXiv:2204.04541) from its own TSV files: five Korean multiple-choice tasks.

There are two ways to ask. :mod:`tollgate.evaluation.harness` lets EleutherAI's lm-evaluation-harness do it, with the
words of its own tasks; it gets the rows with the columns of the hub's data set (:func:`hub_rows`). The direct way
(:func:`read_tasks`) needs no harness and no completions API; questions and choices have the harness' words
(``lm_eval/tasks/kobest``, zero-shot).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tollgate.errors import BadInputError, Problem
from tollgate.evaluation.cases import Case, Message, read_text
from tollgate.evaluation.completions import Way

Row = Mapping[str, str]
_NO_YES = ("아니오", "예")
_CONNECTORS = {"원인": "왜냐하면", "결과": "그래서"}
_CHOOSE = "\n\n다음 중 하나로만 답하세요.\n{choices}"


@dataclass(frozen=True)
class Task:
    """One task of KoBEST.

    Args:
        columns: The columns that are read.
        question: The prompt of a row.
        choices: The answers to choose from.
        label: The place of the right one among them; raises KeyError or ValueError for a value that it can't have.
        hub: The columns that ``skt/kobest_v1`` has on Hugging Face's hub, each with the one here that it is; ``label``
            is added.
    """

    columns: tuple[str, ...]
    question: Callable[[Row], str]
    choices: Callable[[Row], tuple[str, ...]]
    label: Callable[[Row], int]
    hub: Mapping[str, str]


TASKS = {
    "BoolQ": Task(
        ("Text", "Question", "Answer"),
        lambda row: f"{row['Text']} 질문: {row['Question']} 답변: ",
        lambda row: _NO_YES,
        lambda row: _truth(row["Answer"]),
        {"paragraph": "Text", "question": "Question"},
    ),
    "COPA": Task(
        ("sentence", "question", "1", "2", "Answer"),
        lambda row: f"{row['sentence']}  {_CONNECTORS[row['question'].strip()]}",
        lambda row: (row["1"], row["2"]),
        lambda row: {"1": 0, "2": 1}[row["Answer"]],
        {"premise": "sentence", "question": "question", "alternative_1": "1", "alternative_2": "2"},
    ),
    "HellaSwag": Task(
        ("context", "choice1", "choice2", "choice3", "choice4", "label"),
        lambda row: f"문장: {row['context']}",
        lambda row: (row["choice1"], row["choice2"], row["choice3"], row["choice4"]),
        lambda row: {"0": 0, "1": 1, "2": 2, "3": 3}[row["label"]],
        {"context": "context", **{f"ending_{number}": f"choice{number}" for number in range(1, 5)}},
    ),
    "SentiNeg": Task(
        ("Text", "Label"),
        lambda row: f"문장: {row['Text']} 긍부정:",
        lambda row: ("부정", "긍정"),
        lambda row: {"0": 0, "1": 1}[row["Label"]],
        {"sentence": "Text"},
    ),
    "WiC": Task(
        ("Target", "SENTENCE1", "SENTENCE2", "ANSWER"),
        lambda row: (
            f"문장1: {row['SENTENCE1']} 문장2: {row['SENTENCE2']} 두 문장에서 {row['Target']}가 같은 뜻으로 쓰였나?"
        ),
        lambda row: _NO_YES,
        lambda row: _truth(row["ANSWER"]),
        {"word": "Target", "context_1": "SENTENCE1", "context_2": "SENTENCE2"},
    ),
}


def _truth(value: str) -> int:
    return {"false": 0, "true": 1}[value.strip().lower()]


def is_folder(path: Path) -> bool:
    """Whether a folder holds one of the tasks' test files at least."""
    return any((path / name / "test.tsv").is_file() for name in TASKS)


def chosen_tasks(folder: Path, tasks: Sequence[str] = ()) -> list[str]:
    """The names of the tasks to ask.

    Args:
        folder: With a folder for each task.
        tasks: Which; none: all that are there.

    Raises:
        BadInputError: There is no such task.
    """
    unknown = [name for name in tasks if name not in TASKS]
    if unknown:
        problems = [Problem("tasks", repr(name), f"one of {', '.join(TASKS)}") for name in unknown]
        raise BadInputError("There is no such task of KoBEST.", problems)
    return list(tasks or [name for name in TASKS if (folder / name / "test.tsv").is_file()])


def read_tasks(
    folder: Path, tasks: Sequence[str] = (), way: Way = "likelihood", limit: int | None = None
) -> list[Case]:
    """The test parts of the tasks as cases, the category being the task.

    Args:
        folder: With a folder for each task.
        tasks: Which; none: all that are there.
        way: ``generate``: the choices stand below the question, and the answer must name one of them.
        limit: Only so many rows of each task, from the first; none: all.

    Raises:
        BadInputError: There is no such task, a file cannot be read, or a row is not as KoBEST's are.
    """
    paths = [(folder / name / "test.tsv", name) for name in chosen_tasks(folder, tasks)]
    return [_case(path, name, line, row, way) for path, name in paths for line, row in _rows(path, name)[:limit]]


def hub_rows(folder: Path, name: str, limit: int | None = None) -> list[dict[str, str | int]]:
    """A task's test part with the columns that it has on Hugging Face's hub (``skt/kobest_v1``).

    Args:
        folder: With a folder for each task.
        name: The task.
        limit: Only so many rows, from the first; none: all.

    Raises:
        BadInputError: The file cannot be read, or a row is not as KoBEST's are.
    """
    path, task = folder / name / "test.tsv", TASKS[name]
    rows = _rows(path, name)[:limit]
    for line, row in rows:
        _case(path, name, line, row, "likelihood")
    return [{**{theirs: row[ours] for theirs, ours in task.hub.items()}, "label": task.label(row)} for _, row in rows]


def _rows(path: Path, name: str) -> list[tuple[int, Row]]:
    """Each row with its line in the file."""
    task = TASKS[name]
    rows = csv.DictReader(io.StringIO(read_text(path, "a TSV file")), delimiter="\t", quoting=csv.QUOTE_NONE)
    missing = [column for column in task.columns if column not in (rows.fieldnames or ())]
    if missing:
        problems = [Problem(f"{path.name} of {name}, line 1", f"no column {column}", "it") for column in missing]
        raise BadInputError(f"{path} is no test file of KoBEST's {name}.", problems)
    return list(enumerate(rows, start=2))


def _case(path: Path, name: str, line: int, row: Row, way: Way) -> Case:
    task = TASKS[name]
    try:
        question, choices = task.question(row), task.choices(row)
        right = choices[task.label(row)]
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        problem = Problem(f"{path}, line {line}", f"{type(error).__name__}: {error}", f"a row of KoBEST's {name}")
        raise BadInputError("A row of KoBEST cannot be read.", [problem]) from error
    if way == "generate":
        question += _CHOOSE.format(choices="\n".join(f"- {choice}" for choice in choices))
    return Case(
        id=f"{name}-{line - 1}",
        category=name,
        messages=(Message(role="user", content=question),),
        expected=right,
        scorer="choice" if way == "generate" else "exact",
        choices=choices,
    )
