"""The settings of FSDP and DeepSpeed as their own libraries read them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tollgate.errors import BadInputError
from tollgate.settings import PROJECT
from tollgate.training.parsing import parse_spec
from tollgate.training.spec import TrainingSpec
from trainer import distribution

CHECK_FSDP = """
import json, sys
from transformers import TrainingArguments
from trainer.distribution import fsdp_settings

arguments = TrainingArguments(output_dir="/tmp/unused", use_cpu=True, fsdp=True, fsdp_config=fsdp_settings(True))
from accelerate.utils import FullyShardedDataParallelPlugin
plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
print(json.dumps({
    "version": plugin.fsdp_version,
    "state_dict": plugin.state_dict_type.name,
    "checkpointing": plugin.activation_checkpointing,
    "reshard": plugin.reshard_after_forward,
    "wraps": plugin.auto_wrap_policy.__name__,
}))
"""
CHECK_ZERO = """
import json, sys
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig
from transformers import TrainingArguments
from trainer.distribution import zero_settings

stage = int(sys.argv[1])
arguments = TrainingArguments(output_dir="/tmp/unused", use_cpu=True, bf16=True, per_device_train_batch_size=4,
    gradient_accumulation_steps=3, max_grad_norm=1.0)
config = HfTrainerDeepSpeedConfig(zero_settings(stage))
config.trainer_config_process(arguments)
from deepspeed.runtime.config import DeepSpeedConfig
read = DeepSpeedConfig(config.config)
print(json.dumps({
    "stage": read.zero_config.stage,
    "batch": read.train_micro_batch_size_per_gpu,
    "accumulation": read.gradient_accumulation_steps,
    "clipping": read.gradient_clipping,
    "bf16": read.bfloat16_config.enabled,
    "whole_weights": read.zero_config.gather_16bit_weights_on_model_save,
}))
"""
PATHS = {"base_model": "/b", "dataset": "/d", "dataset_reference": "sums@v1", "output": "/o", "job_name": "job"}


def spec(**changes: Any) -> TrainingSpec:
    return parse_spec({**PATHS, "processes": 2, **changes})


def run(ml_python: Path, program: str, *words: str) -> dict[str, Any]:
    paths = os.pathsep.join(str(PROJECT / room) for room in ("include", "containers"))
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [str(ml_python), "-c", program, *words]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    result: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return result


def test_fsdp_settings_are_what_accelerate_reads(ml_python: Path) -> None:
    assert run(ml_python, CHECK_FSDP) == {
        "version": 2,
        "state_dict": "FULL_STATE_DICT",
        "checkpointing": True,
        "reshard": True,
        "wraps": "transformer_auto_wrap_policy",
    }


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_settings_pass_deepspeeds_own_check(ml_python: Path, stage: int) -> None:
    found = subprocess.run([ml_python, "-c", "import deepspeed"], capture_output=True)
    if found.returncode:
        pytest.skip("DeepSpeed is not installed beside the trainer (requirements-gpu-deepspeed.txt has it)")
    assert run(ml_python, CHECK_ZERO, str(stage)) == {
        "stage": stage,
        "batch": 4,
        "accumulation": 3,
        "clipping": 1.0,
        "bf16": True,
        "whole_weights": stage == 3,
    }


def test_one_process_needs_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    one = spec(processes=1)
    assert distribution.training_arguments(one, checkpointing=True, on_gpu=True) == {"gradient_checkpointing": True}


@pytest.mark.parametrize(
    ("name", "on_gpu", "expected"),
    [
        ("none", True, {"gradient_checkpointing": True, "ddp_find_unused_parameters": False}),
        ("ddp", False, {"gradient_checkpointing": True, "ddp_find_unused_parameters": False, "ddp_backend": "gloo"}),
        (
            "fsdp",
            True,
            {"gradient_checkpointing": False, "fsdp": True, "fsdp_config": distribution.fsdp_settings(True)},
        ),
        (
            "zero3",
            True,
            {"gradient_checkpointing": True, "deepspeed": distribution.zero_settings(3), "use_cpu": False},
        ),
    ],
)
def test_each_distribution_has_its_settings(
    monkeypatch: pytest.MonkeyPatch, name: str, on_gpu: bool, expected: dict[str, Any]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    shared = spec(distribution=name)
    assert distribution.training_arguments(shared, checkpointing=True, on_gpu=on_gpu) == expected


def test_zero_without_deepspeed_is_refused_in_words() -> None:
    if importlib.util.find_spec("deepspeed") is not None:
        pytest.skip("DeepSpeed is installed here")
    with pytest.raises(BadInputError, match="found zero2, expected ddp or fsdp, or DeepSpeed"):
        distribution.check_installed(spec(distribution="zero2"))
    distribution.check_installed(spec(distribution="fsdp"))
