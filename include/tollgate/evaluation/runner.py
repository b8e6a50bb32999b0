"""Asks a server every case, many at a time, and keeps each answer on disk as it comes.

The server is the one that will serve (vLLM or anything else that speaks OpenAI's chat completions), so that there is no
second way of inference to differ from production.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import ValidationError

from tollgate.errors import BadInputError, Problem, ServiceUnavailableError
from tollgate.evaluation.cases import Case, CaseResult, case_key, cases_from_dataset

__all__ = ["RetryPolicy", "cases_from_dataset", "run_cases"]

_TRANSIENT = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_NO_ACCESS = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_TEXT_SHOWN = 300


@dataclass(frozen=True)
class RetryPolicy:
    """How often a request that met a broken connection, a time-out or a 5xx is tried, and how long between.

    Args:
        attempts: Tries in all, at least 1.
        first_pause: Seconds before the second try; each further pause is twice as long.
    """

    attempts: int = 5
    first_pause: float = 0.5


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
    retry: RetryPolicy = RetryPolicy(),
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

    Raises:
        BadInputError: The server does not serve the model, or refuses the key. Not worth a retry.
        ServiceUnavailableError: The server could not be reached, or kept failing. A later call resumes.
    """
    server = _Server(base_url, model, {"max_tokens": max_tokens, "temperature": temperature}, retry)
    keys = {case.id: case_key(case, model, server.sampling) for case in cases}
    finished = {result.id: result for result in _finished(results_path) if keys.get(result.id) == result.key}
    missing = iter([case for case in cases if case.id not in finished])

    async def ask_until_none_is_left(session: aiohttp.ClientSession) -> None:
        for case in missing:
            result = await server.ask(session, case, keys[case.id])
            file.append(result)
            finished[case.id] = result

    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    limits = aiohttp.ClientTimeout(total=timeout)
    connector = aiohttp.TCPConnector(limit=concurrency)
    with _ResultsFile(results_path) as file:
        async with aiohttp.ClientSession(headers=headers, timeout=limits, connector=connector) as session:
            await _together(ask_until_none_is_left(session) for _ in range(concurrency))
    return [finished[case.id] for case in cases]


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


class _MomentaryError(Exception):
    """Worth another try; the text says what happened."""


@dataclass(frozen=True)
class _Server:
    """One model on one server."""

    base_url: str
    model: str
    sampling: dict[str, float]
    retry: RetryPolicy

    @property
    def address(self) -> str:
        return self.base_url.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"

    async def ask(self, session: aiohttp.ClientSession, case: Case, key: str) -> CaseResult:
        """The case's result; tries again what the moment broke."""
        pause = self.retry.first_pause
        for attempt in range(1, self.retry.attempts + 1):
            try:
                return await self._ask_once(session, case, key)
            except (aiohttp.ClientError, TimeoutError, _MomentaryError) as error:
                reason = str(error) or type(error).__name__
                if attempt == self.retry.attempts:
                    break
            await asyncio.sleep(pause)
            pause *= 2
        raise ServiceUnavailableError(
            f"{self.address} did not answer case {case.id} in {self.retry.attempts} attempts: {reason}. "
            "Finished cases are kept; run again to go on."
        )

    async def _ask_once(self, session: aiohttp.ClientSession, case: Case, key: str) -> CaseResult:
        messages = [turn.model_dump() for turn in case.messages]
        start = time.perf_counter()
        async with session.post(
            self.address, json={"model": self.model, "messages": messages, **self.sampling}
        ) as response:
            body = await response.read()
        outcome = self._read(response.status, body)
        latency = (time.perf_counter() - start) * 1000
        fields = case.model_dump() | {"model": self.model, "key": key, "latency_ms": round(latency, 3)} | outcome
        return CaseResult.model_validate(fields)

    def _read(self, status: int, body: bytes) -> dict[str, Any]:
        """What a response says about its case, as fields of ``CaseResult``."""
        text = body.decode("utf-8", "replace")[:_TEXT_SHOWN]
        if status == HTTPStatus.OK:
            return _completion(body)
        if status == HTTPStatus.NOT_FOUND:
            problem = Problem("model", repr(self.model), "a model that this server has loaded")
            raise BadInputError(f"{self.address} does not serve the model. It said: {text}", [problem])
        if status in _NO_ACCESS:
            problem = Problem("api_key", f"HTTP {status}", "a key that this server accepts")
            raise BadInputError(f"{self.address} refused the key.", [problem])
        if status in _TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _MomentaryError(f"HTTP {status}: {text}")
        return {"answer": "", "error": f"HTTP {status}: {text}"}


def _completion(body: bytes) -> dict[str, Any]:
    try:
        completion = json.loads(body)
        choice = completion["choices"][0]
        text = choice["message"]["content"] or ""
        answer = text.encode("utf-8", "replace").decode()  # half a surrogate pair could not be written to the file
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _MomentaryError("HTTP 200 with a body that is no chat completion") from error
    usage = completion.get("usage") or {}
    return {
        "answer": answer,
        "finish_reason": choice.get("finish_reason"),
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
    }
