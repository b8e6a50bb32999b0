"""KoBEST (Kim et al. 2022, arXiv:2204.04541) from its own TSV files: five Korean multiple-choice tasks.

Questions and choices have the words of EleutherAI's lm-evaluation-harness (``lm_eval/tasks/kobest``, zero-shot). The
harness itself is not used: it reads the data from the internet, and over an API it chooses by likelihood
only without the model's chat template. So its published figures, which are made without a template, are no yardstick.
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
    """

    columns: tuple[str, ...]
    question: Callable[[Row], str]
    choices: Callable[[Row], tuple[str, ...]]
    label: Callable[[Row], int]


TASKS = {
    "BoolQ": Task(
        ("Text", "Question", "Answer"),
        lambda row: f"{row['Text']} 질문: {row['Question']} 답변: ",
        lambda row: _NO_YES,
        lambda row: _truth(row["Answer"]),
    ),
    "COPA": Task(
        ("sentence", "question", "1", "2", "Answer"),
        lambda row: f"{row['sentence']}  {_CONNECTORS[row['question'].strip()]}",
        lambda row: (row["1"], row["2"]),
        lambda row: {"1": 0, "2": 1}[row["Answer"]],
    ),
    "HellaSwag": Task(
        ("context", "choice1", "choice2", "choice3", "choice4", "label"),
        lambda row: f"문장: {row['context']}",
        lambda row: (row["choice1"], row["choice2"], row["choice3"], row["choice4"]),
        lambda row: {"0": 0, "1": 1, "2": 2, "3": 3}[row["label"]],
    ),
    "SentiNeg": Task(
        ("Text", "Label"),
        lambda row: f"문장: {row['Text']} 긍부정:",
        lambda row: ("부정", "긍정"),
        lambda row: {"0": 0, "1": 1}[row["Label"]],
    ),
    "WiC": Task(
        ("Target", "SENTENCE1", "SENTENCE2", "ANSWER"),
        lambda row: (
            f"문장1: {row['SENTENCE1']} 문장2: {row['SENTENCE2']} 두 문장에서 {row['Target']}가 같은 뜻으로 쓰였나?"
        ),
        lambda row: _NO_YES,
        lambda row: _truth(row["ANSWER"]),
    ),
}


def _truth(value: str) -> int:
    return {"false": 0, "true": 1}[value.strip().lower()]


def is_folder(path: Path) -> bool:
    """Whether a folder holds one of the tasks' test files at least."""
    return any((path / name / "test.tsv").is_file() for name in TASKS)


def read_tasks(folder: Path, tasks: Sequence[str] = (), way: Way = "likelihood") -> list[Case]:
    """The test parts of the tasks as cases, the category being the task.

    Args:
        folder: With a folder for each task.
        tasks: Which; none: all that are there.
        way: ``generate``: the choices stand below the question, and the answer must name one of them.

    Raises:
        BadInputError: There is no such task, a file cannot be read, or a row is not as KoBEST's are.
    """
    unknown = [name for name in tasks if name not in TASKS]
    if unknown:
        problems = [Problem("tasks", repr(name), f"one of {', '.join(TASKS)}") for name in unknown]
        raise BadInputError("There is no such task of KoBEST.", problems)
    chosen = tasks or [name for name in TASKS if (folder / name / "test.tsv").is_file()]
    return [case for name in chosen for case in _read_task(folder / name / "test.tsv", name, way)]


def _read_task(path: Path, name: str, way: Way) -> list[Case]:
    task = TASKS[name]
    rows = csv.DictReader(io.StringIO(read_text(path, "a TSV file")), delimiter="\t", quoting=csv.QUOTE_NONE)
    missing = [column for column in task.columns if column not in (rows.fieldnames or ())]
    if missing:
        problems = [Problem(f"{path.name} of {name}, line 1", f"no column {column}", "it") for column in missing]
        raise BadInputError(f"{path} is no test file of KoBEST's {name}.", problems)
    return [_case(path, name, number, row, way) for number, row in enumerate(rows, start=2)]


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
