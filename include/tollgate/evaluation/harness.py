"""KoBEST through EleutherAI's lm-evaluation-harness: against the server that serves, with local data, without internet.

The harness runs as a process in an environment of its own (``containers/harness/run_tasks.py``). It makes the prompts
with the chat template of the model's tokenizer, asks ``/v1/completions`` how likely each choice is, and counts. Here
are its data and its order, what its process may use, and how its results become an evaluation's.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, TypeAdapter

from tollgate.errors import BadInputError, Problem, ServiceUnavailableError, TollgateError
from tollgate.evaluation import kobest
from tollgate.evaluation.cases import Message, read_json_lines, write_json_lines
from tollgate.evaluation.harness_server import address_of, look_at_server
from tollgate.evaluation.scorers import ScoredCase
from tollgate.evaluation.suite_run import Asking
from tollgate.settings import PROJECT, settings

PROGRAM = PROJECT / "containers" / "harness" / "run_tasks.py"
REQUIREMENTS = "containers/harness/requirements.txt"
NAME = "lm-evaluation-harness"
FIGURES = ("acc", "acc_norm", "f1")
"""The harness' metrics that are shown: accuracy, that by length of the choices, macro F1."""

_TIMEOUT = 300
_LOG_SHOWN = 12
_ENVIRONMENT = {
    **dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE"), "1"),
    **dict.fromkeys(("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "TQDM_DISABLE"), "1"),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "*"),
    "TOKENIZERS_PARALLELISM": "false",
}
_WITHHELD = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "PYTHONPATH", "PYTHONHOME")
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")

Progress = Callable[[int, int], None]
"""Takes the requests that are answered, and all of them."""


@dataclass(frozen=True)
class HarnessOutcome:
    """What the harness found.

    Args:
        cases: Its questions with its answers, in the files' order; right is what its ``acc`` calls right.
        figures: Of each task the metrics of :data:`FIGURES` that it has, in [0, 1]; ``KoBEST``: all, by size.
        cut: Questions longer than the server's context, whose beginning the harness left out.
    """

    cases: list[ScoredCase]
    figures: dict[str, dict[str, float]]
    cut: int


class _Sample(BaseModel):
    """A line of ``samples.jsonl``."""

    task: str
    number: int
    question: str
    choices: tuple[str, ...]
    right: int | str
    logprobs: tuple[float, ...]
    correct: bool
    cut: bool

    def scored(self, category: str) -> ScoredCase:
        right = self.right if isinstance(self.right, str) else self.choices[self.right]
        best = max(range(len(self.logprobs)), key=self.logprobs.__getitem__)
        return ScoredCase(
            id=f"{category}-{self.number + 1}",
            category=category,
            messages=(Message(role="user", content=self.question),),
            expected=right,
            answer=self.choices[best],
            scorer=NAME,
            correct=self.correct,
        )


def run_harness(
    suite: Path,
    asking: Asking,
    folder: Path,
    tasks: Sequence[str] = (),
    tokenizer: Path | None = None,
    limit: int | None = None,
    on_progress: Progress = lambda answered, total: None,
) -> HarnessOutcome:
    """Put KoBEST to a model through the harness.

    What it does is kept in ``harness/`` below the folder: its ``results.json``, ``samples.jsonl``, its log, and every
    answer as it comes. A run that broke off goes on from there; a finished one asks nothing.

    Args:
        suite: KoBEST's folder.
        asking: Of whom, and how many at a time.
        folder: Of the evaluation; ``cases.jsonl`` is written here.
        tasks: Tasks of KoBEST; none: all that are there.
        tokenizer: The model's folder with tokenizer and chat template; none: where the server says that its model is.
        limit: Rows of each task, from the first; none: all.
        on_progress: Called as requests are answered; those of an earlier run count.

    Raises:
        BadInputError: The data, the server or the tokenizer's folder can't be used, or the harness isn't installed.
        ServiceUnavailableError: The server could not be reached, or kept failing; what was answered is kept.
        TollgateError: The harness failed.
    """
    python = _python()
    names = kobest.chosen_tasks(suite, tasks)
    rows = {name: kobest.hub_rows(suite, name, limit) for name in names}
    served = look_at_server(asking.server, asking.model, asking.api_key)
    template = check_tokenizer(tokenizer or served.folder)
    work = folder.absolute() / "harness"
    work.mkdir(parents=True, exist_ok=True)
    order = {
        "server": address_of(asking.server),
        "model": asking.model,
        "tokenizer": str(template.absolute()),
        "concurrency": asking.concurrency,
        "max_length": served.max_length,
        "timeout": _TIMEOUT,
        "cache": str(work / f"answers-{_digest(asking.model, served.max_length, *_contents(template))}"),
        "data": {_task(name): str(work / "data" / f"{_task(name)}.jsonl") for name in names},
    }
    done = _digest(order["cache"], json.dumps(rows), *_contents(Path(REQUIREMENTS), PROGRAM))
    if not _is_done(work, done):
        (work / "done").unlink(missing_ok=True)
        _write_data(work, rows)
        total = sum(_choices(name) * len(some) for name, some in rows.items())
        _run(python, order, work, asking.api_key, total, on_progress)
        (work / "done").write_text(done, encoding="utf-8")
    outcome = read_outcome(work)
    write_json_lines(folder / "cases.jsonl", outcome.cases)
    return outcome


def _python() -> Path:
    python = settings().harness_python
    if python.exists() and any((python.parent.parent / "lib").glob("python3*/site-packages/lm_eval/__init__.py")):
        return python
    found = "an interpreter without lm_eval" if python.exists() else f"no interpreter {python}"
    expected = f"one with {REQUIREMENTS}: 'make setup' makes it. Or ask without the harness: --through direct"
    raise BadInputError(f"{NAME} is not installed.", [Problem("TOLLGATE_HARNESS_PYTHON", found, expected)])


def check_tokenizer(folder: Path | None) -> Path:
    """See that a folder holds a tokenizer with a chat template.

    Raises:
        BadInputError: It doesn't, or there is none.
    """
    expected = "the folder of the model, with its tokenizer and chat template"
    if folder is None:
        problem = Problem("--tokenizer", "no value, and the server's model is not on this machine", expected)
        raise BadInputError("The harness needs the model's tokenizer.", [problem])
    configuration = folder / "tokenizer_config.json"
    try:
        content = json.loads(configuration.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = Problem(str(configuration), f"{type(error).__name__}", expected)
        raise BadInputError("The tokenizer's folder cannot be read.", [problem]) from error
    if not content.get("chat_template") and not any((folder / name).is_file() for name in _TEMPLATE_FILES):
        problem = Problem(
            str(folder), "no chat template", f"{_TEMPLATE_FILES[0]}, or chat_template in {configuration.name}"
        )
        raise BadInputError("The tokenizer has no chat template.", [problem])
    return folder


def read_outcome(work: Path) -> HarnessOutcome:
    """Read what the harness left in its folder.

    Raises:
        BadInputError: A file isn't there, or not as it should be.
    """
    names = {_task(name): name for name in kobest.TASKS}
    samples = [sample for _, sample in read_json_lines(work / "samples.jsonl", _Sample)]
    try:
        results = json.loads((work / "results.json").read_text(encoding="utf-8"))["results"]
        figures = {names.get(task, "KoBEST"): _figures(values) for task, values in results.items()}
    except (OSError, ValueError, LookupError, AttributeError) as error:
        problem = Problem(str(work / "results.json"), f"{type(error).__name__}: {error}", "the harness' results")
        raise BadInputError("The harness' results cannot be read.", [problem]) from error
    cases = [sample.scored(names[sample.task]) for sample in samples]
    return HarnessOutcome(cases, figures, sum(sample.cut for sample in samples))


def _figures(values: Mapping[str, Any]) -> dict[str, float]:
    """The shown metrics; the harness writes ``acc,none`` for one without a filter. Those of a part of a group go."""
    counts = values.get("sample_count", {})
    found: dict[str, float] = {}
    for name in FIGURES:
        value, whole = values.get(f"{name},none"), counts.get(f"{name},none", values.get("sample_len"))
        if isinstance(value, int | float) and whole == values.get("sample_len"):
            found[name] = float(value)
    return found


def _task(name: str) -> str:
    return f"kobest_{name.lower()}"


def _choices(name: str) -> int:
    return 4 if name == "HellaSwag" else 2


def _digest(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def _contents(*paths: Path) -> Iterable[str]:
    """Digests of files; of a tokenizer's folder, those of the files that decide its tokens and its template."""
    for path in paths:
        whole = PROJECT / path
        patterns = ("tokenizer*", "chat_template*", "vocab*", "merges*", "special_tokens*", "added_tokens*")
        files = sorted({file for pattern in patterns for file in whole.glob(pattern)}) if whole.is_dir() else [whole]
        yield from (hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file())


def _is_done(work: Path, done: str) -> bool:
    try:
        said = (work / "done").read_text(encoding="utf-8")
    except OSError:
        return False
    return said == done and (work / "samples.jsonl").is_file() and (work / "results.json").is_file()


def _write_data(work: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    (work / "data").mkdir(exist_ok=True)
    for name, some in rows.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in some)
        (work / "data" / f"{_task(name)}.jsonl").write_text(text, encoding="utf-8")


def _run(
    python: Path, order: Mapping[str, Any], work: Path, api_key: str | None, total: int, on_progress: Progress
) -> None:
    (work / "order.json").write_text(json.dumps(order, ensure_ascii=False, indent=2), encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="caches-", dir=work) as caches, (work / "log").open("wb") as log:
        inherited = {name: value for name, value in os.environ.items() if name not in _WITHHELD}
        environment = {**inherited, **_ENVIRONMENT, "HF_HOME": caches, "OPENAI_API_KEY": api_key or "none"}
        command = [str(python), str(PROGRAM), str(work / "order.json")]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, cwd=work) as process:
            try:
                assert process.stdout is not None
                failure = _follow(process.stdout, total, on_progress)
            except BaseException:
                process.kill()
                raise
    if failure or process.returncode != 0:
        _raise(failure, process.returncode, order, work)


def _follow(lines: Iterable[bytes], total: int, on_progress: Progress) -> dict[str, str]:
    """Pass on how far the harness is; what it says about a failure, if it does."""
    events = TypeAdapter(dict[str, Any])
    left = 0
    for line in lines:
        event = events.validate_json(line)
        if "failed" in event:
            return event
        left = event.get("left", left) - event.get("answered", 0)
        on_progress(total - left, total)
    return {}


def _raise(failure: Mapping[str, str], status: int, order: Mapping[str, Any], work: Path) -> NoReturn:
    kind, detail = failure.get("failed"), failure.get("detail", "")
    if kind == "unavailable":
        raise ServiceUnavailableError(
            f"{order['server']} kept failing: {detail}. Finished requests are kept; run again to go on."
        )
    if kind == "refused":
        problem = Problem(f"{order['server']}/v1/completions", detail, "an answer")
        raise BadInputError(f"The server refused a request. {work / 'log'} says more.", [problem])
    if kind == "template":
        problem = Problem(order["tokenizer"], detail, "the tokenizer and chat template that the server uses")
        raise BadInputError("The tokenizer's folder is not that of the served model.", [problem])
    last = (work / "log").read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_SHOWN:]
    raise TollgateError("\n".join([f"{NAME} failed with status {status}; the end of {work / 'log'}:", *last]))
