"""Simulated users: they ask the gateway, compare the answer with the right one, and rate it.

Nobody is asked in the demo; every rating is computed from the answer's correctness, and is called simulated wherever
it is shown.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import aiohttp
from pydantic import BaseModel

from tollgate.errors import ServiceUnavailableError

RATING_RIGHT = (5,)
RATING_WRONG = (1, 2)
CONCURRENCY = 32


class Question(BaseModel):
    """A message that a user may send, with the answer that would be right."""

    system: str
    text: str
    right_answer: dict[str, Any]


class Visit(BaseModel):
    """What came of one simulated user's questions."""

    user: str
    variant: str | None = None
    version: str | None = None
    ratings: list[int] = []
    right: int = 0
    failed: int = 0
    seconds: list[float] = []


class Crowd(BaseModel):
    """A wave of simulated users.

    Attributes:
        route: The logical model name to ask.
        questions: What users may ask; each user draws without replacement.
        users: How many users come.
        first_user: Number of the first user, so that a second wave brings new people.
        questions_each: Questions a user asks.
        seed: Seed of the draws and of the ratings.
    """

    route: str
    questions: list[Question]
    users: int
    first_user: int = 0
    questions_each: int = 10
    seed: int = 0


def send_users(gateway: str, key: str, crowd: Crowd, on_visit: Callable[[Visit], None]) -> list[Visit]:
    """Let a crowd ask its questions at the gateway and rate the answers.

    Args:
        gateway: The gateway's address.
        key: Its API key; empty if it asks for none.
        crowd: Who comes and asks what.
        on_visit: Called after each user.

    Raises:
        ServiceUnavailableError: The gateway did not answer at all.
    """
    return asyncio.run(_send_users(gateway, key, crowd, on_visit))


async def _send_users(gateway: str, key: str, crowd: Crowd, on_visit: Callable[[Visit], None]) -> list[Visit]:
    places = asyncio.Semaphore(CONCURRENCY)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession(gateway, headers=headers, timeout=aiohttp.ClientTimeout(total=120)) as http:

        async def visit(number: int) -> Visit:
            async with places:
                draw = random.Random(f"{crowd.seed}/{number}")  # ruff: ignore[S311]
                done = Visit(user=f"simulated-{crowd.seed}-{number}")
                for question in draw.sample(crowd.questions, crowd.questions_each):
                    await _ask_and_rate(http, crowd.route, question, draw, done)
                on_visit(done)
                return done

        try:
            numbers = range(crowd.first_user, crowd.first_user + crowd.users)
            return list(await asyncio.gather(*map(visit, numbers)))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ServiceUnavailableError(f"The gateway at {gateway} did not answer: {error!r}") from error


async def _ask_and_rate(
    http: aiohttp.ClientSession, route: str, question: Question, draw: random.Random, visit: Visit
) -> None:
    started = asyncio.get_running_loop().time()
    body = {
        "model": route,
        "messages": [{"role": "system", "content": question.system}, {"role": "user", "content": question.text}],
        "temperature": 0,
        "max_tokens": 64,
    }
    async with http.post("/v1/chat/completions", json=body, headers={"X-Tollgate-User": visit.user}) as answer:
        if answer.status != 200:
            visit.failed += 1
            return
        content = await answer.json()
        request_id = answer.headers["x-tollgate-request-id"]
        visit.variant = answer.headers.get("x-tollgate-variant") or None
        visit.version = answer.headers.get("x-tollgate-version")
    visit.seconds.append(asyncio.get_running_loop().time() - started)
    right = _parsed(content["choices"][0]["message"]["content"]) == question.right_answer
    visit.right += right
    visit.ratings.append(draw.choice(RATING_RIGHT if right else RATING_WRONG))
    feedback = {"request_id": request_id, "rating": visit.ratings[-1]}
    async with http.post("/v1/feedback", json=feedback) as accepted:
        accepted.raise_for_status()


def _parsed(text: str | None) -> Any:
    try:
        return json.loads(text or "")
    except ValueError:
        return None
