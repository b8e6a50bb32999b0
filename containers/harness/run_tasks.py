"""Put tasks of lm-evaluation-harness to a served model; the harness does everything but the data's way to it.

    python containers/harness/run_tasks.py order.json

``tollgate.evaluation.harness`` writes the order and reads what this leaves in the order's folder: ``results.json`` (the
harness' own) and ``samples.jsonl`` (one line a question). Standard output carries progress, one JSON object a line;
everything that the harness says goes to standard error. Runs in ``.venv-harness``.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import lm_eval
from aiohttp import ClientError, ClientResponseError
from lm_eval.api.group import Group
from lm_eval.api.task import ConfigurableTask
from lm_eval.config.group import GroupConfig
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import handle_non_serializable
from requests import HTTPError, RequestException

EXIT_FAILED = 1
RETRIES = 5
TRANSIENT = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2): without whoever reads its progress, this process would ask on unseen."""

GROUP = "kobest"
_METRIC_KEYS_OF_HF = ("hf_evaluate", "average")


class Progress:
    """Writes events to what was standard output; from then on that leads to standard error.

    Raises:
        BrokenPipeError: In ``tell``: nobody reads any more.
    """

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def tell(self, **event: Any) -> None:
        """Write one event."""
        self._file.write(json.dumps(event, ensure_ascii=False) + "\n")
        self._file.flush()


class ServedModel(LocalCompletionsAPI):
    """The harness' client of a completions server, which also says how far it is.

    Args:
        progress: Is told how many requests are left to ask, and of each that is answered.
        options: Those of ``local-completions``.
    """

    def __init__(self, progress: Progress, **options: Any) -> None:
        super().__init__(**options)
        self._progress = progress

    def loglikelihood(self, requests: list[Any], **options: Any) -> list[tuple[float, bool]]:
        """Ask for the given requests: those that the cache doesn't hold."""
        self._progress.tell(left=len(requests))
        return super().loglikelihood(requests, **options)

    def model_call(self, messages: Any, **options: Any) -> Any:
        """One request, where one is asked at a time."""
        answer = super().model_call(messages, **options)
        self._progress.tell(answered=len(messages))
        return answer

    async def amodel_call(self, *, messages: Any, **options: Any) -> Any:
        """One request of several at a time."""
        answer = await super().amodel_call(messages=messages, **options)
        self._progress.tell(answered=len(messages))
        return answer


def load_tasks(order: dict[str, Any]) -> Group:
    """The harness' own tasks, with the order's data in the place of those on the hub.

    Words, choices and figures are the harness'. Beside the data only ``hf_evaluate`` is overridden: it would load the
    program of a metric from the internet, though the tasks' aggregation (``utils.macro_f1_score``) is what counts.

    Args:
        order: Its ``data`` names the JSONL file of each task.

    Returns:
        The harness' group of these tasks, which also counts them up together.
    """
    folder = Path(lm_eval.__file__).parent / "tasks" / GROUP
    group = Group.from_config(GroupConfig(**{**load_yaml(folder / f"_{GROUP}.yaml"), "task": list(order["data"])}))
    for name, file in order["data"].items():
        group.add(ConfigurableTask(config=_overridden(folder, name, file)))
    return group


def _overridden(folder: Path, name: str, file: str) -> dict[str, Any]:
    theirs = load_yaml(folder / f"{name}.yaml")
    metrics = [
        {key: value for key, value in metric.items() if not metric.get("hf_evaluate") or key not in _METRIC_KEYS_OF_HF}
        for metric in theirs["metric_list"]
    ]
    return {
        **theirs,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {theirs["test_split"]: file}},
        "training_split": None,
        "validation_split": None,
        "metric_list": metrics,
    }


