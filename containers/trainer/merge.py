"""Merge a job's adapter into its base: ``python containers/trainer/merge.py JOB_FOLDER [OUTPUT] [--precision bf16]``.

The output is a folder that Hugging Face and vLLM load like any model: safetensors, configuration, tokenizer and chat
template. The adapter goes into the base as it is stored, also for qlora: adding to 4-bit weights and rounding them
again would lose more than the adapter says. It is computed on the CPU. What is merged already is not merged again:
``merged_from.json`` beside the weights says of what they are made. With ``--report FOLDER``, as the task ``merge`` of
``finetune`` asks, ``result.json`` or ``error.json`` is written there. Exit status: 0 done; 2 there is nothing to merge;
1 anything else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Literal

# Run as a script, Python puts this folder on its path; the package ``trainer`` is one level up.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from tollgate.errors import BadInputError, Problem
from tollgate.training.checkpoint_files import sync
from tollgate.training.merging import FOLDER, ORIGIN, unmergeable_base
from tollgate.training.spec import TrainingSpec
from trainer.failures import Failure, is_disk_full, is_out_of_memory
from trainer.train import read_spec

Precision = Literal["stored", "bf16", "fp32"]
EXIT_FAILED, EXIT_BAD_INPUT = 1, 2
LARGEST_SHARD = "5GB"
"""Of the merged weights; a file of this size is copied and loaded with less memory than all weights in one."""
TOKENIZER_FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)


def main(arguments: list[str]) -> int:
    """Merge, and say where the model is; returns the exit status."""
    options = _options(arguments)
    job_folder = options.job_folder.resolve()
    output = options.output.resolve() if options.output else job_folder / "merged"
    begun = time.monotonic()
    try:
        is_new = merge(job_folder, output, options.precision)
    except BadInputError as error:
        return _fail(Failure("bad_specification", str(error), ""), options.report, EXIT_BAD_INPUT)
    except Exception as error:
        traceback.print_exc()
        return _fail(_explain(error), options.report, EXIT_FAILED)
    print(f"{'Merged' if is_new else 'Merged already'}: {output}", flush=True)  # ruff: ignore[T201]
    if options.report:
        result = {"status": "succeeded", "weights_path": str(output), "seconds": round(time.monotonic() - begun, 1)}
        _write_json(options.report / "result.json", result | {"merged_now": is_new})
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job_folder", type=Path)
    parser.add_argument("output", type=Path, nargs="?", help="default: merged in the job folder")
    parser.add_argument("--precision", choices=("stored", "bf16", "fp32"), default="stored", help="default: the base's")
    parser.add_argument(
        "--report", type=Path, help=f"folder for result.json or error.json, such as JOB_FOLDER/{FOLDER}"
    )
    return parser.parse_args(arguments)


def merge(job_folder: Path, output: Path, precision: Precision = "stored") -> bool:
    """Merge the adapter of a finished job into its base.

    Args:
        job_folder: The job.
        output: Where the model goes. It appears when it is whole; a model that is there is replaced then, unless it is
            made of the same adapter already.
        precision: Of the merged weights; ``stored``: that of the base.

    Returns:
        Whether it was merged now; false where ``output`` is made of this adapter already.

    Raises:
        BadInputError: The job has no adapter, or its base is stored quantized.
        ValueError: The merged weights would not be finite numbers.
    """
    spec = read_spec(job_folder)
    adapter = job_folder / "adapter"
    _check(spec.method, adapter, spec.base_model)
    origin = _origin(spec, adapter, precision)
    partial, replaced = (output.with_name(f".{output.name}.{word}") for word in ("partial", "replaced"))
    for left_by_a_kill in (partial, replaced):
        shutil.rmtree(left_by_a_kill, ignore_errors=True)
    if _origin_of(output) == origin:
        return False
    model = _merged(spec.base_model, adapter, precision)
    try:
        model.save_pretrained(str(partial), safe_serialization=True, max_shard_size=LARGEST_SHARD)
        _copy_tokenizer(spec.base_model, partial)
        _write_json(partial / ORIGIN, origin)
        for path in (*partial.iterdir(), partial):  # a name that outlasts a power cut names weights that do
            sync(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.exists():
        output.rename(replaced)
    partial.rename(output)
    shutil.rmtree(replaced, ignore_errors=True)
    return True


def _merged(base_model: Path, adapter: Path, precision: Precision) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    # The stored arithmetic, bf16 for most bases; what is added is computed in fp32 and rounded once.
    kind: Any = torch.float32 if precision == "fp32" else "auto"
    base = AutoModelForCausalLM.from_pretrained(base_model, dtype=kind, local_files_only=True)
    model: Any = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload(safe_merge=True)
    return model.to(torch.bfloat16) if precision == "bf16" else model


def _origin(spec: TrainingSpec, adapter: Path, precision: Precision) -> dict[str, Any]:
    """Of what merged weights are made: the adapter by the SHA-256 of its files, the base by its name."""
    files = sorted([adapter / "adapter_config.json", *adapter.glob("*.safetensors")])
    return {
        "job": spec.job_name,
        "method": spec.method,
        "base_model": spec.base_model.name,
        "precision": precision,
        "adapter": {path.name: _digest(path) for path in files},
    }


def _origin_of(output: Path) -> dict[str, Any] | None:
    """Of what the weights in ``output`` are made; nothing where there are none, or some that say nothing."""
    try:
        value = json.loads((output / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(method: str, adapter: Path, base: Path) -> None:
    problems = []
    if method == "full":
        problems.append(Problem("method", "full", "lora or qlora; a full training leaves a whole model already"))
    elif not (adapter / "adapter_config.json").is_file():
        problems.append(Problem("job", str(adapter), "an adapter, which a job leaves when it is done"))
    problems += unmergeable_base(base)
    if problems:
        raise BadInputError("There is nothing to merge.", problems)


def _copy_tokenizer(base: Path, target: Path) -> None:
    """Copy the tokenizer as it is: loading and saving it might write it differently."""
    for pattern in TOKENIZER_FILES:
        for file in base.glob(pattern):
            shutil.copy2(file, target / file.name)


def _explain(error: Exception) -> Failure:
    """Why the merging failed, and what to do."""
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    if is_out_of_memory(error):
        advice = "Raise TOLLGATE_JOB_MEMORY; the base's weights must fit. The adapter is kept."
        return Failure("out_of_memory", text, advice)
    if is_disk_full(error):
        advice = "Free space: the merged weights need as much as the base's. The adapter is kept."
        return Failure("disk_full", text, advice)
    return Failure("failed", text, "See the log above this line. The adapter is kept.")


def _fail(failure: Failure, report: Path | None, status: int) -> int:
    if report:
        _write_json(report / "error.json", failure._asdict())
    print(f"{failure.message}\n{failure.advice}".rstrip(), file=sys.stderr, flush=True)  # ruff: ignore[T201]
    return status


def _write_json(path: Path, value: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
