"""Packed rows don't see each other; recomputed activations change no figure."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from tests.unit.containers.trainer.trainings import ForkServer, error, figures, result, said, write_spec

from tollgate.settings import PROJECT

LOSSES = """
import json, sys
from pathlib import Path
import torch
from transformers import set_seed
from tollgate.training.parsing import parse_spec
from trainer.sft import build_trainer
from trainer.stop import Stop

found = {}
for packing in (False, True):
    values = json.loads(Path(sys.argv[1], "spec.json").read_text())
    spec = parse_spec({**values, "packing": packing})
    trainer = build_trainer(spec, [], Stop(spec.output))
    model, total, tokens = trainer.model.eval(), 0.0, 0
    for batch in trainer.get_train_dataloader():
        labels = batch["labels"]
        with torch.no_grad():
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            logits = model(**inputs, use_cache=False).logits
        flat = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
        total, tokens = total + flat.item(), tokens + (labels[:, 1:] != -100).sum().item()
    found[str(packing)] = [total / tokens, tokens, len(trainer.train_dataset), trainer.evaluate()["eval_loss"]]
print(json.dumps(found))
"""

MAKE_LEAKING = """
import json, shutil, sys
from pathlib import Path
from transformers import AutoTokenizer, MambaConfig, MambaForCausalLM, set_seed
set_seed(0)
base, target = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(base)
MambaForCausalLM(MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=4,
    eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)).save_pretrained(target)
tokenizer.save_pretrained(target)
"""


def run_script(ml_python: Path, script: str, *arguments: Path) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{PROJECT / 'include'}:{PROJECT / 'containers'}",
        "OMP_NUM_THREADS": "1",
    }
    command = [str(ml_python), "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1] if done.stdout else ""


def test_packed_rows_have_the_losses_that_they_have_alone(
    tmp_path: Path, ml_python: Path, base_model: Path, dataset: Path
) -> None:
    folder = write_spec(tmp_path / "job", base_model, dataset, max_length=256)
    found = json.loads(run_script(ml_python, LOSSES, folder))
    alone, tokens, rows, validation = found["False"]
    packed, packed_tokens, sequences, packed_validation = found["True"]
    assert sequences < rows / 2, "nothing was packed"
    assert packed_tokens == tokens
    assert packed == pytest.approx(alone, rel=1e-5)
    assert packed_validation == pytest.approx(validation, rel=1e-5)


def test_a_base_whose_rows_would_see_each_other_is_refused(
    tmp_path: Path, trainings: ForkServer, ml_python: Path, base_model: Path, dataset: Path
) -> None:
    leaking = tmp_path / "leaking"
    run_script(ml_python, MAKE_LEAKING, base_model, leaking)
    folder = write_spec(tmp_path / "job", leaking, dataset, packing=True, target_modules=["in_proj"])
    assert trainings.run(folder) == 2, said(folder)
    assert error(folder)["kind"] == "bad_specification"
    assert "packing: found a base model" in error(folder)["message"]
    write_spec(folder, leaking, dataset, packing=False, target_modules=["in_proj"], max_steps=1)
    assert trainings.run(folder) == 0, said(folder)


def test_gradient_checkpointing_saves_memory_and_changes_no_loss(
    tmp_path: Path, trainings: ForkServer, ml_python: Path, base_model: Path, dataset: Path
) -> None:
    found = {}
    for setting in (True, False, None):
        folder = write_spec(
            tmp_path / str(setting), base_model, dataset, gradient_checkpointing=setting, lora_dropout=0.2, max_steps=3
        )
        assert trainings.run(folder) == 0, said(folder)
        assert result(folder)["steps"] == 3
        found[setting] = figures(folder, "loss")
    assert found[True] == found[False] == found[None]
    turned_on = run_script(ml_python, TURNED_ON, tmp_path)
    assert json.loads(turned_on) == {"True": True, "False": False, "None": False}


TURNED_ON = """
import json, sys
from pathlib import Path
from tollgate.training.parsing import parse_spec
from trainer.sft import build_trainer
from trainer.stop import Stop

found = {}
for name in ("True", "False", "None"):
    spec = parse_spec(json.loads(Path(sys.argv[1], name, "spec.json").read_text()))
    trainer = build_trainer(spec, [], Stop(spec.output))
    found[name] = bool(trainer.model.get_base_model().is_gradient_checkpointing) or trainer.args.gradient_checkpointing
print(json.dumps(found))
"""
