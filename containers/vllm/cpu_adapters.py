"""Adapters on vLLM's CPU build: tokens that use the same adapter share one matrix product.

vLLM 0.32 computes LoRA on the CPU by copying the adapter's matrices once for every token, which takes three quarters of
an engine step of a small model. It also reads "no adapter" (-1) as the last slot: where all slots are taken, a request
to the base model that shares a batch with others is answered with somebody's adapter. And a request for the log
probabilities of its prompt ends the engine, and with it the server.

``containers/vllm/serve.py`` names :class:`CpuAdapters` as vLLM's worker extension. vLLM imports it in the process that
computes, before the model is built; importing this module puts the functions below in the place of vLLM's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.lora.punica_wrapper.punica_base import PunicaWrapperBase
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

if TYPE_CHECKING:
    import torch

    Groups = list[tuple[int, torch.Tensor | None]]


class CpuAdapters:
    """Worker extension without methods of its own; see the module."""


def grouped(slots: torch.Tensor) -> Groups:
    """Which tokens use which adapter.

    Args:
        slots: The slot of each token's adapter, -1 for none; shape (tokens,).

    Returns:
        Each slot in use with the places of its tokens; None in their stead where all tokens use it.
    """
    used = slots.unique().tolist()
    if len(used) == 1 and used[0] >= 0:
        return [(used[0], None)]
    return [(slot, (slots == slot).nonzero().squeeze(1)) for slot in used if slot >= 0]


def update_metadata(self: Any, *arguments: Any, **keywords: Any) -> None:
    """Read a batch's adapters as vLLM does, and group its tokens once for all layers."""
    PunicaWrapperBase.update_metadata(self, *arguments, **keywords)
    self.token_groups = grouped(self.token_lora_indices)


def apply_shrink(self: Any, y: torch.Tensor, x: torch.Tensor, w_t_all: torch.Tensor, scale: float) -> None:
    """``y = scale * x @ A.T``, with each token's A; tokens without an adapter keep their zeros.

    Args:
        self: vLLM's wrapper.
        y: Result, shape (tokens, largest rank).
        x: Input of the layer, shape (tokens, inputs).
        w_t_all: Each slot's A, shape (slots, 1, largest rank, inputs) or without the 1.
        scale: Factor of the result.
    """
    y = y.view(-1, y.shape[-1])
    rank = w_t_all.shape[-2]
    for slot, rows in self.token_groups:
        weight = w_t_all[slot].view(w_t_all.shape[-2:]).to(y.dtype)
        if rows is None:
            y[:, :rank] = scale * (x.to(y.dtype) @ weight.T)
        else:
            y[rows, :rank] = scale * (x[rows].to(y.dtype) @ weight.T)


def apply_expand(
    self: Any,
    y: torch.Tensor,
    x: torch.Tensor,
    w_t_all: torch.Tensor,
    y_offset: int,
    y_slice_size: int,
    add_inputs: bool = True,
) -> None:
    """``y[:, offset : offset + size] += x @ B.T``, with each token's B.

    Args:
        self: vLLM's wrapper.
        y: Output of the layer, shape (tokens, outputs).
        x: What :func:`apply_shrink` made, shape (tokens, largest rank).
        w_t_all: Each slot's B, shape (slots, 1, size, largest rank) or without the 1.
        y_offset: First column to change.
        y_slice_size: Number of columns.
        add_inputs: Whether to add to what is there, or to replace it.
    """
    columns = y[:, y_offset : y_offset + y_slice_size]
    for slot, rows in self.token_groups:
        weight = w_t_all[slot].view(w_t_all.shape[-2:]).to(y.dtype)
        product = (x if rows is None else x[rows]).to(y.dtype) @ weight.T
        if rows is None:
            columns.copy_(columns + product if add_inputs else product)
        else:
            columns[rows] = columns[rows] + product if add_inputs else product


def add_lora_logits(
    self: Any, y: torch.Tensor, x: torch.Tensor, lora_a_stacked: torch.Tensor, *arguments: Any, **keywords: Any
) -> None:
    """Add what adapters of the output layer do to the logits, as vLLM does, where its mapping belongs to these tokens.

    Logits of a prompt are asked for with all its tokens, while vLLM's mapping has one entry for each request: it would
    fail, and end the engine. Adapters that leave the output layer alone, as those of Tollgate's trainer, lose nothing.

    Args:
        self: vLLM's wrapper.
        y: The logits, shape (tokens, vocabulary).
        x: Input of the output layer, shape (tokens, inputs).
        lora_a_stacked: Each slot's A.
        *arguments: As vLLM gives them.
        **keywords: As vLLM gives them.
    """
    if x.view(-1, x.shape[-1]).shape[0] != self.sampler_indices.shape[0]:
        return
    ADD_LORA_LOGITS(self, y, x, lora_a_stacked, *arguments, **keywords)


ADD_LORA_LOGITS = PunicaWrapperCPU.add_lora_logits
PunicaWrapperCPU.add_lora_logits = add_lora_logits
PunicaWrapperCPU.update_metadata = update_metadata
PunicaWrapperCPU._apply_shrink = apply_shrink
PunicaWrapperCPU._apply_expand = apply_expand
