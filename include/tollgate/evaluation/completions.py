"""One model on a server that speaks OpenAI's API: its answers, and how likely it finds given ones."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

import aiohttp

from tollgate.errors import BadInputError, Problem, ServiceUnavailableError
from tollgate.evaluation.cases import Case, CaseResult

Way = Literal["generate", "likelihood", "perplexity"]
"""How a case is asked: by a free answer, by choosing the likeliest of its choices, or by how likely the right answer
is."""

_TRANSIENT = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_NO_ACCESS = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_TEXT_SHOWN = 300
_TOOK = "tollgate.milliseconds"


@dataclass(frozen=True)
class RetryPolicy:
    """How often a request that met a broken connection, a time-out or a 5xx is tried, and how long between.

    Args:
        attempts: Tries in all, at least 1.
        first_pause: Seconds before the second try; each further pause is twice as long.
    """

    attempts: int = 5
    first_pause: float = 0.5


DEFAULT_RETRY = RetryPolicy()


class _MomentaryError(Exception):
    """Worth another try; the text says what happened."""


class _RefusedError(Exception):
    """The server will not take this one case; the text says why."""

    milliseconds = 0.0


@dataclass(frozen=True)
class ServedModel:
    """One model on one server.

    Args:
        base_url: The server's address, with or without ``/v1``.
        model: Name under which the server serves it.
        sampling: Fields of every request, such as ``max_tokens`` and ``temperature``.
        retry: For requests that failed for reasons of the moment.
        way: How cases are asked.
    """

    base_url: str
    model: str
    sampling: Mapping[str, Any]
    retry: RetryPolicy = DEFAULT_RETRY
    way: Way = "generate"

    @property
    def address(self) -> str:
        """Where chat completions are asked for."""
        return self.base_url.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"

    @property
    def manner(self) -> dict[str, Any]:
        """What, beside the case, decides an answer: part of the result's key."""
        return dict(self.sampling) if self.way == "generate" else {"way": self.way}

    async def ask(self, session: aiohttp.ClientSession, case: Case, key: str) -> CaseResult:
        """The case's result.

        Raises:
            BadInputError: The server does not serve the model, refuses the key, or cannot ask in this way.
            ServiceUnavailableError: It could not be reached, or kept failing.
        """
        try:
            outcome = await self._outcome(session, case)
        except _RefusedError as refusal:
            outcome = {"answer": "", "error": str(refusal), "latency_ms": refusal.milliseconds}
        return CaseResult.model_validate({**case.__dict__, "model": self.model, "key": key, **outcome})

    async def _outcome(self, session: aiohttp.ClientSession, case: Case) -> dict[str, Any]:
        if self.way == "generate":
            messages = [turn.__dict__ for turn in case.messages]
            return _answer(await self._post(session, case.id, {"messages": messages, **self.sampling}))
        texts = case.choices if self.way == "likelihood" else (case.expected,)
        if not texts:
            problem = Problem(f"case {case.id}, choices", "no value", "the answers to choose from")
            raise BadInputError("A case without choices cannot be asked by likelihood.", [problem])
        return await self._likelihoods(session, case, texts)

    async def _likelihoods(self, session: aiohttp.ClientSession, case: Case, texts: tuple[str, ...]) -> dict[str, Any]:
        """How likely each text is as the answer, under the model's own chat template.

        The server applies the template (vLLM's ``continue_final_message``), so that this way of asking has no template
        of its own to differ from production. The question alone tells how many tokens belong to it.
        """
        asked = [turn.__dict__ for turn in case.messages]
        shortest = {"max_tokens": 1, "temperature": 0}
        question = await self._post(session, case.id, {"messages": asked, **shortest})
        took = question[_TOOK]
        usage = question.get("usage") or {}
        before = usage.get("prompt_tokens")
        if not isinstance(before, int):
            raise self._cannot("usage.prompt_tokens")
        sums, counts = [], []
        for text in texts:
            body = {
                "messages": [*asked, {"role": "assistant", "content": text}],
                "add_generation_prompt": False,
                "continue_final_message": True,
                "prompt_logprobs": 0,
                **shortest,
            }
            completion = await self._post(session, case.id, body)
            took += completion[_TOOK]
            found = self._prompt_logprobs(completion)[before:]
            sums.append(sum(found))
            counts.append(len(found))
        answer = case.expected if self.way == "perplexity" else texts[_best(sums)]
        return {
            "answer": answer,
            "logprobs": sums,
            "tokens": counts,
            "prompt_tokens": before,
            "latency_ms": round(took, 3),
        }

    def _prompt_logprobs(self, completion: dict[str, Any]) -> list[float]:
        entries = completion.get("prompt_logprobs")
        if not isinstance(entries, list):
            raise self._cannot("prompt_logprobs")
        # The first entry of a token's mapping is the token of the prompt itself; the prompt's first has no entry.
        return [0.0 if entry is None else float(next(iter(entry.values()))["logprob"]) for entry in entries]

    def _cannot(self, field: str) -> BadInputError:
        problem = Problem(f"{self.address}, {field}", "no such field in the answer", "vLLM's prompt_logprobs")
        return BadInputError(
            "The server does not say how likely it finds a text. Ask by generation instead.", [problem]
        )

    async def _post(self, session: aiohttp.ClientSession, case: str, body: dict[str, Any]) -> dict[str, Any]:
        """One completion, with the milliseconds that it took; tries again what the moment broke."""
        pause = self.retry.first_pause
        for attempt in range(1, self.retry.attempts + 1):
            try:
                return await self._post_once(session, body)
            except (aiohttp.ClientError, TimeoutError, _MomentaryError) as error:
                reason = str(error) or type(error).__name__
                if attempt == self.retry.attempts:
                    break
            await asyncio.sleep(pause)
            pause *= 2
        raise ServiceUnavailableError(
            f"{self.address} did not answer case {case} in {self.retry.attempts} attempts: {reason}. "
            "Finished cases are kept; run again to go on."
        )

    async def _post_once(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        async with session.post(self.address, json={"model": self.model, **body}) as response:
            content = await response.read()
        took = (time.perf_counter() - start) * 1000
        try:
            return {**self._read(response.status, content), _TOOK: took}
        except _RefusedError as refusal:
            refusal.milliseconds = round(took, 3)
            raise

    def _read(self, status: int, body: bytes) -> dict[str, Any]:
        """The completion that a response holds."""
        if status == HTTPStatus.OK:
            return _completion(body)
        text = body.decode("utf-8", "replace")[:_TEXT_SHOWN]
        if status == HTTPStatus.NOT_FOUND:
            problem = Problem("model", repr(self.model), "a model that this server has loaded")
            raise BadInputError(f"{self.address} does not serve the model. It said: {text}", [problem])
        if status in _NO_ACCESS:
            problem = Problem("api_key", f"HTTP {status}", "a key that this server accepts")
            raise BadInputError(f"{self.address} refused the key.", [problem])
        if status in _TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _MomentaryError(f"HTTP {status}: {text}")
        raise _RefusedError(f"HTTP {status}: {text}")


def _completion(body: bytes) -> dict[str, Any]:
    try:
        completion: dict[str, Any] = json.loads(body)
        (completion["choices"][0]["message"]["content"] or "").encode("utf-8", "replace")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _MomentaryError("HTTP 200 with a body that is no chat completion") from error
    return completion


def _answer(completion: dict[str, Any]) -> dict[str, Any]:
    choice = completion["choices"][0]
    usage = completion.get("usage") or {}
    # Half a surrogate pair could not be written to the file.
    text = (choice["message"]["content"] or "").encode("utf-8", "replace").decode()
    return {
        "answer": text,
        "finish_reason": choice.get("finish_reason"),
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "latency_ms": round(completion[_TOOK], 3),
    }


def _best(sums: list[float]) -> int:
    return max(range(len(sums)), key=sums.__getitem__)
