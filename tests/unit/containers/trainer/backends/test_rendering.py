"""Each field of a specification, as each backend's configuration says it. No library is needed to render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.training.test_spec import VALUES

from tollgate.training.spec import TrainingSpec
from trainer.backends import backend_of
from trainer.backends.base import ConfiguredBackend, read_configuration, write_configuration

NOWHERE = Path("/cache")

SAID: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    "axolotl": [
        (
            {},
            {
                "base_model": "/models/base",
                "output_dir": "/jobs/router-1/checkpoints",
                "chat_template": "tokenizer_default",
            },
        ),
        ({"method": "full"}, {"adapter": None, "lora_r": None, "load_in_4bit": None}),
        ({"method": "lora"}, {"adapter": "lora", "load_in_4bit": False, "lora_target_linear": True}),
        ({"method": "qlora"}, {"adapter": "qlora", "load_in_4bit": True}),
        ({"lora_rank": 8, "lora_alpha": 24, "lora_dropout": 0.1}, {"lora_r": 8, "lora_alpha": 24, "lora_dropout": 0.1}),
        ({"target_modules": ["q_proj"]}, {"lora_target_modules": ["q_proj"], "lora_target_linear": None}),
        ({"target_modules": "(q|k)_proj"}, {"lora_target_modules": "(q|k)_proj"}),
        ({"learning_rate": 0.003, "weight_decay": 0.2}, {"learning_rate": 0.003, "weight_decay": 0.2}),
        ({"lr_scheduler": "linear", "warmup_fraction": 0.1}, {"lr_scheduler": "linear", "warmup_ratio": 0.1}),
        ({"lr_scheduler": "constant", "warmup_fraction": 0.1}, {"lr_scheduler": "constant", "warmup_ratio": 0.0}),
        ({"batch_size": 3, "gradient_accumulation": 5}, {"micro_batch_size": 3, "gradient_accumulation_steps": 5}),
        ({"epochs": 2.5}, {"num_epochs": 2.5, "max_steps": None}),
        ({"max_steps": 7}, {"max_steps": 7}),
        ({"max_length": 99}, {"sequence_len": 99, "excess_length_strategy": "truncate"}),
        ({"assistant_only_loss": False}, {"train_on_inputs": True}),
        ({"precision": "bf16"}, {"bf16": True, "fp16": False}),
        ({"precision": "fp32"}, {"bf16": False, "fp16": False, "tf32": False}),
        ({"gradient_checkpointing": True}, {"gradient_checkpointing": True}),
        (
            {"seed": 5, "logging_steps": 2, "eval_steps": 3, "save_steps": 4},
            {"seed": 5, "logging_steps": 2, "eval_steps": 3, "save_steps": 4},
        ),
    ],
    "llamafactory": [
        ({}, {"model_name_or_path": "/models/base", "output_dir": "/jobs/router-1/checkpoints", "stage": "sft"}),
        ({"method": "full"}, {"finetuning_type": "full", "lora_rank": None, "quantization_bit": None}),
        ({"method": "lora"}, {"finetuning_type": "lora", "quantization_bit": None, "lora_target": "all"}),
        ({"method": "qlora"}, {"finetuning_type": "lora", "quantization_bit": 4, "quantization_type": "nf4"}),
        (
            {"lora_rank": 8, "lora_alpha": 24, "lora_dropout": 0.1},
            {"lora_rank": 8, "lora_alpha": 24, "lora_dropout": 0.1},
        ),
        ({"target_modules": ["q_proj", "o_proj"]}, {"lora_target": "q_proj,o_proj"}),
        ({"learning_rate": 0.003, "weight_decay": 0.2}, {"learning_rate": 0.003, "weight_decay": 0.2}),
        ({"lr_scheduler": "linear", "warmup_fraction": 0.1}, {"lr_scheduler_type": "linear", "warmup_steps": 0.1}),
        (
            {"batch_size": 3, "gradient_accumulation": 5},
            {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 5},
        ),
        ({"epochs": 2.5}, {"num_train_epochs": 2.5, "max_steps": -1}),
        ({"max_steps": 7}, {"max_steps": 7}),
        ({"max_length": 99}, {"cutoff_len": 99}),
        ({"packing": False}, {"packing": False, "neat_packing": False}),
        ({"packing": True}, {"packing": True, "neat_packing": True}),
        ({"assistant_only_loss": True}, {"train_on_prompt": False}),
        ({"assistant_only_loss": False}, {"train_on_prompt": True}),
        ({"precision": "bf16"}, {"bf16": True, "fp16": False}),
        ({"gradient_checkpointing": True}, {"disable_gradient_checkpointing": False}),
        (
            {"seed": 5, "logging_steps": 2, "eval_steps": 3, "save_steps": 4},
            {"seed": 5, "data_seed": 5, "logging_steps": 2, "eval_steps": 3, "save_steps": 4},
        ),
    ],
}


def rendered(backend: str, *, on_gpu: bool = False, **changes: Any) -> dict[str, Any]:
    renderer = backend_of(backend)
    assert isinstance(renderer, ConfiguredBackend)
    spec = TrainingSpec.model_validate({**VALUES, "backend": backend, **changes})
    return renderer.render(spec, on_gpu=on_gpu, cache=NOWHERE)


@pytest.mark.parametrize(
    ("backend", "changes", "says"), [(backend, *case) for backend, cases in SAID.items() for case in cases]
)
def test_a_field_stands_in_the_configuration(backend: str, changes: dict[str, Any], says: dict[str, Any]) -> None:
    configuration = rendered(backend, **changes)
    assert {name: configuration.get(name) for name in says} == says


@pytest.mark.parametrize("assistant_only", [True, False])
def test_axolotl_reads_both_parts_of_the_version(assistant_only: bool) -> None:
    configuration = rendered("axolotl", assistant_only_loss=assistant_only)
    [train], [validation] = configuration["datasets"], configuration["test_datasets"]
    assert train["path"] == "/datasets/highway/v1/train.parquet"
    assert validation == {**train, "path": "/datasets/highway/v1/validation.parquet"}
    assert (train["roles_to_train"] == ["assistant"]) is assistant_only
    assert configuration["val_set_size"] == 0


def test_llamafactory_reads_both_parts_of_the_version() -> None:
    from trainer.backends.llamafactory import dataset_info

    spec = TrainingSpec.model_validate({**VALUES, "backend": "llamafactory"})
    parts = dataset_info(spec)
    assert [parts[name]["file_name"] for name in ("train", "validation")] == [
        "/datasets/highway/v1/train.parquet",
        "/datasets/highway/v1/validation.parquet",
    ]
    configuration = rendered("llamafactory")
    assert {configuration["dataset"], configuration["eval_dataset"]} == set(parts)


@pytest.mark.parametrize("backend", list(SAID))
def test_activations_are_computed_twice_on_a_gpu_unless_told_otherwise(backend: str) -> None:
    name, twice = {
        "axolotl": ("gradient_checkpointing", True),
        "llamafactory": ("disable_gradient_checkpointing", False),
    }[backend]
    assert rendered(backend, on_gpu=True)[name] is twice
    assert rendered(backend, on_gpu=False)[name] is not twice
    assert rendered(backend, on_gpu=True, gradient_checkpointing=False)[name] is not twice


def test_axolotl_leaves_its_gpu_kernels_off_on_a_cpu() -> None:
    assert rendered("axolotl", on_gpu=False)["lora_mlp_kernel"] is False
    assert "lora_mlp_kernel" not in rendered("axolotl", on_gpu=True)


@pytest.mark.parametrize("backend", list(SAID))
def test_a_configuration_survives_its_file(backend: str, tmp_path: Path) -> None:
    configuration = rendered(backend, target_modules=["q_proj"])
    write_configuration(tmp_path / "configuration.yaml", configuration)
    assert read_configuration(tmp_path / "configuration.yaml") == configuration
    assert [path.name for path in tmp_path.iterdir()] == ["configuration.yaml"]
