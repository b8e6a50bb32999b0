from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.training.example_base import write_base_model

from tollgate.training.base_model import base_model_problems


def told(folder: Path) -> str:
    return "\n".join(map(str, base_model_problems(folder)))


def shard(folder: Path, *present: str) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in present:
        (folder / name).touch()


def move_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: None,
        move_template,
        lambda folder: shard(folder, "model-1.safetensors", "model-2.safetensors"),
        lambda folder: (folder / "tokenizer.json").rename(folder / "tokenizer.model"),
    ],
)
def test_a_complete_base_model_in_each_of_its_forms(tmp_path: Path, change: Callable[[Path], None]) -> None:
    change(write_base_model(tmp_path))
    assert told(tmp_path) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), "no readable config.json"),
        (lambda folder: (folder / "config.json").write_text('{"architectures": ["BertModel"]}'), "['BertModel']"),
        (lambda folder: (folder / "config.json").write_text("{}"), "a …ForCausalLM architecture"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: shard(folder, "model-1.safetensors"), "missing model-2.safetensors"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "no chat template"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, change: Callable[[Path], None], words: str) -> None:
    change(write_base_model(tmp_path))
    [problem] = base_model_problems(tmp_path)
    assert words in str(problem)


def test_a_folder_that_is_not_there_is_one_problem_and_an_empty_one_lacks_everything(tmp_path: Path) -> None:
    assert len(base_model_problems(tmp_path / "nowhere")) == 1
    assert len(base_model_problems(tmp_path)) == 4
