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
