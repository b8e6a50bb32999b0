"""Measured trainings, ours or a bare TRL script's; runs in the training environment, ``.venv-ml``.

    python -m tests.performance.training_loop base FOLDER SHAPE      a base of random weights
    python -m tests.performance.training_loop run KIND FOLDER …      trainings of job folders, one after the other

Of several, each is a fork of one process that has the libraries loaded, so that only training differs. What its call of
``Trainer.train``, and the whole program, took is left in ``loop.json`` of the job folder, with the steps, losses and
checkpoints of the run. Kinds: ``ours``, the container's entry point; ``same``, a bare script with the same settings;
``default``, one with TRL's own.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{%- for m in messages %}{%- if m.role == 'assistant' %}{{- '<|im_start|>assistant\n' }}"
    "{%- generation %}{{- m.content + '<|im_end|>' }}{%- endgeneration %}{{- '\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
)


def make_base(folder: Path, sizes: dict[str, Any]) -> None:
    """Write a Qwen3 base of random weights with a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, set_seed

    set_seed(0)
    vocabulary = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens = Tokenizer(models.BPE(vocab={token: place for place, token in enumerate(vocabulary)}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.add_special_tokens(list(SPECIAL))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token=SPECIAL[2], pad_token=SPECIAL[0])
    tokenizer.chat_template = TEMPLATE
    kind = getattr(torch, sizes.pop("dtype", "float32"))
    config = Qwen3Config(eos_token_id=2, pad_token_id=0, dtype=kind, **sizes)
    torch.set_default_dtype(kind)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen3ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def bare(folder: Path, default: bool) -> dict[str, Any]:
    """What people write after reading TRL's quick start, with our settings or with TRL's own.

    Its datasets' cache is the job folder's: a run that found the rows tokenized by an earlier one would do less.
    """
    import datasets
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from trainer.memory import Measurement

    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    spec = json.loads((folder / "spec.json").read_text())
    settings: dict[str, Any] = {"max_steps": spec["max_steps"], "max_length": spec["max_length"], "report_to": "none"}
    parts: dict[str, Any] = {
        name: Dataset.from_parquet(str(Path(spec["dataset"]) / f"{part}.parquet"), columns=["messages"])
        for name, part in (("train_dataset", "train"), ("eval_dataset", "validation"))
    }
    if not default:
        settings |= _our_settings(spec)
    adapter = LoraConfig(r=spec["lora_rank"], lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    measurement = Measurement()
    trainer = SFTTrainer(
        model=spec["base_model"],
        args=SFTConfig(output_dir=str(folder / "checkpoints"), **settings),
        peft_config=None if spec["method"] == "full" else adapter,
        callbacks=[measurement] if default else [],  # beside ours, none of ours
        **parts,
    )
    trainer.train()
    if default:
        return measurement.figures()
    trainer.save_model(str(folder / "adapter"))
    return {}


def _our_settings(spec: dict[str, Any]) -> dict[str, Any]:
    """Those of the specification, so that both compute, measure and save the same."""
    return {
        "per_device_train_batch_size": spec["batch_size"],
        "per_device_eval_batch_size": max(spec["batch_size"], 32),
        "learning_rate": spec["learning_rate"],
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "seed": spec["seed"],
        "data_seed": spec["seed"],
        "assistant_only_loss": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "logging_steps": spec["logging_steps"],
        "eval_strategy": "steps",
        "eval_steps": spec["eval_steps"],
        "save_strategy": "steps",
        "save_steps": spec["save_steps"],
        "save_total_limit": spec["checkpoints_kept"],
        "disable_tqdm": True,
    }


def run(kind: str, folder: Path) -> dict[str, Any]:
    """Train once in this process, and return what the loop and the whole program took, and what they did."""
    from transformers import Trainer

    took: dict[str, Any] = {}
    train = Trainer.train

    def timed(trainer: Any, *arguments: Any, **named: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return train(trainer, *arguments, **named)
        finally:
            took.update(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu, **_done(trainer))

    Trainer.train = timed
    begun = time.process_time()
    if kind == "ours":
        from trainer.train import main

        if main(folder):
            raise SystemExit((folder / "error.json").read_text())
        took |= json.loads((folder / "result.json").read_text())["measured"]
    else:
        took |= bare(folder, kind == "default")
    return {**took, "program_cpu": time.process_time() - begun}


def _done(trainer: Any) -> dict[str, Any]:
    """What a run computed and kept; two that are compared must agree in it."""
    import torch

    history = trainer.state.log_history
    return {
        "threads": torch.get_num_threads(),
        "dtypes": sorted({str(weight.dtype) for weight in trainer.model.parameters()}),
        "losses": [line["loss"] for line in history if "loss" in line],
        "eval_losses": [line["eval_loss"] for line in history if "eval_loss" in line],
        "trained_steps": trainer.state.global_step,
        "checkpoints": sorted(path.name for path in Path(trainer.args.output_dir).glob("checkpoint-*")),
    }


def recorded(kind: str, folder: Path) -> int:
    """Run in this process; what it prints goes to ``job.log`` of the folder, what it took to ``loop.json``."""
    log = os.open(folder / "job.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        (folder / "loop.json").write_text(json.dumps(run(kind, folder)))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def forked(kind: str, folder: Path) -> int:
    """Run in a child of this process."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    os._exit(recorded(kind, folder))


def main(words: list[str]) -> int:
    """See the head of this file."""
    if words[0] == "base":
        make_base(Path(words[1]), json.loads(words[2]))
        return 0
    import trl
    from transformers.models.qwen3 import modeling_qwen3  # noqa: F401 - loaded before the forks

    from trainer import checkpoints, memory, progress, sft  # noqa: F401

    assert trl.SFTTrainer
    pairs = list(zip(words[1::2], words[2::2], strict=True))
    # CUDA cannot be used in a fork of a process that has asked for it, as libraries do when they are loaded.
    start = forked if len(pairs) > 1 else recorded
    return max(start(kind, Path(folder)) for kind, folder in pairs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
