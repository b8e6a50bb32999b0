from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tollgate.settings import PROJECT, Settings
from vllm.serve import ADAPTER_RANKS, adapter_rank_limit, server_arguments, server_environment


def _option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def test_arguments_follow_the_settings() -> None:
    configuration = Settings(
        base_model=Path("/models/base"), base_model_name="qwen", vllm_port=9001, max_lora_rank=20, max_model_len=777
    )
    arguments = server_arguments(configuration, cpu=True)
    assert _option(arguments, "--model") == "/models/base"
    assert _option(arguments, "--served-model-name") == "qwen"
    assert _option(arguments, "--port") == "9001"
    assert _option(arguments, "--max-lora-rank") == "32"
    assert _option(arguments, "--max-model-len") == "777"
    assert "--enable-lora" in arguments
    assert "--enforce-eager" in arguments
    assert "--enforce-eager" not in server_arguments(configuration, cpu=False)


@pytest.mark.parametrize(("rank", "limit"), [(1, 1), (2, 8), (16, 16), (17, 32), (300, 320), (512, 512)])
def test_the_rank_limit_is_the_next_that_vllm_knows(rank: int, limit: int) -> None:
    assert adapter_rank_limit(rank) == limit
    assert limit in ADAPTER_RANKS


def test_environment_is_offline_always_and_tuned_unless_the_caller_did() -> None:
    environment = server_environment({"OMP_NUM_THREADS": "7", "VLLM_NO_USAGE_STATS": "0"}, cpu=True)
    assert environment["OMP_NUM_THREADS"] == "7"
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert environment["VLLM_NO_USAGE_STATS"] == environment["HF_HUB_OFFLINE"] == "1"
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert "OMP_NUM_THREADS" not in server_environment({}, cpu=False)


def test_without_a_compiler_nothing_is_compiled_on_a_cpu(tmp_path: Path) -> None:
    empty, compiler = tmp_path / "empty", tmp_path / "bin" / "g++"
    compiler.parent.mkdir()
    compiler.write_text("")
    compiler.chmod(0o755)
    assert server_environment({"PATH": str(empty)}, cpu=True)["TORCHDYNAMO_DISABLE"] == "1"
    assert "TORCHDYNAMO_DISABLE" not in server_environment({"PATH": str(compiler.parent)}, cpu=True)
    assert "TORCHDYNAMO_DISABLE" not in server_environment({"PATH": str(empty), "CXX": str(compiler)}, cpu=True)
    assert "TORCHDYNAMO_DISABLE" not in server_environment({"PATH": str(empty)}, cpu=False)


def test_a_folder_that_is_no_model_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    script = PROJECT / "containers" / "vllm" / "serve.py"
    environment = os.environ | {"TOLLGATE_BASE_MODEL": str(tmp_path), "PYTHONPATH": str(PROJECT / "include")}
    answer = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode != 0
    assert f"{tmp_path} has no config.json" in answer.stderr
