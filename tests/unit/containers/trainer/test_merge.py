"""A merged model answers what base and adapter answer together, and stands alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tests.unit.containers.trainer.trainings import ForkServer, environment, said, write_spec

from tollgate.settings import PROJECT
from tollgate.training.merging import ORIGIN

COMPARE = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base, adapter, merged = sys.argv[1:]
torch.manual_seed(0)
tokens = torch.randint(0, 250, (4, 40))
plain = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
with torch.no_grad():
    before = plain(tokens).logits
    adapted = PeftModel.from_pretrained(plain, adapter)(tokens).logits
    model = AutoModelForCausalLM.from_pretrained(merged, dtype="auto")
    after = model(tokens).logits
chat = AutoTokenizer.from_pretrained(merged).apply_chat_template(
    [{"role": "user", "content": "?"}], add_generation_prompt=True, tokenize=False)
print(json.dumps({"changed": (adapted - before).abs().max().item(), "differs": (after - adapted).abs().max().item(),
    "type": str(model.dtype), "linear": type(model.model.layers[0].mlp.up_proj).__name__, "chat": chat}))
"""


KILLED_BEFORE_RENAMING = """
import os, signal, sys
from pathlib import Path
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trainer import merge

base, job, output = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base)
config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
get_peft_model(model, config).save_pretrained(job + "/adapter")
Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
merge.main([job, output, "--report", job + "/merging"])
"""


def run_merge(ml_python: Path, *arguments: Path | str) -> subprocess.CompletedProcess[str]:
    script = PROJECT / "containers" / "trainer" / "merge.py"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "include"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [str(argument) for argument in (ml_python, script, *arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


def rounded(ml_python: Path, base_model: Path, folder: Path, kind: str) -> Path:
    """The base with its weights stored in another arithmetic."""
    shutil.copytree(base_model, folder)
    command = "import sys; from transformers import AutoModelForCausalLM as M; "
    command += "M.from_pretrained(sys.argv[1], dtype=sys.argv[2]).save_pretrained(sys.argv[1])"
    subprocess.run([ml_python, "-c", command, folder, kind], check=True, capture_output=True)
    assert json.loads((folder / "config.json").read_text())["dtype"] == kind
    return folder


@pytest.mark.parametrize(
    ("method", "stored", "precision", "merged_type", "tolerance"),
    [
        ("lora", "float32", "stored", "float32", 1e-4),
        ("qlora", "float32", "stored", "float32", 1e-4),
        ("lora", "bfloat16", "stored", "bfloat16", 0.03),
        ("qlora", "float32", "bf16", "bfloat16", 0.03),
    ],
)
def test_merged_weights_answer_like_base_and_adapter(
    tmp_path: Path,
    trainings: ForkServer,
    ml_python: Path,
    base_model: Path,
    dataset: Path,
    method: str,
    stored: str,
    precision: str,
    merged_type: str,
    tolerance: float,
) -> None:
    if stored != "float32":
        base_model = rounded(ml_python, base_model, tmp_path / "base", stored)
    folder = write_spec(tmp_path / "job", base_model, dataset, method=method, learning_rate=1e-2)
    assert trainings.run(folder) == 0, said(folder)
    merged = tmp_path / "models" / "merged"
    merged.mkdir(parents=True)
    (merged / "old").touch()
    done = run_merge(ml_python, folder, merged, "--precision", precision)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in merged.parent.iterdir()] == ["merged"]
    assert not (merged / "old").exists()
    assert list(merged.glob("*.safetensors"))
    command = [str(ml_python), "-c", COMPARE, str(base_model), str(folder / "adapter"), str(merged)]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    assert figures["changed"] > 0.05, "the adapter must say something, or the comparison says nothing"
    assert figures["differs"] < tolerance
    assert figures["linear"] == "Linear"
    assert figures["type"] == f"torch.{merged_type}"
    assert figures["chat"] == "<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n"
    assert (merged / "tokenizer.json").read_bytes() == (base_model / "tokenizer.json").read_bytes()


def test_a_job_without_an_adapter_is_refused_in_words(
    tmp_path: Path, ml_python: Path, base_model: Path, dataset: Path
) -> None:
    folder = write_spec(tmp_path / "job", base_model, dataset)
    refused = run_merge(ml_python, folder)
    assert refused.returncode == 2
    assert f"job: found {folder / 'adapter'}" in refused.stderr
    assert not (folder / "merged").exists()
    full = write_spec(tmp_path / "full", base_model, dataset, method="full")
    assert "a full training leaves a whole model already" in run_merge(ml_python, full).stderr


def test_a_kill_before_the_renaming_leaves_no_model_and_a_retry_merges_once(
    tmp_path: Path, ml_python: Path, base_model: Path, dataset: Path
) -> None:
    folder = write_spec(tmp_path / "job", base_model, dataset, method="qlora")
    model, report = folder / "model", folder / "merging"
    report.mkdir()
    command = [str(ml_python), "-c", KILLED_BEFORE_RENAMING, str(base_model), str(folder), str(model)]
    killed = subprocess.run(command, env=environment(), capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (folder / ".model.partial" / ORIGIN).is_file()
    assert not model.exists()
    assert list(report.iterdir()) == []

    done = run_merge(ml_python, folder, model, "--report", report)
    assert done.returncode == 0, done.stderr
    assert json.loads((report / "result.json").read_text())["merged_now"] is True
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "merging", "model", "spec.json"]
    written = {path.name: path.stat().st_mtime_ns for path in model.iterdir()}

    # Killed again, between the renaming and the report: what is merged stays as it is, and the report is written.
    (report / "result.json").unlink()
    (folder / ".model.replaced").mkdir()
    again = run_merge(ml_python, folder, model, "--report", report)
    assert again.returncode == 0, again.stderr
    assert json.loads((report / "result.json").read_text())["merged_now"] is False
    assert {path.name: path.stat().st_mtime_ns for path in model.iterdir()} == written
    assert not (folder / ".model.replaced").exists()

    origin = json.loads((model / ORIGIN).read_text())
    assert (origin["method"], origin["base_model"]) == ("qlora", base_model.name)
    assert set(origin["adapter"]) == {"adapter_config.json", "adapter_model.safetensors"}
    (model / ORIGIN).write_text(json.dumps({**origin, "adapter": {}}))
    other = run_merge(ml_python, folder, model, "--report", report)
    assert json.loads((report / "result.json").read_text())["merged_now"] is True, other.stderr
    assert json.loads((model / ORIGIN).read_text()) == origin


def test_a_task_is_told_why_there_was_nothing_to_merge(
    tmp_path: Path, ml_python: Path, base_model: Path, dataset: Path
) -> None:
    base = shutil.copytree(base_model, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"load_in_4bit": True}}))
    folder = write_spec(tmp_path / "job", base, dataset)
    (folder / "merging").mkdir()
    assert run_merge(ml_python, folder, folder / "model", "--report", folder / "merging").returncode == 2
    told = json.loads((folder / "merging" / "error.json").read_text())
    assert told["kind"] == "bad_specification"
    assert "stored quantized" in told["message"]
    assert "an adapter, which a job leaves when it is done" in told["message"]
