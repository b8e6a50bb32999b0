"""The shape of a base model from ``config.json`` and the headers of its safetensors files; no weight is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from tollgate.errors import BadInputError, Problem

HEADER_LIMIT = 100 * 2**20
"""Largest header that safetensors allows, in bytes."""

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.(?P<module>.+)\.weight$")
_OUTPUT = "lm_head.weight"


class UnknownShapeError(BadInputError):
    """The configuration names its sizes in another way than Llama; the model may be trained all the same."""


@dataclass(frozen=True)
class Linear:
    """A linear layer of a decoder block: its module's name, the width that goes in and the one that comes out."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder-only language model.

    Args:
        architecture: For example ``Qwen3ForCausalLM``.
        layers: Decoder blocks.
        hidden: Width of the residual stream.
        query: Width of all query heads together.
        key_value: Width of all key (or value) heads together.
        heads: Query heads.
        key_value_heads: Key and value heads.
        intermediate: Width inside the MLP; with experts, of those that one token meets together.
        vocabulary: Tokens of the vocabulary.
        positions: Longest text that the model is made for; None where its configuration does not say.
        tied: Whether the output layer shares the embedding's weights.
        parameters: All of them, shared ones once.
        linear: Linear layers of all blocks, those that an adapter or 4 bits can reach; no experts.
        idle: Parameters of experts that one token does not meet.
    """

    architecture: str
    layers: int
    hidden: int
    query: int
    key_value: int
    heads: int
    key_value_heads: int
    intermediate: int
    vocabulary: int
    positions: int | None
    tied: bool
    parameters: int
    linear: tuple[Linear, ...]
    idle: int = 0

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear layers of all blocks."""
        return sum(layer.inputs * layer.outputs for layer in self.linear)

    @property
    def multiplied(self) -> int:
        """Parameters that every token is multiplied with: all but the embedding and experts it does not meet."""
        embedding = 0 if self.tied else self.vocabulary * self.hidden
        return self.parameters - embedding - self.idle

    @property
    def signature(self) -> str:
        """Equal for bases of the same shape, whatever their weights."""
        sizes = (self.layers, self.hidden, self.query, self.key_value, self.intermediate, self.vocabulary)
        return f"{self.architecture}-{'x'.join(map(str, sizes))}-{self.parameters}"

    def targets(self, wanted: str | Sequence[str]) -> list[Linear]:
        """The linear layers that get an adapter, by PEFT's rules.

        Args:
            wanted: ``all-linear``; a pattern that a module's whole name must match; or names, of which one must be the
                module's name or its end.
        """
        if wanted == "all-linear":
            return list(self.linear)
        if isinstance(wanted, str):
            return [layer for layer in self.linear if re.fullmatch(wanted, layer.name)]
        return [
            layer
            for layer in self.linear
            if any(layer.name == name or layer.name.endswith(f".{name}") for name in wanted)
        ]

    def adapter_parameters(self, rank: int, wanted: str | Sequence[str]) -> int:
        """Parameters of an adapter: ``rank`` x (inputs + outputs) for each layer (Hu et al. 2021, arXiv:2106.09685)."""
        return sum(rank * (layer.inputs + layer.outputs) for layer in self.targets(wanted))


def read_shape(folder: Path) -> ModelShape:
    """Read the shape of the base model in ``folder``.

    Args:
        folder: ``config.json`` and safetensors files in Hugging Face's layout; Llama's names of sizes and layers, which
            Qwen, Mistral, Gemma and most others share.

    Raises:
        UnknownShapeError: The configuration lacks a size, or has it under another name.
        BadInputError: A file is missing or is not what it should be.
    """
    config = _config(folder / "config.json")
    sizes = config.get("text_config") or config  # multimodal models keep the language model's sizes one level down
    _require(folder, sizes)
    tensors = {name: shape for file in _weight_files(folder) for name, shape in _header(file)}
    tied = bool(sizes.get("tie_word_embeddings", config.get("tie_word_embeddings", False)))
    if tied:
        tensors.pop(_OUTPUT, None)
    return _shape(config, sizes, tensors, tied)


def _shape(config: dict[str, Any], sizes: dict[str, Any], tensors: dict[str, list[int]], tied: bool) -> ModelShape:
    heads = sizes["num_attention_heads"]
    width = sizes.get("head_dim") or sizes["hidden_size"] // heads
    key_value_heads = sizes.get("num_key_value_heads") or heads
    experts = sizes.get("num_experts") or sizes.get("num_local_experts") or 0
    met = sizes.get("num_experts_per_tok") or experts
    of_experts = sum(prod(shape) for name, shape in tensors.items() if ".experts." in name)
    inner = sizes.get("moe_intermediate_size") if experts else None
    return ModelShape(
        architecture=str((config.get("architectures") or ["unknown"])[0]),
        layers=sizes["num_hidden_layers"],
        hidden=sizes["hidden_size"],
        query=heads * width,
        key_value=key_value_heads * width,
        heads=heads,
        key_value_heads=key_value_heads,
        intermediate=(inner or sizes["intermediate_size"]) * max(met, 1),
        vocabulary=sizes["vocab_size"],
        positions=sizes.get("max_position_embeddings"),
        tied=tied,
        parameters=sum(prod(shape) for shape in tensors.values()),
        linear=tuple(_linear(tensors)),
        idle=round(of_experts * (1 - met / experts)) if experts else 0,
    )


def _linear(tensors: dict[str, list[int]]) -> Iterator[Linear]:
    for name, shape in tensors.items():
        if len(shape) == 2 and _LAYER.search(name) and ".experts." not in name:
            yield Linear(name.removesuffix(".weight"), inputs=shape[1], outputs=shape[0])


def _require(folder: Path, sizes: dict[str, Any]) -> None:
    needed = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
    problems = [
        Problem(f"{folder / 'config.json'}, {name}", repr(sizes.get(name)), "a whole number above 0")
        for name in needed
        if not isinstance(sizes.get(name), int) or sizes[name] < 1
    ]
    if problems:
        raise UnknownShapeError("The base model's configuration lacks sizes.", problems)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _wrong("base_model", f"no readable {path}", "the model's config.json") from error
    if not isinstance(config, dict):
        raise _wrong("base_model", f"{path} with {type(config).__name__}", "a JSON object")
    return config


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise _wrong("base_model", f"unreadable {index}", "the index of the shards") from error
    return [folder / name for name in sorted(names)]


def _header(path: Path) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of a file's tensors: 8 bytes of length, JSON, data (the safetensors format)."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= HEADER_LIMIT:
                raise _wrong("base_model", f"{path} with a header of {length} bytes", "a safetensors file")
            table: dict[str, Any] = json.loads(stream.read(length))
        table.pop("__metadata__", None)
        found = [(name, list(map(int, entry["shape"]))) for name, entry in table.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, BadInputError):
            raise
        raise _wrong("base_model", f"unreadable {path}", "a safetensors file") from error
    yield from found


def _wrong(where: str, value: str, expected: str) -> BadInputError:
    return BadInputError("The base model cannot be read.", [Problem(where, value, expected)])
