"""Is this folder a base model? Said before a GPU is touched, not by a traceback from a container."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tollgate.errors import Problem


def base_model_problems(folder: Path) -> list[Problem]:
    """What keeps ``folder`` from being a base model in Hugging Face's layout; empty if nothing does.

    Looked for are ``config.json`` with an architecture for text generation, weights as safetensors (all shards that the
    index names), and a tokenizer with a chat template. No weight is read.
    """
    if not folder.is_dir():
        return [Problem("base_model", str(folder), "a folder with config.json, safetensors and a tokenizer")]
    return [*_config_problems(folder), *_weight_problems(folder), *_tokenizer_problems(folder)]


def _config_problems(folder: Path) -> Iterator[Problem]:
    path = folder / "config.json"
    config = _read(path)
    if config is None:
        yield Problem("base_model", f"no readable {path.name} in {folder}", "the model's config.json")
    elif not any(str(name).endswith("ForCausalLM") for name in config.get("architectures") or []):
        yield Problem(f"{path.name}, architectures", repr(config.get("architectures")), "a …ForCausalLM architecture")


def _weight_problems(folder: Path) -> Iterator[Problem]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(((_read(index) or {}).get("weight_map") or {}).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if not names or missing:
            yield Problem("base_model", f"missing {', '.join(missing) or 'shards'}", f"every shard of {index.name}")
    elif not (folder / "model.safetensors").is_file():
        yield Problem("base_model", f"no weights in {folder}", "model.safetensors, or its index and shards")


def _tokenizer_problems(folder: Path) -> Iterator[Problem]:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        yield Problem("base_model", f"no tokenizer in {folder}", "tokenizer.json or tokenizer.model")
    has_template = (folder / "chat_template.jinja").is_file() or (
        "chat_template" in (_read(folder / "tokenizer_config.json") or {})
    )
    if not has_template:
        yield Problem("base_model", f"no chat template in {folder}", "chat_template.jinja or tokenizer_config.json's")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
