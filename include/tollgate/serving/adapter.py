"""What can be known about a LoRA adapter from its files, before any server is asked to load it.

vLLM 0.32 answers 500 for an adapter whose rank is too big or whose shapes fit another base, loads one of a deeper base
without a word, and serves one full of NaN with status 200 and empty answers. Worse, a single question to an adapter
full of NaN leaves NaN in the server's key-value cache, and other models answer nonsense from those blocks until the
server is restarted. So the files are read first, every time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tollgate.errors import BadInputError, Problem

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_HEADER_LIMIT = 100 * 2**20
_CHUNK = 64 * 2**20
# What vllm.lora.peft_helper refuses, here before a server has to.
_UNSUPPORTED = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "alora_invocation_tokens",
    "layer_replication",
    "use_bdlora",
    "use_qalora",
)
_BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq")
# Bits of the exponent, and the exponents from 65,536 up, where infinity and NaN are too (IEEE 754, bfloat16).
_EXPONENTS = {
    "F16": (np.uint16, 0x7C00, 0x7C00),
    "BF16": (np.uint16, 0x7F80, 0x4780),
    "F32": (np.uint32, 0x7F800000, 0x47800000),
}
_TENSOR = re.compile(r"\.layers\.(?P<layer>\d+)\.(?:.*\.)?(?P<module>\w+)\.lora_(?P<side>[AB])\.weight$")


class AdapterMissingError(BadInputError):
    """The adapter's folder or one of its files is not there."""


class AdapterDamagedError(BadInputError):
    """The adapter's files are half-copied or unreadable, or hold values that are no usable numbers."""


class AdapterUnsupportedError(BadInputError):
    """The adapter is whole, but of a kind that vLLM cannot serve."""


class AdapterRankError(BadInputError):
    """The adapter's rank is larger than vLLM was started for."""


