"""Packed rows must not see each other. Whether they do depends on the base model's attention, so it is tried out."""

from __future__ import annotations

from typing import Any

import torch

from tollgate.errors import BadInputError, Problem

ROW_TOKENS = 8
LARGEST_SHARE = 0.1


def check_rows_are_separate(model: torch.nn.Module, collator: Any) -> None:
    """Compute a row alone, packed behind another one, and joined with it into one row.

    Packed must be like alone. How far joined is from alone gives the scale: one limit does for every arithmetic.

    Args:
        model: The model, as it will be trained.
        collator: What makes batches for it.

    Raises:
        BadInputError: The rows see each other, or the model can't be told where rows begin.
    """
    first, second = list(range(ROW_TOKENS)), list(range(ROW_TOKENS, 2 * ROW_TOKENS))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = _answers(model, collator, second, [ROW_TOKENS])
            packed = _answers(model, collator, first + second, [ROW_TOKENS, ROW_TOKENS])
            joined = _answers(model, collator, first + second, [2 * ROW_TOKENS])
    except (TypeError, ValueError) as error:
        raise _refused(f"a base model that takes no positions ({error})") from error
    finally:
        model.train(was_training)
    _compare(packed, alone, joined)


def check_batch_is_separate(trainer: Any) -> None:
    """As :func:`check_rows_are_separate`, of a batch that a library packed itself.

    A row behind another one of the first batch is computed alone and compared with what it is within the batch.

    Args:
        trainer: Its batches have ``position_ids`` that begin anew with every row.

    Raises:
        BadInputError: The rows see each other, or the batch does not say where they begin.
    """
    batch = next(iter(trainer.get_train_dataloader()))
    batch.pop("labels", None)
    place = _row_behind_another(batch)
    if place is None:
        raise _refused("a batch without positions, or with one row in each sequence")
    sequence, begin, end = place
    tokens, model = batch["input_ids"], trainer.model
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            packed = model(**batch, use_cache=False).logits[sequence, begin:end].float()
            alone = model(input_ids=tokens[sequence : sequence + 1, begin:end], use_cache=False).logits[0].float()
            joined = model(input_ids=tokens[sequence : sequence + 1, :end], use_cache=False).logits[0, begin:].float()
    finally:
        model.train(was_training)
    _compare(packed, alone, joined)


def _row_behind_another(batch: Any) -> tuple[int, int, int] | None:
    """Sequence, begin and end of the second row of the first sequence that has more than one."""
    positions = batch.get("position_ids")
    if positions is None:
        return None
    for sequence, places in enumerate(positions.tolist()):
        begins = [at for at, position in enumerate(places) if position == 0] + [len(places)]
        if len(begins) > 2 and begins[2] - begins[1] > 1:
            return sequence, begins[1], begins[2]
    return None


def _compare(packed: torch.Tensor, alone: torch.Tensor, joined: torch.Tensor) -> None:
    difference, scale = (packed - alone).abs().mean().item(), (joined - alone).abs().mean().item()
    if not difference < LARGEST_SHARE * scale:
        raise _refused("a base model in which packed rows see each other")


def _answers(model: torch.nn.Module, collator: Any, tokens: list[int], lengths: list[int]) -> torch.Tensor:
    batch = collator([{"input_ids": tokens, "labels": tokens, "seq_lengths": lengths}])
    device = next(model.parameters()).device
    inputs = {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
    inputs.pop("labels")
    logits: torch.Tensor = model(**inputs, use_cache=False).logits
    return logits[0, -ROW_TOKENS:].float()


def _refused(found: str) -> BadInputError:
    problem = Problem("packing", found, "false, or a base model whose attention keeps rows apart")
    return BadInputError("This base model's rows can't be packed.", [problem])
