"""How several processes share one training, as settings of the trainer: DDP, FSDP2, or DeepSpeed's ZeRO.

Every process computes the gradients of its own rows, ``batch_size`` of them. ``ddp`` (also ``none``) keeps a copy of
the weights in each process. ``zero2`` cuts gradients and optimizer states into a part for each process, ``fsdp`` and
``zero3`` the weights as well.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from tollgate.errors import BadInputError, Problem
from tollgate.training.spec import TrainingSpec

ZERO_STAGES = {"zero2": 2, "zero3": 3}


def world_size() -> int:
    """How many processes share this training, as the launcher says; 1 where there is none."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ.get("RANK", "0"))


def check_installed(spec: TrainingSpec) -> None:
    """Make sure that what the specification's distribution needs is there.

    Raises:
        BadInputError: DeepSpeed is needed and not installed.
    """
    if spec.distribution in ZERO_STAGES and importlib.util.find_spec("deepspeed") is None:
        expected = "ddp or fsdp, or DeepSpeed in the trainer's environment (requirements-gpu-deepspeed.txt)"
        raise BadInputError(
            "The training cannot be shared in this way here.", [Problem("distribution", spec.distribution, expected)]
        )


def training_arguments(spec: TrainingSpec, *, checkpointing: bool, on_gpu: bool) -> dict[str, Any]:
    """Further arguments of ``SFTConfig``: how the processes share the work.

    Args:
        spec: The job.
        checkpointing: Whether activations are computed twice to save memory.
        on_gpu: Whether the processes compute on GPUs; otherwise they talk to each other through gloo.
    """
    arguments: dict[str, Any] = {"gradient_checkpointing": checkpointing}
    if world_size() == 1:
        return arguments
    if not on_gpu:
        arguments["ddp_backend"] = "gloo"
    if spec.distribution == "fsdp":
        return arguments | {"fsdp": True, "fsdp_config": fsdp_settings(checkpointing), "gradient_checkpointing": False}
    if spec.distribution in ZERO_STAGES:
        arguments |= {"deepspeed": zero_settings(ZERO_STAGES[spec.distribution]), "use_cpu": False}
        return arguments if on_gpu else arguments | {"accelerator_config": {"use_configured_state": True}}
    return arguments | {"ddp_find_unused_parameters": False}  # all trained weights take part in every step


def fsdp_settings(checkpointing: bool) -> dict[str, Any]:
    """Settings of FSDP2. A part for each transformer layer; checkpoints hold whole weights, of which vLLM can read.

    Args:
        checkpointing: Whether activations are computed twice; FSDP does it itself, for else it would gather the weights
            once more.
    """
    return {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "reshard_after_forward": True,
        "state_dict_type": "FULL_STATE_DICT",
        "activation_checkpointing": checkpointing,
    }


def zero_settings(stage: int) -> dict[str, Any]:
    """DeepSpeed's configuration; ``auto`` values follow the trainer's own arguments.

    Args:
        stage: 2 cuts gradients and optimizer states into parts, 3 the weights as well.
    """
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    if stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True  # else there is nothing to serve
    return {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # AdamW of torch, as everywhere else
        "bf16": {"enabled": "auto"},
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
    }


def let_cpus_run_zero(spec: TrainingSpec) -> None:
    """Connect CPU processes through gloo for DeepSpeed; to be called before the arguments are made.

    accelerate hands DeepSpeed a backend for accelerators only, and counts one process where it has none.
    """
    if spec.distribution in ZERO_STAGES and world_size() > 1:
        from accelerate.state import PartialState

        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        PartialState(backend="gloo")
        del os.environ["ACCELERATE_USE_DEEPSPEED"]


def let_cpus_share_weights(spec: TrainingSpec) -> None:
    """Make accelerate shard weights between CPU processes too; to be called between the arguments and the trainer.

    accelerate looks for its FSDP plugin on accelerators only, although FSDP2 runs on gloo. Its state is told that the
    processes are several devices; which device they compute on stands elsewhere and stays the CPU.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    state = PartialState._shared_state
    if spec.distribution == "fsdp" and state.get("distributed_type") == DistributedType.MULTI_CPU:
        state["distributed_type"] = DistributedType.MULTI_GPU
