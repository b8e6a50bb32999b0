"""A base model's folder in Hugging Face's layout, without weights worth the name."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from tests.unit.serving.fake_vllm import write_base
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

VOCABULARY = 300
QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"},
    "attention_bias": False,
    "dtype": "float32",
    "tie_word_embeddings": False,
}
"""What vLLM wants to know beside the sizes."""
TEMPLATE = (
    "{%- for m in messages %}{{- '<' + m.role + '>' }}"
    "{%- if m.role == 'assistant' %}{% generation %}{{- m.content }}{% endgeneration %}{%- else %}{{- m.content }}"
    "{%- endif %}{%- endfor %}"
)


def write_base_model(folder: Path, hidden: int = 16, layers: int = 2, **config: Any) -> Path:
    """A base of the shape that ``write_base`` describes, a tokenizer of bytes, and weights that are a hole."""
    sizes = json.loads((write_base(folder, hidden, layers) / "config.json").read_text())
    sizes |= {"architectures": ["Qwen3ForCausalLM"], "vocab_size": VOCABULARY, "max_position_embeddings": 4096}
    sizes |= {"tie_word_embeddings": True, **config}
    (folder / "config.json").write_text(json.dumps(sizes))
    write_weights(folder / "model.safetensors", tensors(sizes))
    write_tokenizer(folder / "tokenizer.json")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def tensors(sizes: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Qwen3 model's weights."""
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    head = sizes.get("head_dim") or hidden // sizes["num_attention_heads"]
    query, key = sizes["num_attention_heads"] * head, sizes["num_key_value_heads"] * head
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (sizes["vocab_size"], hidden)}
    for layer in range(sizes["num_hidden_layers"]):
        block = {
            "self_attn.q_proj": (query, hidden),
            "self_attn.k_proj": (key, hidden),
            "self_attn.v_proj": (key, hidden),
            "self_attn.o_proj": (hidden, query),
            "self_attn.q_norm": (head,),
            "self_attn.k_norm": (head,),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }
        found |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    found["model.norm.weight"] = (hidden,)
    if not sizes.get("tie_word_embeddings"):
        found["lm_head.weight"] = (sizes["vocab_size"], hidden)
    return found


def write_weights(file: Path, shapes: dict[str, tuple[int, ...]], bytes_each: int = 4) -> None:
    """A safetensors file of these shapes whose values are never written: it takes no room on the disk."""
    table, end = {}, 0
    for name, shape in shapes.items():
        size = bytes_each
        for width in shape:
            size *= width
        table[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(table).encode()
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + end)


def write_tokenizer(file: Path) -> None:
    """One token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(file))


def write_random_weights(folder: Path, seed: int, spread: float, visible: int | None = None) -> None:
    """Weights that vLLM serves: normal with this standard deviation; only the first ``visible`` tokens are answered."""
    random = np.random.default_rng(seed)
    table, data = {}, b""
    for name, shape in tensors(json.loads((folder / "config.json").read_text())).items():
        values = np.ones(shape) if name.endswith("norm.weight") else random.normal(0, spread, shape)
        if name == "lm_head.weight" and visible is not None:
            values[visible:] = 0
        part = values.astype(np.float32).tobytes()
        table[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    header = json.dumps(table).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
