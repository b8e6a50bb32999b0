"""Versions in the forms that other tools read: OpenAI's JSONL, and a Hugging Face dataset folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Literal

import orjson

from tollgate.dataset.schema import SPLITS
from tollgate.dataset.versions import DatasetVersion
from tollgate.errors import BadInputError, Problem

Form = Literal["openai", "hugging-face"]
_ROWS = 4096  # at a time: an export needs no more memory for a larger version


def export(version: DatasetVersion, form: Form, target: Path) -> list[Path]:
    """Write all parts of a version to a new folder, whole or not at all.

    ``openai`` gives ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl`` with a ``messages`` array a line;
    ``hugging-face`` gives what ``datasets.load_from_disk`` opens, with all columns.

    Args:
        version: The version.
        form: Which of the two.
        target: The folder to make.

    Returns:
        What was written, sorted.

    Raises:
        BadInputError: The target is there already.
    """
    if target.exists():
        raise BadInputError("The export would overwrite something.", [Problem("target", str(target), "a new folder")])
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if form == "openai":
        _write_openai(version, partial)
    else:
        _write_hugging_face(version, partial)
    partial.rename(target)
    return sorted(target.iterdir())


def _write_openai(version: DatasetVersion, folder: Path) -> None:
    import pyarrow.parquet as pq

    for part in SPLITS:
        with (folder / f"{part}.jsonl").open("wb") as file, pq.ParquetFile(version.file(part)) as rows:
            for batch in rows.iter_batches(_ROWS, columns=["messages"]):
                for row in batch.to_pylist():
                    file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


def _write_hugging_face(version: DatasetVersion, folder: Path) -> None:
    from datasets import Dataset, DatasetDict

    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as cache:  # mapped, not loaded
        parts = {part: Dataset.from_parquet(str(version.file(part)), cache_dir=cache) for part in SPLITS}
        DatasetDict(parts).save_to_disk(str(folder))
