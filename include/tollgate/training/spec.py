"""The specification of a training job: the one file that the training container reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from tollgate.training.backends import DEFAULT, BackendName
from tollgate.training.merging import ADAPTER, MERGED, ServedAs


class TrainingSpec(BaseModel):
    """Everything a training container needs to know; paths are the same inside and outside of it."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    job_name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,199}$", description="Unique name, also of the job folder.")
    base_model: Path = Field(description="Folder of the base model: config.json, tokenizer, safetensors.")
    dataset: Path = Field(description="Folder of the dataset version: train.parquet and validation.parquet.")
    dataset_reference: str = Field(description="The same version as people write it, for example highway@v3.")
    output: Path = Field(description="The job folder: checkpoints, progress.jsonl, result.json are written here.")

    backend: BackendName = Field(DEFAULT, description="The library that trains; docs/backends.md compares them.")
    method: Literal["full", "lora", "qlora"] = Field("lora", description="Which weights are trained.")
    lora_rank: int = Field(16, ge=1, le=512, description="Rank of the adapter.")
    lora_alpha: int = Field(32, ge=1, le=1024, description="Scale of the adapter; the update counts alpha / rank.")
    lora_dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout before the adapter.")
    target_modules: str | list[str] = Field("all-linear", description="Layers that get an adapter.")
    serve_adapter_as: ServedAs = Field(
        ADAPTER,
        description="What production gets of lora or qlora: the adapter beside others on the shared server, or merged "
        "into its base, full weights on a server of their own.",
    )

    learning_rate: float = Field(2e-4, gt=0.0, le=1.0, description="Peak learning rate.")
    lr_scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "cosine", description="How the learning rate falls."
    )
    warmup_fraction: float = Field(
        0.05, ge=0.0, lt=1.0, description="Share of the steps in which the rate rises; constant has no such steps."
    )
    weight_decay: float = Field(0.0, ge=0.0, le=1.0, description="Decay of the weights per step (AdamW).")
    batch_size: int = Field(4, ge=1, le=4096, description="Rows per device and step.")
    gradient_accumulation: int = Field(1, ge=1, le=4096, description="Steps added up before the weights change.")
    epochs: float = Field(3.0, gt=0.0, le=1000.0, description="Passes over the training part.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many steps, whatever the epochs.")
    max_length: int = Field(2048, ge=8, le=1_048_576, description="Longest row in tokens; longer ones are cut.")
    packing: bool = Field(False, description="Put several short rows into one sequence; attention stays within a row.")
    assistant_only_loss: bool = Field(True, description="Learn from the assistant's turns only.")
    gradient_checkpointing: bool | None = Field(
        None, description="Compute activations twice to save memory; empty: on a GPU."
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Arithmetic of the training.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of everything random.")

    logging_steps: int = Field(10, ge=1, description="Write progress every so many steps.")
    eval_steps: int = Field(500, ge=1, description="Measure the validation loss every so many steps.")
    save_steps: int = Field(500, ge=1, description="Save a checkpoint every so many steps.")
    checkpoints_kept: int = Field(2, ge=1, le=100, description="Checkpoints kept; older ones are deleted.")
    resume_from: str = Field(
        "last",
        pattern=r"^(last|none|checkpoint-[1-9][0-9]*)$",
        description="Checkpoint to go on from: last, none, or a name such as checkpoint-500.",
    )
    early_stopping_patience: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Stop after so many measurements without a gain in validation loss; empty: never.",
    )
    early_stopping_minimum_gain: float = Field(
        0.0, ge=0.0, le=100.0, description="A smaller fall of the loss is no gain."
    )

    distribution: Literal["none", "ddp", "fsdp", "zero2", "zero3"] = Field(
        "none",
        description="How several processes share the work: copies of the weights (ddp, or none), or parts of them.",
    )
    processes: int = Field(
        1,
        ge=1,
        le=64,
        validate_default=True,
        description="Training processes; on GPUs one for each device. Each adds batch_size rows to every step.",
    )

    @field_validator("distribution")
    @classmethod
    def _method_can_be_shared(cls, distribution: str, info: ValidationInfo) -> str:
        if info.data.get("method") == "qlora" and distribution in {"fsdp", "zero3"}:
            raise ValueError(
                f"{distribution} cuts the weights into parts, and the 4-bit weights of qlora stay whole: "
                "choose ddp or zero2, or the method lora"
            )
        return distribution

    @field_validator("processes")
    @classmethod
    def _there_is_something_to_share(cls, processes: int, info: ValidationInfo) -> int:
        distribution = info.data.get("distribution", "none")
        if processes == 1 and distribution != "none":
            raise ValueError(f"{distribution} shares the work of 2 or more processes; with 1 the distribution is none")
        return processes

    @property
    def rows_per_step(self) -> int:
        """Rows from which one change of the weights is computed, over all processes: the global batch."""
        return self.batch_size * self.gradient_accumulation * self.processes

    @property
    def is_merged(self) -> bool:
        """Whether the trained adapter is merged into its base before anybody serves it."""
        return self.serve_adapter_as == MERGED

    @field_validator("base_model", "dataset", "output")
    @classmethod
    def _absolute(cls, path: Path, information: ValidationInfo) -> Path:
        if not path.is_absolute():
            raise ValueError(f"{information.field_name} must be an absolute path")
        return path


def schema_text() -> str:
    """The JSON schema of a specification, as it is published in ``docs/training-spec.schema.json``."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema = {**dialect, **TrainingSpec.model_json_schema()}
    return json.dumps(schema, ensure_ascii=False, indent=2) + "\n"
