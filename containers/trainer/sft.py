"""Supervised fine-tuning with TRL: full weights, LoRA, or LoRA over 4-bit weights (QLoRA)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
)
from trl import SFTConfig, SFTTrainer

from tollgate.training.checkpoint_files import CHECKPOINTS
from tollgate.training.spec import TrainingSpec
from trainer.distribution import let_cpus_run_zero, let_cpus_share_weights, training_arguments
from trainer.early_stopping import EarlyStopping
from trainer.packing import check_rows_are_separate
from trainer.resumable import Resumable
from trainer.stop import Stop

SHARED_WEIGHTS = ("fsdp", "zero3")
"""Distributions in which no process can compute with the whole model before the training begins."""


class ResumableTrainer(Resumable, SFTTrainer):  # type: ignore[misc]
    """TRL's trainer that loses nothing."""


def build_trainer(spec: TrainingSpec, callbacks: list[TrainerCallback], stop: Stop) -> ResumableTrainer:
    """Put together model, data and settings, ready for ``train()``.

    Args:
        spec: The job.
        callbacks: Called back while training, for example to write progress.
        stop: Whether to stop.

    Returns:
        A trainer whose checkpoints go to ``<output>/checkpoints``.

    Raises:
        BadInputError: Rows are to be packed, and this base model would let them see each other.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(spec.base_model, local_files_only=True)
    if not torch.cuda.is_available():
        let_cpus_run_zero(spec)
    arguments = _config(spec)
    let_cpus_share_weights(spec)
    trainer = ResumableTrainer(
        model=_load_model(spec),
        args=arguments,
        train_dataset=read_part(spec.dataset / "train.parquet"),
        eval_dataset=read_part(spec.dataset / "validation.parquet"),
        processing_class=tokenizer,
        peft_config=None if spec.method == "full" else _adapter(spec),
        callbacks=callbacks,
        job_folder=spec.output,
        stop=stop,
        early_stopping=_early_stopping(spec),
        checkpoints_kept=spec.checkpoints_kept,
    )
    trainer.remove_callback(PrinterCallback)  # ours says the same in words
    if spec.packing and spec.distribution not in SHARED_WEIGHTS:
        check_rows_are_separate(trainer.model, trainer.data_collator)
    return trainer


def _early_stopping(spec: TrainingSpec) -> EarlyStopping | None:
    if spec.early_stopping_patience is None:
        return None
    return EarlyStopping(spec.early_stopping_patience, spec.early_stopping_minimum_gain)


def read_part(path: Path) -> Dataset:
    """One part of a dataset version as TRL wants it: a column ``messages``, nothing else."""
    return Dataset.from_parquet(str(path), columns=["messages"], keep_in_memory=True)


def _load_model(spec: TrainingSpec) -> Any:
    kind = torch.bfloat16 if spec.precision == "bf16" else torch.float32
    quantization = None
    if spec.method == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=kind,
        )
    return AutoModelForCausalLM.from_pretrained(
        spec.base_model, dtype=kind, quantization_config=quantization, local_files_only=True
    )


def _adapter(spec: TrainingSpec) -> LoraConfig:
    return LoraConfig(
        r=spec.lora_rank,
        lora_alpha=spec.lora_alpha,
        lora_dropout=spec.lora_dropout,
        target_modules=spec.target_modules,
        task_type="CAUSAL_LM",
    )


def _config(spec: TrainingSpec) -> SFTConfig:
    on_gpu = torch.cuda.is_available()
    # Packed validation rows would change the validation loss; unpacked ones are joined without padding, and where the
    # attention needs a mask of all pairs, 32 long rows together would take gigabytes.
    eval_batch_size = spec.batch_size if spec.packing else max(spec.batch_size, 32)
    checkpointing = on_gpu if spec.gradient_checkpointing is None else spec.gradient_checkpointing
    return SFTConfig(
        output_dir=str(spec.output / CHECKPOINTS),
        seed=spec.seed,
        data_seed=spec.seed,
        num_train_epochs=spec.epochs,
        max_steps=spec.max_steps or -1,
        per_device_train_batch_size=spec.batch_size,
        per_device_eval_batch_size=eval_batch_size,
        gradient_accumulation_steps=spec.gradient_accumulation,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.lr_scheduler,
        warmup_steps=spec.warmup_fraction,
        weight_decay=spec.weight_decay,
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        max_length=spec.max_length,
        packing=spec.packing,
        eval_packing=False,
        assistant_only_loss=spec.assistant_only_loss,
        # TRL turns both on by default; on a CPU the one is slow, and the other is worth its time only if asked for.
        bf16=spec.precision == "bf16",
        **{"use_cpu": not on_gpu} | training_arguments(spec, checkpointing=checkpointing, on_gpu=on_gpu),
        dataloader_pin_memory=on_gpu,
        eval_strategy="steps",
        eval_steps=spec.eval_steps,
        save_strategy="steps",
        save_steps=spec.save_steps,
        save_total_limit=None,  # ResumableTrainer deletes old ones, once the new one is whole
        logging_steps=spec.logging_steps,
        report_to="none",
        disable_tqdm=True,
    )
