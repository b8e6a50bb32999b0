"""Whether a server can be asked by lm-evaluation-harness, and how long a prompt it takes."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from tollgate.errors import BadInputError, Problem, ServiceUnavailableError

DEFAULT_LENGTH = 2048
"""Tokens that a prompt may have where the server doesn't say: the harness' own default."""

_TIMEOUT = 120.0
_TEXT_SHOWN = 300
_DIRECT = "Ask without the harness: --through direct."


@dataclass(frozen=True)
class ServedAs:
    """What a server says about a model.

    Args:
        max_length: The longest prompt with its answer, in tokens.
        folder: The model's folder, or that of the model an adapter stands on, where it is on this machine.
    """

    max_length: int = DEFAULT_LENGTH
    folder: Path | None = None


def address_of(server: str) -> str:
    """The server's address without ``/v1``."""
    return server.rstrip("/").removesuffix("/v1")


def look_at_server(server: str, model: str, api_key: str | None = None) -> ServedAs:
    """See that a server gives the log probabilities of a prompt's tokens, before anything is asked.

    Args:
        server: Its address, with or without ``/v1``.
        model: Name that it serves the model under.
        api_key: Sent as bearer token.

    Raises:
        BadInputError: It does not serve the model, refuses the key, or gives no such probabilities.
        ServiceUnavailableError: It cannot be reached, or failed.
    """
    address = address_of(server)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        with httpx.Client(base_url=address, headers=headers, timeout=_TIMEOUT, trust_env=False) as client:
            asked = {"model": model, "prompt": "1 + 1 = 2", "max_tokens": 1, "temperature": 0, "logprobs": 1}
            answer = client.post("/v1/completions", json={**asked, "echo": True})
            _check(f"{address}/v1/completions", model, answer)
            models = client.get("/v1/models")
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise ServiceUnavailableError(f"{address} cannot be reached: {reason}. Run again to go on.") from error
    return _served_as(models, model)


def _check(where: str, model: str, answer: httpx.Response) -> None:
    text = answer.text[:_TEXT_SHOWN]
    if answer.status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        problem = Problem("api_key", f"HTTP {answer.status_code}", "a key that this server accepts")
        raise BadInputError(f"{where} refused the key.", [problem])
    if answer.status_code == HTTPStatus.NOT_FOUND:
        problem = Problem("model", repr(model), "a completions server that has this model loaded")
        raise BadInputError(f"{where} does not serve the model. It said: {text}", [problem])
    if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise ServiceUnavailableError(f"{where} failed with HTTP {answer.status_code}: {text}. Run again to go on.")
    try:
        found = answer.json()["choices"][0]["logprobs"]["token_logprobs"]
        # The prompt's first token has none, the generated one would be there without echo.
        good = len(found) > 2 and all(isinstance(value, float | int) for value in found[1:])
    except (ValueError, LookupError, TypeError):
        good = False
    if not good:
        found_instead = f"HTTP {answer.status_code} without choices[0].logprobs.token_logprobs of the prompt"
        problem = Problem(where, found_instead, "the prompt's log probabilities (echo and logprobs, as vLLM has them)")
        raise BadInputError(f"The server does not say how likely it finds a prompt. {_DIRECT}", [problem])


def _served_as(models: httpx.Response, model: str) -> ServedAs:
    try:
        cards: dict[str, dict[str, Any]] = {card["id"]: card for card in models.json()["data"]}
        card = cards[model]
    except (ValueError, LookupError, TypeError):
        return ServedAs()
    base = cards.get(card.get("parent") or "", card)
    folder = Path(base.get("root") or "")
    length = card.get("max_model_len") or base.get("max_model_len")
    return ServedAs(
        length if isinstance(length, int) else DEFAULT_LENGTH,
        folder if folder.is_absolute() and folder.is_dir() else None,
    )
