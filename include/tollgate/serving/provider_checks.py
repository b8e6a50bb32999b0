"""Whether providers can be reached, accept their key and have their model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp

from tollgate.serving.providers import Endpoint

_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Check:
    """One address of one provider. ``text`` says what was found, without a word that the provider sent."""

    provider: str
    address: str
    ok: bool
    milliseconds: float
    text: str


async def check_all(endpoints: Sequence[Endpoint], ask: bool) -> list[Check]:
    """Check every address, all at the same time.

    Args:
        endpoints: Providers ready for use.
        ask: Whether to ask each provider's model for one token; providers without a model of their own are asked for
            their list of models only.
    """
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        pairs = [(endpoint, address) for endpoint in endpoints for address in endpoint.addresses]
        return await asyncio.gather(*(_check(http, endpoint, address, ask) for endpoint, address in pairs))


async def _check(http: aiohttp.ClientSession, endpoint: Endpoint, address: str, ask: bool) -> Check:
    began = time.perf_counter()
    try:
        ok, text = await _look(http, endpoint, address, ask)
    except TimeoutError:
        ok, text = False, f"no answer within {_SECONDS:g} s"
    except aiohttp.ClientConnectorError as error:
        ok, text = False, f"no connection: {error.os_error.strerror or type(error.os_error).__name__}"
    except aiohttp.ClientError as error:
        ok, text = False, f"no answer: {type(error).__name__}"
    return Check(endpoint.name, address, ok, 1000 * (time.perf_counter() - began), text)


async def _look(http: aiohttp.ClientSession, endpoint: Endpoint, address: str, ask: bool) -> tuple[bool, str]:
    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    if ask and endpoint.model:
        body = {"model": endpoint.model, "messages": [{"role": "user", "content": "."}], "max_tokens": 1}
        url = f"{address}/v1/chat/completions"
        async with http.post(url, json=body, headers=headers, allow_redirects=False) as response:
            return _judge(response.status, f"{endpoint.model} answers")
    async with http.get(f"{address}/v1/models", headers=headers, allow_redirects=False) as response:
        ok, text = _judge(response.status, "")
        return (ok, _models(await response.json(content_type=None))) if ok else (ok, text)


def _judge(status: int, good: str) -> tuple[bool, str]:
    if status == HTTPStatus.OK:
        return True, good
    meanings = {401: "the key is missing or wrong", 403: "the key may not do this", 404: "no such address or model"}
    return False, f"HTTP {status}" + (f", {meanings[status]}" if status in meanings else "")


def _models(content: Any) -> str:
    cards = content.get("data") if isinstance(content, dict) else None
    if not isinstance(cards, list):
        return "answers, without a list of models"
    return f"{len(cards)} models"
