"""Merge a job's adapter into its base: ``python containers/trainer/merge.py JOB_FOLDER [OUTPUT] [--precision bf16]``.

The output is a folder that Hugging Face and vLLM load like any model: safetensors, configuration, tokenizer and chat
template. The adapter goes into the base as it is stored, also for qlora: adding to 4-bit weights and rounding them
again would lose more than the adapter says. Exit status: 0 done; 2 there is nothing to merge; 1 anything else.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

# Run as a script, Python puts this folder on its path; the package ``trainer`` is one level up.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from tollgate.errors import BadInputError, Problem
from trainer.train import read_spec

Precision = Literal["stored", "bf16", "fp32"]
EXIT_BAD_INPUT = 2
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job_folder", type=Path)
    parser.add_argument("output", type=Path, nargs="?", help="default: merged in the job folder")
    parser.add_argument("--precision", choices=("stored", "bf16", "fp32"), default="stored", help="default: the base's")
    options = parser.parse_args(arguments)
    job_folder = options.job_folder.resolve()
    output = options.output.resolve() if options.output else job_folder / "merged"
    try:
        print(f"Merged: {merge(job_folder, output, options.precision)}")  # ruff: ignore[T201]
    except BadInputError as error:
        print(error, file=sys.stderr)  # ruff: ignore[T201]
        return EXIT_BAD_INPUT
    return 0


def merge(job_folder: Path, output: Path, precision: Precision = "stored") -> Path:
    """Merge the adapter of a finished job into its base.

    Args:
        job_folder: The job.
        output: Where the model goes. It appears when it is whole; a model that is there is replaced then.
        precision: Of the merged weights; ``stored``: that of the base.

    Returns:
        ``output``.

    Raises:
        BadInputError: The job has no adapter, or its base is stored quantized.
        ValueError: The merged weights would not be finite numbers.
    """
    spec = read_spec(job_folder)
    adapter = job_folder / "adapter"
    _check(spec.method, adapter, spec.base_model)

    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    # The stored arithmetic, bf16 for most bases; what is added is computed in fp32 and rounded once.
    kind: Any = torch.float32 if precision == "fp32" else "auto"
    base = AutoModelForCausalLM.from_pretrained(spec.base_model, dtype=kind, local_files_only=True)
    model: Any = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload(safe_merge=True)
    if precision == "bf16":
        model = model.to(torch.bfloat16)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        model.save_pretrained(str(partial), safe_serialization=True)
        _copy_tokenizer(spec.base_model, partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _replace(partial, output)
    return output


def _check(method: str, adapter: Path, base: Path) -> None:
    problems = []
    if method == "full":
        problems.append(Problem("method", "full", "lora or qlora; a full training leaves a whole model already"))
    elif not (adapter / "adapter_config.json").is_file():
        problems.append(Problem("job", str(adapter), "an adapter, which a job leaves when it is done"))
    if "quantization_config" in json.loads((base / "config.json").read_text(encoding="utf-8")):
        problems.append(Problem("base_model", f"{base}, which is stored quantized", "the base in bf16 or fp32"))
    if problems:
        raise BadInputError("There is nothing to merge.", problems)


def _copy_tokenizer(base: Path, target: Path) -> None:
    """Copy the tokenizer as it is: loading and saving it might write it differently."""
    for pattern in TOKENIZER_FILES:
        for file in base.glob(pattern):
            shutil.copy2(file, target / file.name)


def _replace(partial: Path, output: Path) -> None:
    replaced = output.with_name(f".{output.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.exists():
        output.rename(replaced)
    partial.rename(output)
    shutil.rmtree(replaced, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
