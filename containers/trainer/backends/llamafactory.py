"""LLaMA-Factory: the specification as its YAML file, checked by its argument parser, trained by its trainer."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tollgate.errors import Problem
from tollgate.training.spec import TrainingSpec
from trainer.backends.base import (
    ConfiguredBackend,
    checkpoint_folder,
    gradient_checkpointing,
    read_configuration,
    refused,
    resumption,
    write_json,
)

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from trainer.resumable import Resumable
    from trainer.stop import Stop


PARTS = ("train", "validation")


class LlamaFactory(ConfiguredBackend):
    """See the `arguments <https://llamafactory.readthedocs.io/en/latest/advanced/arguments.html>`_."""

    name = "llamafactory"

    def render(self, spec: TrainingSpec, *, on_gpu: bool, cache: Path) -> dict[str, Any]:
        """As in :class:`ConfiguredBackend`."""
        return {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": str(spec.base_model),
            "output_dir": checkpoint_folder(spec),
            "cache_dir": str(cache),
            **_rows(spec),
            **_adapter(spec),
            **_optimisation(spec),
            "per_device_train_batch_size": spec.batch_size,
            "per_device_eval_batch_size": max(spec.batch_size, 32),
            "bf16": spec.precision == "bf16",
            "fp16": False,
            "use_cpu": not on_gpu,
            "disable_gradient_checkpointing": not gradient_checkpointing(spec, on_gpu=on_gpu),
            "seed": spec.seed,
            "data_seed": spec.seed,
            "logging_steps": spec.logging_steps,
            "eval_strategy": "steps",
            "eval_steps": spec.eval_steps,
            "save_strategy": "steps",
            "save_steps": spec.save_steps,
            "dataloader_pin_memory": on_gpu,
            "report_to": "none",
            "disable_tqdm": True,
        }

    def check(self, configuration: Path) -> Any:
        """As in :class:`ConfiguredBackend`."""
        do_without_sound()
        from llamafactory.hparams import get_train_args

        try:
            return get_train_args(read_configuration(configuration))
        except (ValueError, TypeError) as error:
            raise refused(
                self.name, configuration, [Problem("configuration", str(configuration), str(error))]
            ) from error

    def build(self, spec: TrainingSpec, checked: Any, callbacks: list[TrainerCallback], stop: Stop) -> Resumable:
        """As ``llamafactory.train.sft.workflow.run_sft``, up to its trainer."""
        import torch
        from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset, get_template_and_fix_tokenizer
        from llamafactory.extras.constants import IGNORE_INDEX
        from llamafactory.model import load_model, load_tokenizer
        from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer

        from trainer.resumable import Resumable

        class ResumableLlamaFactoryTrainer(Resumable, CustomSeq2SeqTrainer):  # type: ignore[misc]
            """LLaMA-Factory's trainer that loses nothing."""

            def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
                """Not by the mask of packed rows, which says for every pair of tokens whether they see each other."""
                pairs = "attention_mask" in inputs and inputs["attention_mask"].dim() > 2
                known = {name: value for name, value in inputs.items() if not (pairs and name == "attention_mask")}
                super()._track_num_input_tokens(known)

        model_args, data_args, training_args, finetuning_args, _ = checked
        Path(data_args.dataset_dir).mkdir(exist_ok=True)
        write_json(Path(data_args.dataset_dir) / "dataset_info.json", dataset_info(spec))
        # Without bf16 it would keep the type that the base model's file has.
        model_args.compute_dtype = torch.bfloat16 if spec.precision == "bf16" else torch.float32
        tokens = load_tokenizer(model_args)
        template = get_template_and_fix_tokenizer(tokens["tokenizer"], data_args)
        rows = get_dataset(template, model_args, data_args, training_args, stage="sft", **tokens)
        if data_args.packing:  # packed validation rows would weigh otherwise, which would change the validation loss
            apart = dataclasses.replace(data_args, dataset=None, packing=False, neat_packing=False)
            rows |= get_dataset(template, model_args, apart, training_args, stage="sft", **tokens)
        model = load_model(tokens["tokenizer"], model_args, finetuning_args, is_trainable=True)
        collator = SFTDataCollatorWith4DAttentionMask(
            template=template,
            model=model,
            label_pad_token_id=IGNORE_INDEX,
            attn_implementation=getattr(model.config, "_attn_implementation", None),
            compute_dtype=model_args.compute_dtype,
            block_diag_attn=model_args.block_diag_attn,
            neat_packing=data_args.neat_packing,
            **tokens,
        )
        trainer: Resumable = ResumableLlamaFactoryTrainer(
            model=model,
            args=training_args,
            finetuning_args=finetuning_args,
            data_collator=collator,
            callbacks=callbacks,
            **rows,
            **tokens,
            **resumption(spec, stop),
        )
        return trainer


def do_without_sound() -> None:
    """Let LLaMA-Factory be imported where torchaudio is not: it needs it for rows with sound, which ours never have.

    The environment leaves it out, as its wheel must fit torch's build to the device (docs/backends.md).
    """
    if importlib.util.find_spec("torchaudio") is not None:
        return
    from transformers.utils import is_torchaudio_available

    is_torchaudio_available()  # keeps its answer, which is no, before there is something of that name
    absent = ModuleType("torchaudio")
    absent.__spec__ = ModuleSpec("torchaudio", None)
    sys.modules["torchaudio"] = absent


def dataset_info(spec: TrainingSpec) -> dict[str, Any]:
    """The content of ``dataset_info.json``: where the rows are, and how they are written."""
    layout = {
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
    return {part: {"file_name": str(spec.dataset / f"{part}.parquet"), **layout} for part in PARTS}


def _rows(spec: TrainingSpec) -> dict[str, Any]:
    return {
        "dataset_dir": str(spec.output / "llamafactory"),
        "dataset": "train",
        "eval_dataset": "validation",
        "cutoff_len": spec.max_length,
        "packing": spec.packing,
        "neat_packing": spec.packing,  # rows do not see each other; without it they would
        "train_on_prompt": not spec.assistant_only_loss,
    }


def _adapter(spec: TrainingSpec) -> dict[str, Any]:
    if spec.method == "full":
        return {"finetuning_type": "full"}
    named = spec.target_modules
    quantization = {
        "quantization_method": "bnb",
        "quantization_bit": 4,
        "quantization_type": "nf4",
        "double_quantization": True,
    }
    return {
        "finetuning_type": "lora",
        "lora_rank": spec.lora_rank,
        "lora_alpha": spec.lora_alpha,
        "lora_dropout": spec.lora_dropout,
        "lora_target": "all" if isinstance(named, str) else ",".join(named),
        **(quantization if spec.method == "qlora" else {}),
    }


def _optimisation(spec: TrainingSpec) -> dict[str, Any]:
    return {
        "optim": "adamw_torch_fused",
        "learning_rate": spec.learning_rate,
        "lr_scheduler_type": spec.lr_scheduler,
        "warmup_steps": spec.warmup_fraction,
        "weight_decay": spec.weight_decay,
        "max_grad_norm": 1.0,
        "gradient_accumulation_steps": spec.gradient_accumulation,
        "num_train_epochs": spec.epochs,
        "max_steps": spec.max_steps or -1,
    }


BACKEND = LlamaFactory()
