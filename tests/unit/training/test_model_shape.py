"""The shape of a base from its configuration and the headers of its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.training.example_base import VOCABULARY, tensors, write_base_model, write_weights

from tollgate.errors import BadInputError
from tollgate.training.model_shape import read_shape

QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
}


def write_qwen3_8b(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {**QWEN3_8B, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    write_weights(folder / "model.safetensors", tensors(config), bytes_each=2)
    return folder


def test_qwen3_8b_has_the_published_number_of_parameters(tmp_path: Path) -> None:
    shape = read_shape(write_qwen3_8b(tmp_path))
    assert shape.parameters == 8_190_735_360  # model card: 8.2B, 6.95B without embeddings
    assert shape.multiplied == shape.parameters - 151936 * 4096
    assert shape.linear_parameters == 36 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 12288)
    # PEFT's print_trainable_parameters() for r=16 on all linear layers of this shape.
    assert shape.adapter_parameters(16, "all-linear") == 43_646_976


def test_shared_weights_count_once_also_where_the_file_has_them_twice(tmp_path: Path) -> None:
    tied = write_base_model(tmp_path / "tied")
    sizes = json.loads((tied / "config.json").read_text())
    before = read_shape(tied).parameters
    write_weights(tied / "model.safetensors", {**tensors(sizes), "lm_head.weight": (VOCABULARY, 16)})
    assert read_shape(tied).parameters == before
    apart = read_shape(write_base_model(tmp_path / "apart", tie_word_embeddings=False))
    assert apart.parameters == before + VOCABULARY * 16


def test_shards_are_added_up(tmp_path: Path) -> None:
    whole = read_shape(write_base_model(tmp_path))
    shapes = list(tensors(json.loads((tmp_path / "config.json").read_text())).items())
    (tmp_path / "model.safetensors").unlink()
    names = {"a.safetensors": shapes[:5], "b.safetensors": shapes[5:]}
    for name, part in names.items():
        write_weights(tmp_path / name, dict(part))
    index = {"weight_map": {tensor: name for name, part in names.items() for tensor, _ in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_shape(tmp_path) == whole


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ("all-linear", 14),
        (["q_proj", "v_proj"], 4),
        (["model.layers.0.self_attn.q_proj"], 1),
        (r".*\.1\.mlp\..*", 3),
        (["proj"], 0),
        ("q_proj", 0),
    ],
)
def test_layers_are_chosen_as_peft_chooses_them(tmp_path: Path, wanted: Any, count: int) -> None:
    assert len(read_shape(write_base_model(tmp_path)).targets(wanted)) == count


def test_experts_that_a_token_does_not_meet_are_idle(tmp_path: Path) -> None:
    folder = write_base_model(tmp_path, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32)
    sizes = json.loads((folder / "config.json").read_text())
    block = {name: shape for name, shape in tensors(sizes).items() if ".mlp." not in name}
    experts = {f"model.layers.0.mlp.experts.{number}.up_proj.weight": (32, 16) for number in range(8)}
    write_weights(folder / "model.safetensors", {**block, **experts})
    shape = read_shape(folder)
    assert shape.idle == 6 * 32 * 16
    assert shape.intermediate == 2 * 32
    assert not any("experts" in layer.name for layer in shape.linear)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        lambda folder: (folder / "model.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0[1,2]"),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "config.json").write_text("[]"),
        lambda folder: (folder / "config.json").write_text('{"hidden_size": 16}'),
    ],
)
def test_files_that_are_not_a_base_are_named(tmp_path: Path, spoil: Any) -> None:
    spoil(write_base_model(tmp_path))
    with pytest.raises(BadInputError) as refused:
        read_shape(tmp_path)
    assert str(tmp_path) in str(refused.value.problems[0])
