"""What is asked of full weights on a server of their own: the order that ``containers/vllm/examine.py`` carries out.

An adapter is loaded beside production. Full weights need a server for themselves, which lives for as long as it takes
to put the test part to it. The answers go where the evaluation looks for them, so that it asks for none of them again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tollgate.errors import BadInputError, Problem
from tollgate.evaluation.cases import Case, write_json_lines

FOLDER = "examination"
"""Name of the examination's folder in the folder of the training job."""
ORDER = "spec.json"
CASES = "cases.jsonl"


class Examination(BaseModel):
    """Which weights are examined, how, and where the answers go.

    Attributes:
        model: Folder of the weights in Hugging Face's layout.
        served_name: Name under which they answer; answers of another name do not count as theirs.
        cases: What is asked: a JSONL file of :class:`~tollgate.evaluation.cases.Case`.
        answers: The file that answers are appended to as they come.
        perplexity: The same for the right answers' likelihood; null: it is not measured.
        max_tokens: Longest answer.
        max_model_len: Longest prompt and answer together, as in production.
        concurrency: Requests at a time.
        patience_seconds: How long the server may take to load the weights.
    """

    model_config = ConfigDict(protected_namespaces=())

    model: Path
    served_name: str = Field(min_length=1)
    cases: Path
    answers: Path
    perplexity: Path | None = None
    max_tokens: int = Field(ge=1)
    max_model_len: int = Field(ge=16)
    concurrency: int = Field(32, ge=1)
    patience_seconds: float = Field(1800.0, gt=0)


def write_examination(folder: Path, examination: Examination, cases: Iterable[Case]) -> Path:
    """Write the order and what is asked into ``folder``; twice is the same as once.

    Returns:
        The folder.
    """
    write_json_lines(examination.cases, cases)
    write_json_lines(folder / ORDER, [examination])
    examination.answers.parent.mkdir(parents=True, exist_ok=True)
    return folder


def read_examination(folder: Path) -> Examination:
    """Read the order in ``folder``.

    Raises:
        BadInputError: It is missing or not valid, or names weights that are not there.
    """
    path = folder / ORDER
    try:
        examination = Examination.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        problem = Problem(str(path), str(error)[:300], "an order of an examination")
        raise BadInputError("There is nothing to examine.", [problem]) from error
    if not (examination.model / "config.json").is_file():
        problem = Problem("model", str(examination.model), "a folder with config.json and the weights")
        raise BadInputError("The weights are not there.", [problem])
    return examination
