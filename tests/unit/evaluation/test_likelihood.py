"""Asking how likely a text is, against a server whose log probabilities are known."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from tollgate.errors import BadInputError
from tollgate.evaluation.cases import Case, Message
from tollgate.evaluation.perplexity import perplexity
from tollgate.evaluation.runner import run_cases

LIKELY = "예"


class Likelihoods:
    """A token a character; the characters of ``LIKELY`` have the probability 1/2, all others 1/8."""

    def __init__(self) -> None:
        self.knows_logprobs = True
        self.requests: list[dict[str, Any]] = []
        self.address = ""

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        text = "".join(f"<{turn['role']}>{turn['content']}" for turn in body["messages"])
        if not body.get("continue_final_message"):
            text += "<assistant>"
        answer: dict[str, Any] = {
            "choices": [{"message": {"role": "assistant", "content": "?"}}],
            "usage": {"prompt_tokens": len(text)},
        }
        if "prompt_logprobs" in body and self.knows_logprobs:
            tokens: list[Any] = [None]
            tokens += [{str(ord(one)): {"logprob": math.log(0.5 if one in LIKELY else 0.125)}} for one in text[1:]]
            answer["prompt_logprobs"] = tokens
        return web.json_response(answer)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Likelihoods]:
    likelihoods = Likelihoods()
    application = web.Application()
    application.router.add_post("/v1/chat/completions", likelihoods.complete)
    async with TestServer(application) as running:
        likelihoods.address = str(running.make_url("/"))
        yield likelihoods


def case(expected: str, *choices: str) -> Case:
    return Case(id="c", messages=(Message(role="user", content="예?"),), expected=expected, choices=choices)


async def test_the_likeliest_choice_is_the_answer(server: Likelihoods) -> None:
    [result] = await run_cases(server.address, "m", [case("예", "아니오", "예")], way="likelihood")
    assert result.answer == "예"
    assert result.logprobs == pytest.approx((3 * math.log(0.125), math.log(0.5)))
    assert result.tokens == (3, 1), "the question's tokens do not count"
    assert result.latency_ms > 0
    asked = server.requests[1]
    assert (asked["continue_final_message"], asked["add_generation_prompt"]) == (True, False)
    assert asked["messages"][-1] == {"role": "assistant", "content": "아니오"}


async def test_the_perplexity_is_over_the_tokens_of_right_answers(server: Likelihoods) -> None:
    results = await run_cases(server.address, "m", [case("예아")], way="perplexity")
    found = perplexity(results)
    assert found is not None
    # exp(-(ln 1/2 + ln 1/8) / 2) = sqrt(16) = 4
    assert (found.value, found.tokens, found.cases) == (pytest.approx(4), 2, 1)
    assert perplexity([]) is None


async def test_a_server_without_likelihoods_is_named_and_not_retried(server: Likelihoods) -> None:
    server.knows_logprobs = False
    with pytest.raises(BadInputError, match="prompt_logprobs"):
        await run_cases(server.address, "m", [case("예", "아니오", "예")], way="likelihood")
    with pytest.raises(BadInputError, match="choices: found no value"):
        await run_cases(server.address, "m", [case("예")], way="likelihood")
