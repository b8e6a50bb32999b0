"""A base model of random weights and a small dataset version, both real, for runs of the trainer as a process."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import polars
import pytest
from tests.unit.containers.trainer.trainings import ForkServer

from tollgate.settings import PROJECT

MAKE_BASE = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, set_seed

set_seed(0)
tokens = Tokenizer(models.BPE())
tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokens.decoder = decoders.ByteLevel()
special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
alphabet = pre_tokenizers.ByteLevel.alphabet()
tokens.train_from_iterator(["안녕하세요"], trainers.BpeTrainer(
    vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="<|im_end|>", pad_token="<|endoftext|>")
tokenizer.chat_template = (
    "{%- for m in messages %}{%- if m.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}"
    "{%- generation %}{{- m.content + '<|im_end|>' }}{%- endgeneration %}{{- '\\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}")
config = Qwen3Config(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2, head_dim=32, max_position_embeddings=256, tie_word_embeddings=True,
    eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
Qwen3ForCausalLM(config).save_pretrained(sys.argv[1])
tokenizer.save_pretrained(sys.argv[1])
"""


@pytest.fixture(scope="session")
def base_model(ml_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "random-base"
    subprocess.run([ml_python, "-c", MAKE_BASE, folder], check=True, timeout=300)
    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets") / "v1"
    folder.mkdir()
    for part, rows in (("train", 64), ("validation", 8), ("test", 8)):
        messages = [
            [
                {"role": "user", "content": f"{number} 더하기 1은 얼마인가요?"},
                {"role": "assistant", "content": f"{number + 1}입니다."},
            ]
            for number in range(rows)
        ]
        polars.DataFrame({"messages": messages}).write_parquet(folder / f"{part}.parquet")
    return folder


@pytest.fixture(scope="session")
def trainings(ml_python: Path) -> Iterator[ForkServer]:
    server = ForkServer(ml_python)
    yield server
    server.close()


@pytest.fixture(scope="session")
def trainer_entry() -> Path:
    return PROJECT / "containers" / "trainer" / "train.py"
