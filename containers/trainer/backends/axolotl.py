"""Axolotl: the specification as its YAML file, checked by its schema, trained by its trainer."""

from __future__ import annotations

import contextlib
import os
import unittest.mock
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tollgate.errors import Problem
from tollgate.training.spec import TrainingSpec
from trainer.backends.base import (
    ConfiguredBackend,
    checkpoint_folder,
    gradient_checkpointing,
    refused,
    resumption,
)

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from trainer.resumable import Resumable
    from trainer.stop import Stop


class Axolotl(ConfiguredBackend):
    """See the `configuration reference <https://docs.axolotl.ai/docs/config-reference.html>`_."""

    name = "axolotl"

    def render(self, spec: TrainingSpec, *, on_gpu: bool, cache: Path) -> dict[str, Any]:
        """As in :class:`ConfiguredBackend`."""
        return {
            "base_model": str(spec.base_model),
            "output_dir": checkpoint_folder(spec),
            **_rows(spec, cache),
            **_adapter(spec, on_gpu=on_gpu),
            **_optimisation(spec),
            "micro_batch_size": spec.batch_size,
            "eval_batch_size": max(spec.batch_size, 32),
            "bf16": spec.precision == "bf16",
            "fp16": False,
            "tf32": False,
            "gradient_checkpointing": gradient_checkpointing(spec, on_gpu=on_gpu),
            "seed": spec.seed,
            "logging_steps": spec.logging_steps,
            "eval_steps": spec.eval_steps,
            "save_steps": spec.save_steps,
            "include_tkps": False,  # progress tells the tokens of a second
            "load_best_model_at_end": False,  # Resumable goes back to the best weights itself
        }

    def check(self, configuration: Path) -> Any:
        """As in :class:`ConfiguredBackend`."""
        os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"
        from axolotl.cli.config import load_cfg
        from pydantic import ValidationError

        try:
            return load_cfg(str(configuration))
        except ValidationError as error:
            problems = [
                Problem(".".join(map(str, detail["loc"])) or "configuration", repr(detail["input"])[:80], detail["msg"])
                for detail in error.errors()
            ]
            raise refused(self.name, configuration, problems) from error
        except ValueError as error:
            raise refused(
                self.name, configuration, [Problem("configuration", str(configuration), str(error))]
            ) from error

    def build(self, spec: TrainingSpec, checked: Any, callbacks: list[TrainerCallback], stop: Stop) -> Resumable:
        """As in :class:`ConfiguredBackend`."""
        from axolotl.common.datasets import load_datasets
        from axolotl.core.builders import HFCausalTrainerBuilder
        from axolotl.core.trainers import AxolotlTrainer
        from axolotl.train import setup_model_and_tokenizer

        from trainer.resumable import Resumable

        class ResumableAxolotlTrainer(Resumable, AxolotlTrainer):  # type: ignore[misc]
            """Axolotl's trainer that loses nothing."""

        class Builder(HFCausalTrainerBuilder):  # type: ignore[misc]
            """Axolotl's builder, with this trainer and these callbacks."""

            def get_callbacks(self) -> list[TrainerCallback]:
                return [*super().get_callbacks(), *callbacks]

            def hook_pre_create_trainer(self, trainer_kwargs: dict[str, Any], trainer_cls: type) -> tuple[Any, type]:
                return {**trainer_kwargs, **resumption(spec, stop)}, ResumableAxolotlTrainer

        with _without_a_copy_of_the_rows():
            rows = load_datasets(cfg=checked)
        model, tokenizer, _, processor = setup_model_and_tokenizer(checked)
        builder = Builder(checked, model, tokenizer, processor)
        builder.train_dataset, builder.eval_dataset = rows.train_dataset, rows.eval_dataset
        trainer: Resumable = builder.build(rows.total_num_steps)
        trainer.args.eval_on_start = False  # Axolotl's own idea, which no field of its configuration turns off
        return trainer


@contextlib.contextmanager
def _without_a_copy_of_the_rows() -> Iterator[None]:
    """Keep Axolotl from saving tokenized rows for a next time; each training reads its dataset version itself.

    They would lie about after a crash, and it forks a process to write them, which may hang: this one has threads.
    """
    from axolotl.utils.data import sft

    with unittest.mock.patch.object(sft, "save_preprocessed_dataset"):
        yield


def _rows(spec: TrainingSpec, cache: Path) -> dict[str, Any]:
    def part(name: str) -> dict[str, Any]:
        return {
            "path": str(spec.dataset / f"{name}.parquet"),
            "ds_type": "parquet",
            "split": "train",  # the only one that a single file has
            "type": "chat_template",
            "field_messages": "messages",
            "message_property_mappings": {"role": "role", "content": "content"},
            "roles_to_train": ["assistant"] if spec.assistant_only_loss else ["system", "user", "assistant"],
            "train_on_eos": "turn" if spec.assistant_only_loss else "all",
        }

    return {
        "chat_template": "tokenizer_default",
        "datasets": [part("train")],
        "test_datasets": [part("validation")],
        "val_set_size": 0,
        "train_on_inputs": not spec.assistant_only_loss,
        "dataset_prepared_path": str(cache),
        "dataset_num_proc": 0,  # in this process
        "shuffle_merged_datasets": False,
        "sequence_len": spec.max_length,
        "excess_length_strategy": "truncate",
        "sample_packing": spec.packing,
        "eval_sample_packing": False,
        "pad_to_sequence_len": False,
        "dataloader_num_workers": 0,
    }


def _adapter(spec: TrainingSpec, *, on_gpu: bool) -> dict[str, Any]:
    if spec.method == "full":
        return {}
    linear = spec.target_modules == "all-linear"
    # Axolotl turns its kernels for adapters on by itself, and they compute on GPUs only.
    kernels = {} if on_gpu else dict.fromkeys(("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"), False)
    return {
        "adapter": spec.method,
        "load_in_4bit": spec.method == "qlora",
        "lora_r": spec.lora_rank,
        "lora_alpha": spec.lora_alpha,
        "lora_dropout": spec.lora_dropout,
        **({"lora_target_linear": True} if linear else {"lora_target_modules": spec.target_modules}),
        **kernels,
    }


def _optimisation(spec: TrainingSpec) -> dict[str, Any]:
    return {
        "optimizer": "adamw_torch_fused",
        "learning_rate": spec.learning_rate,
        "lr_scheduler": spec.lr_scheduler,
        "warmup_ratio": 0.0 if spec.lr_scheduler == "constant" else spec.warmup_fraction,
        "weight_decay": spec.weight_decay,
        "max_grad_norm": 1.0,
        "gradient_accumulation_steps": spec.gradient_accumulation,
        "num_epochs": spec.epochs,
        **({} if spec.max_steps is None else {"max_steps": spec.max_steps}),
    }


BACKEND = Axolotl()
