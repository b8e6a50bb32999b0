"""A library must train on the rows of the dataset version, written as the base model's chat template writes them.

The server that will answer with the model writes chats by the template. A library that leaves rows out, or writes them
otherwise, trains a model for other questions than it will get; nobody would see it in the loss.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow.parquet

from tollgate.errors import BadInputError, Problem
from tollgate.training.spec import TrainingSpec

if TYPE_CHECKING:
    from trainer.resumable import Resumable

SAMPLES = 32
"""Rows of each part that are compared, spread evenly over it."""
PACKED = "packing_params"
"""Where LLaMA-Factory notes in a packed sequence where its rows begin and end."""
GENERATION = re.compile(r"\{%-?\s*generation\b")
"""Where a chat template begins to write what the assistant says."""
IGNORED = -100
"""The label of a token that nothing is learned from."""


def check_rows(spec: TrainingSpec, trainer: Resumable) -> None:
    """Compare the rows that the trainer has with those of the dataset version.

    Args:
        spec: The job.
        trainer: Its ``train_dataset`` and ``eval_dataset`` hold ``input_ids`` and ``labels``, in the version's order.

    Raises:
        BadInputError: Rows are missing, or a row says or teaches something else.
    """
    for part, theirs in (("train", trainer.train_dataset), ("validation", trainer.eval_dataset)):
        table = pyarrow.parquet.read_table(spec.dataset / f"{part}.parquet", columns=["messages"])
        if len(theirs) and PACKED in theirs[0]:
            theirs = _unpacked(theirs, spec, trainer.processing_class, table)
        if len(theirs) != table.num_rows:
            expected = (
                f"rows that {spec.backend} takes: it leaves out {table.num_rows - len(theirs)} of the {table.num_rows} "
                f"rows of the {part} part; trl takes all"
            )
            raise BadInputError("The backend cannot train on this dataset.", [Problem("dataset", part, expected)])
        for place in sampled(table.num_rows):
            _check_row(
                spec, trainer.processing_class, table["messages"][place].as_py(), theirs[place], f"{part}:{place}"
            )


def sampled(count: int) -> Sequence[int]:
    """At most :data:`SAMPLES` places among ``count``, evenly spread, the first and the last among them."""
    if count <= SAMPLES:
        return range(count)
    return [round(place * (count - 1) / (SAMPLES - 1)) for place in range(SAMPLES)]


def _unpacked(packed: Any, spec: TrainingSpec, tokenizer: Any, table: pyarrow.Table) -> list[dict[str, list[int]]]:
    """The rows of sequences that LLaMA-Factory packed, in the version's order as far as they are in it.

    Every row is looked up by its text; what is not found, and what is left over, stands behind the others.
    """
    found: dict[str, list[dict[str, list[int]]]] = {}
    for sequence in packed:
        bounds = sequence[PACKED]["sequence_boundaries"]
        kept = len(sequence["input_ids"]) - sequence[PACKED]["right_padding_length"]
        for begin, end in itertools.pairwise(bound for bound in bounds if bound <= kept):
            row = {name: sequence[name][begin:end] for name in ("input_ids", "labels")}
            found.setdefault(tokenizer.decode(row["input_ids"]), []).append(row)
    texts = (_text(messages, tokenizer) for messages in table["messages"].to_pylist())
    ordered = [found[text].pop() if found.get(text) else None for text in texts]
    rest = iter([row for rows in found.values() for row in rows])
    filled = [next(rest, None) if row is None else row for row in ordered]
    return [row for row in [*filled, *rest] if row is not None]


def _text(messages: list[dict[str, str]], tokenizer: Any) -> str:
    text: str = tokenizer.decode(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"])
    return text


def _check_row(spec: TrainingSpec, tokenizer: Any, messages: list[dict[str, str]], row: Any, place: str) -> None:
    masked = GENERATION.search(tokenizer.chat_template) is not None
    ours = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=masked and spec.assistant_only_loss
    )
    tokens = ours["input_ids"]
    if max(len(tokens), len(row["input_ids"])) >= spec.max_length:
        return  # cut; libraries cut in their own ways
    if tokenizer.decode(tokens) != tokenizer.decode(row["input_ids"]):
        raise _refused(spec, place, "writes its text otherwise than the base model's chat template")
    if spec.assistant_only_loss and not masked:
        return  # the template does not say which text is the assistant's
    mask = ours["assistant_masks"] if spec.assistant_only_loss else [1] * len(tokens)
    learned = [token for token, learns in zip(tokens, mask, strict=True) if learns]
    theirs = [label for label in row["labels"] if label != IGNORED]
    # Whether the line break behind a turn is learned makes no difference: the answer has ended before it.
    if _dense(tokenizer.decode(learned)) != _dense(tokenizer.decode(theirs)):
        raise _refused(spec, place, "learns from other text than the assistant's turns with their ends")


def _dense(text: str) -> str:
    return "".join(text.split())


def _refused(spec: TrainingSpec, place: str, does: str) -> BadInputError:
    expected = f"trl: {spec.backend} {does} (row {place})"
    return BadInputError("The backend cannot train on this dataset.", [Problem("backend", spec.backend, expected)])