class WrongBaseError(BadInputError):
    """The adapter was trained on another base model than the one that is served."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a safetensors file.

    Args:
        name: Its name in the file.
        dtype: The file's word for its type, for example ``BF16``.
        shape: Its shape.
        start: Where its bytes begin, counted from the start of the file.
        size: How many bytes it has.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class Adapter:
    """What an adapter's files say.

    Args:
        path: Its folder.
        base_model: The base it was trained on, as its configuration names it.
        rank: Its largest rank, over all layers.
    """

    path: Path
    base_model: str
    rank: int


def check_adapter(adapter_path: Path, base_model_path: Path, max_rank: int) -> Adapter:
    """Read an adapter's configuration and weights and compare them with the base model that is served.

    Args:
        adapter_path: Folder with ``adapter_config.json`` and ``adapter_model.safetensors`` as PEFT writes them.
        base_model_path: Folder of the base model that vLLM serves, with its ``config.json``.
        max_rank: The ``--max-lora-rank`` of vLLM.

    Returns:
        What the files say; an adapter that comes back can be loaded.

    Raises:
        AdapterMissingError: The folder or a file is not there.
        AdapterDamagedError: A file cannot be read, is cut, or has values that are no usable numbers.
        AdapterUnsupportedError: vLLM cannot serve this kind of adapter (DoRA, trained biases, whole modules).
        AdapterRankError: The rank is above ``max_rank``.
        WrongBaseError: Its name of the base, its layers or its shapes are not those of ``base_model_path``.
    """
    configuration = _configuration(adapter_path / CONFIG_FILE, AdapterMissingError, AdapterDamagedError)
    _check_kind(adapter_path, configuration)
    tensors = read_header(adapter_path / WEIGHTS_FILE)
    rank = _check_rank(adapter_path, configuration, max_rank)
    base_name = str(configuration.get("base_model_name_or_path") or "")
    _check_base(adapter_path, base_name, base_model_path, tensors)
    _check_values(adapter_path / WEIGHTS_FILE, tensors)
    return Adapter(path=adapter_path, base_model=base_name, rank=rank)


def read_header(file: Path) -> list[Tensor]:
    """Read the table of tensors of a safetensors file: 8 bytes of length, then JSON, then the data.

    Raises:
        AdapterMissingError: There is no such file.
        AdapterDamagedError: The file has no such header, or is shorter or longer than its header says.
    """
    if not file.is_file():
        raise AdapterMissingError(
            "The adapter is not complete.", [Problem(str(file), "no file", "weights in safetensors form")]
        )
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(_HEADER_LIMIT, size - 8):
                raise _damaged(file, f"a header of {length} bytes in a file of {size}", "a whole safetensors file")
            table: dict[str, Any] = json.loads(stream.read(length))
        table.pop("__metadata__", None)
        tensors = [_tensor(name, entry, 8 + length) for name, entry in table.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(file, type(error).__name__, "a safetensors header") from error
    end = max((tensor.start + tensor.size for tensor in tensors), default=8 + length)
    if end != size:
        raise _damaged(file, f"{size} bytes", f"the {end} bytes that its header announces")
    return tensors


def _tensor(name: str, entry: dict[str, Any], data_start: int) -> Tensor:
    begin, end = entry["data_offsets"]
    return Tensor(name, entry["dtype"], tuple(entry["shape"]), data_start + begin, end - begin)


def _damaged(file: Path, value: str, expected: str) -> AdapterDamagedError:
    return AdapterDamagedError("The adapter's files are damaged.", [Problem(str(file), value, expected)])


def _configuration(file: Path, missing: type[BadInputError], damaged: type[BadInputError]) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise missing(f"{file} is missing.", [Problem(str(file.parent), "no such file", file.name)]) from error
    except (ValueError, OSError) as error:
        raise damaged(f"{file} cannot be read.", [Problem(str(file), type(error).__name__, "JSON in UTF-8")]) from error
    if not isinstance(content, dict):
        raise damaged(f"{file} cannot be used.", [Problem(str(file), type(content).__name__, "a JSON object")])
    return content


def _check_kind(path: Path, configuration: dict[str, Any]) -> None:
    where = path / CONFIG_FILE
    problems = [
        Problem(f"{where}, {field}", repr(configuration[field]), "nothing: vLLM does not support it")
        for field in _UNSUPPORTED
        if configuration.get(field)
    ]
    if configuration.get("peft_type") != "LORA":
        problems.append(Problem(f"{where}, peft_type", repr(configuration.get("peft_type")), "'LORA'"))
    if configuration.get("bias", "none") != "none":
        problems.append(Problem(f"{where}, bias", repr(configuration["bias"]), "'none'"))
    if str(configuration.get("init_lora_weights")).lower() in _BASE_CHANGING_INITS:
        found = repr(configuration["init_lora_weights"])
        problems.append(Problem(f"{where}, init_lora_weights", found, "an adapter converted to plain LoRA"))
    if problems:
        raise AdapterUnsupportedError("vLLM cannot serve this kind of adapter.", problems)


def _check_rank(path: Path, configuration: dict[str, Any], max_rank: int) -> int:
    where = f"{path / CONFIG_FILE}, r"
    pattern = configuration.get("rank_pattern")
    ranks = [configuration.get("r"), *(pattern.values() if isinstance(pattern, dict) else [])]
    if not all(isinstance(rank, int) and rank > 0 for rank in ranks):
        raise AdapterDamagedError(
            "The adapter's rank cannot be read.", [Problem(where, repr(ranks[0]), "a whole number above 0")]
        )
    rank = max(ranks)
    if rank > max_rank:
        raise AdapterRankError(
            "The adapter's rank is too big for the server.",
            [Problem(where, str(rank), f"at most {max_rank} (setting TOLLGATE_MAX_LORA_RANK)")],
        )
    return rank


def _check_base(path: Path, base_name: str, base_model_path: Path, tensors: Iterable[Tensor]) -> None:
    base = _configuration(base_model_path / "config.json", BadInputError, BadInputError)
    problems = [*_name_problems(path, base_name, base_model_path), *_shape_problems(path, base, tensors)]
    if problems:
        raise WrongBaseError(f"The adapter does not belong to the base model {base_model_path.name}.", problems[:5])


def _name_problems(path: Path, base_name: str, base_model_path: Path) -> Iterator[Problem]:
    # A base may have been moved, or be known by its hub name: the last part of the name must agree.
    trained_on = Path(base_name)
    if base_name and trained_on.name != base_model_path.name and trained_on.resolve() != base_model_path.resolve():
        yield Problem(f"{path / CONFIG_FILE}, base_model_name_or_path", base_name, str(base_model_path))


def _shape_problems(path: Path, base: dict[str, Any], tensors: Iterable[Tensor]) -> Iterator[Problem]:
    # Multimodal models keep the language model's sizes one level down.
    sizes = _module_sizes(base.get("text_config") or base)
    layers = (base.get("text_config") or base).get("num_hidden_layers")
    for tensor in tensors:
        match = _TENSOR.search(tensor.name)
        if not match:
            continue
        where = f"{path / WEIGHTS_FILE}, {tensor.name}"
        if isinstance(layers, int) and int(match["layer"]) >= layers:
            yield Problem(where, f"layer {match['layer']}", f"layers 0 to {layers - 1}")
        axis = 1 if match["side"] == "A" else 0
        expected = sizes.get((match["module"], match["side"]))
        if expected is not None and len(tensor.shape) == 2 and tensor.shape[axis] != expected:
            yield Problem(where, f"shape {list(tensor.shape)}", f"{expected} in place {axis}")


def _module_sizes(base: dict[str, Any]) -> dict[tuple[str, str], int]:
    """Inputs (side A) and outputs (side B) of a decoder's linear layers, by the names of Llama, Qwen and Gemma."""
    hidden, inner, heads = (base.get(key) for key in ("hidden_size", "intermediate_size", "num_attention_heads"))
    if not (isinstance(hidden, int) and isinstance(inner, int) and isinstance(heads, int)):
        return {}
    head = base.get("head_dim") or hidden // heads
    query, key = heads * head, (base.get("num_key_value_heads") or heads) * head
    modules = {
        "q_proj": (hidden, query),
        "k_proj": (hidden, key),
        "v_proj": (hidden, key),
        "o_proj": (query, hidden),
    }
    if not any("expert" in name for name in base):  # experts have sizes of their own
        modules |= {"gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden)}
    return {(name, side): size for name, sizes in modules.items() for side, size in zip("AB", sizes, strict=True)}


def _check_values(file: Path, tensors: Iterable[Tensor]) -> None:
    with file.open("rb") as stream:
        for tensor in tensors:
            if tensor.dtype in _EXPONENTS and not _usable(stream, tensor):
                raise AdapterDamagedError(
                    "The adapter's weights are not usable; its training diverged.",
                    [Problem(f"{file}, {tensor.name}", "NaN, infinity or above 65,504", "numbers of ordinary size")],
                )


def _usable(stream: BinaryIO, tensor: Tensor) -> bool:
    """Whether every value is a number that half precision could hold too."""
    unsigned, exponent, limit = _EXPONENTS[tensor.dtype]
    stream.seek(tensor.start)
    left = tensor.size
    while left > 0:
        part = stream.read(min(_CHUNK, left))
        if np.any((np.frombuffer(part, unsigned) & exponent) >= limit):
            return False
        left -= len(part)
    return True
