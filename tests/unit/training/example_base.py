"""A base model's folder in Hugging Face's layout, without weights worth the name."""

from __future__ import annotations

import json
from pathlib import Path

from tests.unit.serving.fake_vllm import write_base


def write_base_model(folder: Path) -> Path:
    config = json.loads((write_base(folder) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["Qwen3ForCausalLM"]}))
    for name in ("model.safetensors", "tokenizer.json", "chat_template.jinja"):
        (folder / name).touch()
    return folder
