"""Asks a server every case, many at a time, and keeps each answer on disk as it comes.

The server is the one that will serve (vLLM or anything else that speaks OpenAI's chat completions), so that there is no
second way of inference to differ from production.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import ValidationError

from tollgate.evaluation.cases import Case, CaseResult, case_key, cases_from_dataset
from tollgate.evaluation.completions import DEFAULT_RETRY, RetryPolicy, ServedModel, Way

__all__ = ["RetryPolicy", "cases_from_dataset", "run_cases"]


async def run_cases(
    base_url: str,
    model: str,
    cases: Sequence[Case],
    *,
    concurrency: int = 8,
    timeout: float = 60.0,
    max_tokens: int = 256,
    temperature: float = 0.0,
    results_path: Path | None = None,
    api_key: str | None = None,
    retry: RetryPolicy = DEFAULT_RETRY,
    way: Way = "generate",
    on_result: Callable[[CaseResult], None] | None = None,
) -> list[CaseResult]:
    """Ask all cases and return their results in the order of the cases.

    Results already in ``results_path`` are taken over, unless model, question, right answer or sampling have changed;
    after a crash only what was missing is asked again.

    Args:
        base_url: The server's address, with or without ``/v1``.
        model: Name under which the server serves the model.
        cases: What to ask, ids distinct.
        concurrency: Requests under way at the same time, at least 1.
        timeout: Seconds that one request may take.
        max_tokens: Longest answer in tokens.
        temperature: 0 takes the likeliest token each time.
        results_path: JSONL file that results are appended to as they come.
        api_key: Sent as bearer token.
        retry: For requests that failed for reasons of the moment.
        way: By a free answer, by choosing the likeliest of a case's choices, or by the right answer's likelihood.
        on_result: Called with every result, those taken over first.

    Raises:
        BadInputError: The server does not serve the model, refuses the key, or cannot be asked in this way. Not worth
            a retry.
        ServiceUnavailableError: The server could not be reached, or kept failing. A later call resumes.
    """
    server = ServedModel(base_url, model, {"max_tokens": max_tokens, "temperature": temperature}, retry, way)
    keys = {case.id: case_key(case, model, server.manner) for case in cases}
    finished = {result.id: result for result in _finished(results_path) if keys.get(result.id) == result.key}
    missing = iter([case for case in cases if case.id not in finished])
    report = on_result or (lambda result: None)
    for result in finished.values():
        report(result)

    async def ask_until_none_is_left(session: aiohttp.ClientSession) -> None:
        for case in missing:
            result = await server.ask(session, case, keys[case.id])
            file.append(result)
            finished[case.id] = result
            report(result)

    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    limits = aiohttp.ClientTimeout(total=timeout)
    connector = aiohttp.TCPConnector(limit=concurrency)
    with _ResultsFile(results_path) as file:
        async with aiohttp.ClientSession(headers=headers, timeout=limits, connector=connector) as session:
            await _together(ask_until_none_is_left(session) for _ in range(concurrency))
    # What is not part of the key, such as the scorer, may have changed since a result was kept.
    return [finished[case.id].model_copy(update=case.__dict__) for case in cases]


async def _together(askers: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all; the first error stops the others and is raised by itself, without its group."""
    try:
        async with asyncio.TaskGroup() as group:
            for asker in askers:
                group.create_task(asker)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _finished(path: Path | None) -> Iterator[CaseResult]:
    """The results in a file that a killed run may have left: a torn or foreign line is not a result."""
    if path is None or not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                yield CaseResult.model_validate_json(line)
            except ValidationError:
                continue


class _ResultsFile:
    """Appends whole lines: each is one write, so that a kill can tear the last line at most."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> _ResultsFile:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            # A kill may have torn the last line; what stands after the last line break is no result.
            os.ftruncate(self._descriptor, self._path.read_bytes().rfind(b"\n") + 1)
        return self

    def append(self, result: CaseResult) -> None:
        if self._descriptor >= 0:
            os.write(self._descriptor, result.model_dump_json().encode() + b"\n")

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