def check_template(model: ServedModel, order: dict[str, Any], question: str) -> str | None:
    """Compare the local tokenizer and template with the server's own, where that can be asked (vLLM's ``/tokenize``).

    Args:
        model: With the local tokenizer.
        order: Names server and model.
        question: Text of a user's turn.

    Returns:
        What differs; none where nothing does, or the server can't be asked.
    """
    messages = [{"role": "user", "content": question}]
    ours = model.tok_encode(model.apply_chat_template(messages))
    body = {"model": order["model"], "messages": messages, "add_generation_prompt": True}
    request = urllib.request.Request(  # noqa: S310 - the address is the server's, http or https
        f"{order['server']}/tokenize",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", **{str(name): str(value) for name, value in model.header.items()}},
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as response:
            theirs = json.load(response)["tokens"]
    except (urllib.error.URLError, ValueError, LookupError, OSError) as error:
        print(f"The server's own tokens can't be asked for: {error}", file=sys.stderr)  # ruff: ignore[T201]
        return None
    if ours == theirs:
        return None
    return f"{len(ours)} tokens {ours[:12]}… here, {len(theirs)} tokens {theirs[:12]}… at the server"


def samples(results: dict[str, Any], tasks: dict[str, Any], model: ServedModel) -> Iterator[dict[str, Any]]:
    """One object for each question: what was asked, how likely each choice was, and what the harness says of it."""
    for name, task in tasks.items():
        for sample in results["samples"][name]:
            contexts, choices = zip(*sample["arguments"], strict=True)
            longest = max(len(model.tok_encode(context + choice)) for context, choice in sample["arguments"])
            yield {
                "task": name,
                "number": sample["doc_id"],
                "question": task.doc_to_text(sample["doc"]),
                "prompt": contexts[0],
                "choices": choices,
                "right": int(sample["target"]) if not isinstance(sample["target"], str) else sample["target"],
                "logprobs": [logprob for logprob, _ in sample["filtered_resps"]],
                "correct": bool(sample["acc"]),
                "tokens": longest,
                "cut": longest > model.max_length,
            }


def evaluate(order: dict[str, Any], folder: Path, progress: Progress) -> str | None:
    """Carry out an order.

    Args:
        order: See ``tollgate.evaluation.harness``.
        folder: Gets the results.
        progress: Is told how far it is.

    Returns:
        Why nothing was asked; none: it was.
    """
    model = ServedModel(
        progress,
        base_url=f"{order['server']}/v1/completions",
        model=order["model"],
        tokenizer=order["tokenizer"],
        tokenizer_backend="huggingface",
        num_concurrent=order["concurrency"],
        max_retries=RETRIES,
        max_length=order["max_length"],
        timeout=order["timeout"],
    )
    group = load_tasks(order)
    tasks = {task.task_name: task for task in group.get_all_tasks()}
    first = next(iter(tasks.values()))
    different = check_template(model, order, first.doc_to_text(next(iter(first.test_docs()))))
    if different:
        return different
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=[group],
        num_fewshot=0,
        use_cache=order["cache"],
        apply_chat_template=True,
        log_samples=True,
        task_manager=TaskManager(include_defaults=False),
    )
    _write(folder / "samples.jsonl", "".join(_json(line) + "\n" for line in samples(results, tasks, model)))
    del results["samples"]
    _write(folder / "results.json", _json(results, indent=2))
    return None


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, default=handle_non_serializable)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _refused(error: Exception) -> bool:
    """Whether the server will answer the same however often it is asked."""
    status = None
    if isinstance(error, ClientResponseError):
        status = error.status
    elif isinstance(error, HTTPError) and error.response is not None:
        status = error.response.status_code
    return status is not None and status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in TRANSIENT


def main(path: Path) -> int:
    """Carry out the order in a file.

    Returns:
        The exit status; 0: the results are there.
    """
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    progress = Progress()
    try:
        different = evaluate(json.loads(path.read_text(encoding="utf-8")), path.parent, progress)
    except (ClientError, RequestException, TimeoutError, OSError) as error:
        progress.tell(failed="refused" if _refused(error) else "unavailable", detail=f"{type(error).__name__}: {error}")
    else:
        if different is None:
            return 0
        progress.tell(failed="template", detail=different)
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
