"""A client of vLLM's replicas: what they serve, loading and unloading adapters, and asking a few known questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from tollgate.errors import BadInputError, Problem, ServiceUnavailableError, TollgateError
from tollgate.registry import signatures
from tollgate.serving.adapter import (
    AdapterDamagedError,
    AdapterMissingError,
    AdapterRankError,
    WrongBaseError,
    check_adapter,
)
from tollgate.serving.probes import Probe, ProbeFailedError, Prompt, check_answers, question_of
from tollgate.settings import settings

__all__ = [
    "AdapterNameTakenError",
    "ProbeFailedError",
    "Prompt",
    "Replica",
    "ServedModel",
    "VllmClient",
    "check_adapter",
]

Result = TypeVar("Result")

# What vLLM 0.32 writes into the text of its 500s; its status and type are the same for all of them.
_SERVER_WORDS: tuple[tuple[str, type[BadInputError]], ...] = (
    ("is greater than max_lora_rank", AdapterRankError),
    ("The size of tensor", WrongBaseError),
    ("is not supported by the model", WrongBaseError),
    ("while deserializing", AdapterDamagedError),
)
_NOT_FINITE = "Out of range float values"


class AdapterNameTakenError(BadInputError):
    """The name already stands for another adapter, or for the base. Names are never given twice."""


@dataclass(frozen=True)
class ServedModel:
    """One model that a replica serves.

    Args:
        name: What requests call it.
        root: Folder it was loaded from.
        is_adapter: False for the base model.
    """

    name: str
    root: str
    is_adapter: bool


class Replica:
    """One vLLM server.

    Args:
        address: Base address without a slash at the end.
        http: The connection pool, shared by all replicas of a client.
    """

    def __init__(self, address: str, http: httpx.Client) -> None:
        self.address = address
        self._http = http

    def health(self) -> None:
        """Return when the server says that its engine is alive.

        Raises:
            ServiceUnavailableError: It does not.
        """
        response = self._request("GET", "/health")
        if response.status_code != HTTPStatus.OK:
            raise ServiceUnavailableError(f"vLLM at {self.address} is not healthy: status {response.status_code}.")

    def list_models(self) -> dict[str, ServedModel]:
        """Everything that is served, by name."""
        response = self._request("GET", "/v1/models")
        if response.status_code != HTTPStatus.OK:
            raise ServiceUnavailableError(f"vLLM at {self.address} does not list its models: {_text(response)}")
        return {
            entry["id"]: ServedModel(entry["id"], str(entry.get("root") or ""), entry.get("parent") is not None)
            for entry in response.json()["data"]
        }

    def load_adapter(self, name: str, path: Path) -> bool:
        """Load an adapter, as it is, unless it is there already; ``VllmClient.load_adapter`` looks at its files first.

        Returns:
            True if it was loaded now.

        Raises:
            AdapterNameTakenError: The name stands for something else.
            AdapterMissingError: The server finds no adapter in the folder.
            BadInputError: The server refuses the adapter (rank, shapes, damage); its typed subclasses say which.
        """
        if self.holds(name, path):
            return False
        response = self._request("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})
        if response.status_code == HTTPStatus.OK:
            return True
        # Somebody else may have loaded it since.
        if response.status_code == HTTPStatus.BAD_REQUEST and self.holds(name, path):
            return False
        raise self._refusal(name, path, response)

    def unload_adapter(self, name: str) -> bool:
        """Unload an adapter; one that is not loaded is fine.

        Returns:
            True if it was loaded until now.
        """
        response = self._request("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        if response.status_code == HTTPStatus.OK:
            return True
        if response.status_code == HTTPStatus.NOT_FOUND and "cannot be found" in _text(response):
            return False
        raise self._refusal(name, None, response)

    def probe(self, name: str, prompt: Prompt, max_tokens: int) -> str:
        """Ask one question and return the answer.

        Raises:
            ProbeFailedError: The answer is empty, or its probabilities are NaN. The status says 200 in both cases,
                unless the probabilities are asked for.
        """
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        body = {"model": name, "messages": messages, "max_tokens": max_tokens, "temperature": 0, "logprobs": True}
        response = self._request("POST", "/v1/chat/completions", body)
        if response.status_code == HTTPStatus.OK:
            answer = str(response.json()["choices"][0]["message"]["content"] or "")
            if answer.strip():
                return answer
            raise ProbeFailedError(f"{name} at {self.address} answers a probe with empty text.")
        if _NOT_FINITE in _text(response):
            raise ProbeFailedError(
                f"{name} at {self.address} computes NaN. The server's cache may hold NaN for other models too now: "
                "unload the adapter and restart that server."
            )
        if response.status_code == HTTPStatus.NOT_FOUND:
            raise BadInputError(
                "A model that is not loaded cannot be probed.", [Problem(self.address, name, "a loaded model")]
            )
        if response.status_code == HTTPStatus.BAD_REQUEST:
            raise BadInputError(
                "The probe's question cannot be asked.",
                [Problem(f"{name} at {self.address}", _text(response), "a chat that fits the model")],
            )
        raise ServiceUnavailableError(f"{name} at {self.address} failed on a probe: {_text(response)}")

    def holds(self, name: str, path: Path) -> bool:
        """Whether the adapter is loaded under that name.

        Raises:
            AdapterNameTakenError: The name stands for something else.
        """
        served = self.list_models().get(name)
        if served is None:
            return False
        if served.is_adapter and Path(served.root) == path:
            return True
        raise AdapterNameTakenError(
            "An adapter's name is never given twice.",
            [Problem(f"{name} at {self.address}", served.root, f"{path}, or a name of its own")],
        )

    def serves(self, name: str, path: Path) -> bool:
        """Whether the server was started with these full weights under that name.

        Raises:
            AdapterNameTakenError: The name stands for something else.
        """
        served = self.list_models().get(name)
        if served is None:
            return False
        if not served.is_adapter and Path(served.root) == path:
            return True
        raise AdapterNameTakenError(
            "A version's name is never given twice.",
            [Problem(f"{name} at {self.address}", served.root, f"{path}, or a name of its own")],
        )

    def _refusal(self, name: str, path: Path | None, response: httpx.Response) -> TollgateError:
        text = _text(response)
        where = f"{name} at {self.address}"
        if response.status_code in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED} and "adapter" not in text:
            return BadInputError(
                "vLLM does not take adapters at run time.",
                [Problem(self.address, text, "a server with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True")],
            )
        if response.status_code == HTTPStatus.NOT_FOUND:
            problem = Problem(where, f"no adapter in {path}", "a folder that the server can read too")
            return AdapterMissingError("vLLM does not find the adapter.", [problem])
        for words, error in _SERVER_WORDS:
            if words in text:
                return error("vLLM refuses the adapter.", [Problem(where, text, "an adapter that fits its base")])
        if response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR or "add_lora" in text:
            return BadInputError("vLLM refuses the adapter.", [Problem(where, text, "an adapter it can load")])
        return ServiceUnavailableError(f"vLLM failed on {where}: {text}")

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            return self._http.request(method, self.address + path, json=body)
        except httpx.TransportError as error:
            problem = str(error) or type(error).__name__
            raise ServiceUnavailableError(f"vLLM at {self.address} did not answer: {problem}") from error


class VllmClient:
    """All replicas together: what is done is done on every one of them.

    A replica that is down does not keep the others from being served first; then ``ServiceUnavailableError`` names it.

    Args:
        addresses: Base addresses; by default those of the settings.
        timeout: Seconds that one request may take.
        base_model: Folder of the base model that the replicas serve; by default that of the settings.
        max_rank: Largest adapter rank that the replicas accept; by default that of the settings.
        signed: Whether a model's files must carry a valid signature; by default as the settings have it.
    """

    def __init__(
        self,
        addresses: Sequence[str] | None = None,
        timeout: float = 60.0,
        base_model: Path | None = None,
        max_rank: int | None = None,
        signed: bool | None = None,
    ) -> None:
        self._base_model = base_model or settings().served_base_model
        self._max_rank = max_rank or settings().max_lora_rank
        self._signed = signatures.required() if signed is None else signed
        self._http = httpx.Client(timeout=httpx.Timeout(timeout, connect=5.0), trust_env=False)
        self.replicas = [Replica(address, self._http) for address in addresses or settings().vllm_addresses]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def health(self) -> None:
        """Return when every replica is healthy.

        Raises:
            ServiceUnavailableError: At least one is not.
        """
        self._everywhere(Replica.health)

    def list_models(self) -> dict[str, ServedModel]:
        """What every replica serves, by name; something that one of them lacks is left out."""
        first, *others = self._everywhere(Replica.list_models)
        return {name: model for name, model in first.items() if all(name in other for other in others)}

    def load_adapter(self, name: str, path: Path, digest: str | None = None) -> bool:
        """Load an adapter on every replica that lacks it, after its signature and its files were checked.

        Args:
            name: The immutable name, for example ``highway-router@v3``.
            path: Its folder, the same on the server's machine.
            digest: The digest that the registry keeps of its signed manifest, where there is one.

        Returns:
            True if at least one replica loaded it now.

        Raises:
            AdapterNameTakenError: The name stands for another folder.
            SignatureMismatchError: Its files are not those that were signed; ``ModelUnsignedError``: none were.
            BadInputError: The files or a replica rule it out; ``check_adapter`` lists the typed subclasses.
            ServiceUnavailableError: A replica did not answer; the others have loaded it.
        """
        return any(self._everywhere(lambda replica: self.load_on(replica, name, path, digest)))

    def load_on(self, replica: Replica, name: str, path: Path, digest: str | None = None) -> bool:
        """``load_adapter`` on one replica only."""
        if replica.holds(name, path):
            return False
        if self._signed:
            signatures.verify(path, digest)
        check_adapter(path, self._base_model, self._max_rank)
        return replica.load_adapter(name, path)

    def unload_adapter(self, name: str) -> bool:
        """Unload an adapter on every replica that has it. True if at least one had it.

        Raises:
            ServiceUnavailableError: A replica did not answer; the others have unloaded it.
        """
        return any(self._everywhere(lambda replica: replica.unload_adapter(name)))

    def probe(self, name: str, probes: Sequence[Probe], max_tokens: int = 16) -> dict[str, list[str]]:
        """Ask every replica every question and look at what the answers hold: status codes say nothing here.

        Args:
            name: A loaded model.
            probes: Questions that a working model answers with at least one visible token, or whose answer is known.
            max_tokens: Longest answer.

        Returns:
            The answers in the order of the questions, by the replica's address.

        Raises:
            ProbeFailedError: An answer is empty or made of NaN, or too many are not the known ones.
            BadInputError: No questions, one that cannot be asked, or a model that is not loaded.
            ServiceUnavailableError: A replica did not answer.
        """
        answers = self._everywhere(lambda replica: self.probe_on(replica, name, probes, max_tokens))
        return dict(zip([replica.address for replica in self.replicas], answers, strict=True))

    def probe_on(self, replica: Replica, name: str, probes: Sequence[Probe], max_tokens: int = 16) -> list[str]:
        """``probe`` on one replica only."""
        if not probes:
            raise BadInputError("A probe needs at least one question.", [Problem("prompts", "none", "one or more")])
        answers = [replica.probe(name, question_of(probe), max_tokens) for probe in probes]
        check_answers(name, replica.address, probes, answers)
        return answers

    def _everywhere(self, action: Callable[[Replica], Result]) -> list[Result]:
        results, down = [], []
        for replica in self.replicas:
            try:
                results.append(action(replica))
            except ServiceUnavailableError as error:
                down.append(str(error))
        if down:
            raise ServiceUnavailableError(" ".join(down))
        return results


def _text(response: httpx.Response) -> str:
    """The server's own words about an error, shortened."""
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text
    return f"status {response.status_code}, {str(message)[:300]}"
