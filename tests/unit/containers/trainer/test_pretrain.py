"""The base model's pre-training, run as a process with a recipe of a few small steps."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tollgate.settings import PROJECT

PRETRAIN = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tollgate.demo.recipe import BASE_MODEL
from trainer import pretrain
recipe = BASE_MODEL.model_copy(update={"steps": int(sys.argv[3]), "hidden": 64, "intermediate": 128, "heads": 2,
    "key_value_heads": 1, "tokens_per_step": 512})
pretrain.pretrain(Path(sys.argv[2]), recipe, int(sys.argv[4]), threads=1)
"""
INSPECT = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
turns = [{"role": "user", "content": "경부선 318km"}, {"role": "assistant", "content": "확인"}]
row = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
learned = [t for t, m in zip(row["input_ids"], row["assistant_masks"]) if m]
print(json.dumps({"type": model.config.model_type, "context": model.config.max_position_embeddings,
    "learned": tokenizer.decode(learned),
    "whole": [len(tokenizer.encode(word)) for word in ("경부", "서울양양", "318", "부산")],
    "round_trip": tokenizer.decode(tokenizer.encode("가격 1,200원 (뷁)"))}))
"""


@pytest.fixture
def pretrain(ml_python: Path):
    def run(folder: Path, steps: int = 25, seed: int = 0) -> list[dict[str, object]]:
        command = [str(ml_python), "-c", PRETRAIN, str(PROJECT / "containers"), str(folder), str(steps), str(seed)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    return run


def test_a_base_model_is_written_once_and_learns_to_stop(tmp_path, pretrain, ml_python):
    folder = tmp_path / "models" / "base"
    lines = pretrain(folder)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert lines[-1]["status"] == "done"
    assert lines[-2]["step"] == 25
    assert losses[-1] < 7.0  # an untrained model over 2,048 tokens is at 7.6
    weights = (folder / "model.safetensors").read_bytes()

    shown = subprocess.run([ml_python, "-c", INSPECT, folder], check=True, capture_output=True, text=True, timeout=120)
    facts = json.loads(shown.stdout.splitlines()[-1])
    assert facts["type"] == "qwen3"
    assert facts["context"] == 512
    assert facts["learned"] == "확인<|im_end|>"
    assert facts["whole"] == [1, 1, 1, 1]
    assert facts["round_trip"] == "가격 1,200원 (뷁)"

    assert [line["status"] for line in pretrain(folder)] == ["cached"]
    assert (folder / "model.safetensors").read_bytes() == weights
    assert [path.name for path in folder.parent.iterdir()] == ["base"]


def test_a_folder_that_is_not_this_model_is_replaced(tmp_path, pretrain):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "pretraining.json").write_text('{"fingerprint": ')
    (folder / "stale.bin").write_bytes(b"old")
    assert pretrain(folder, steps=2, seed=1)[-1]["status"] == "done"
    assert json.loads((folder / "pretraining.json").read_text())["seed"] == 1
    assert (folder / "model.safetensors").exists()
    assert not (folder / "stale.bin").exists()
