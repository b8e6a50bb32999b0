"""Adapters on the CPU, computed in vLLM's own environment and compared with each token's plain matrix products."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tollgate.settings import PROJECT

COMPARE = """
import json, sys
import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

RANK, INPUTS, SIZES, SCALE = 4, 24, (16, 8), 0.5
torch.manual_seed(0)
down = tuple(torch.randn(3, 1, RANK, INPUTS) for _ in SIZES)
up = tuple(torch.randn(3, 1, size, RANK) for size in SIZES)

def difference(adapters, is_prefill):
    # Adapter 7 is in slot 0, 8 in slot 1, 9 in slot 2; 0 is no adapter
    wrapper = PunicaWrapperCPU(64, 64, "cpu")
    mapping = LoRAMapping(tuple(adapters), tuple(adapters), is_prefill=is_prefill)
    wrapper.update_metadata(mapping, [7, 8, 9], 3, 100)
    x, before = torch.randn(len(adapters), INPUTS), torch.randn(len(adapters), sum(SIZES))
    y, expected = before.clone(), before.clone()
    wrapper.add_lora_linear(y, x, down, up, SCALE, SIZES)
    for row, adapter in enumerate(adapters):
        start = 0
        for a, b, size in zip(down, up, SIZES):
            if adapter:
                expected[row, start:start + size] += b[adapter - 7, 0] @ (a[adapter - 7, 0] @ x[row]) * SCALE
            start += size
    return (y - expected).abs().max(dim=1).values.tolist()

def differences():
    batches = ([7] * 5, [7, 9, 9, 8, 7], [0, 7, 7, 0, 9], [0] * 4, [8])
    return [max(difference(one, prefill)) for one in batches for prefill in (True, False)]

def logits(tokens):
    # Two requests; the output layer is asked for as many tokens' logits as said
    wrapper = PunicaWrapperCPU(64, 64, "cpu")
    wrapper.update_metadata(LoRAMapping((7, 9), (7, 9), is_prefill=False), [7, 8, 9], 3, 100)
    x, before = torch.randn(tokens, INPUTS), torch.randn(tokens, 16)
    y = before.clone()
    try:
        wrapper.add_lora_logits(y, x, down[0], up[0], SCALE)
    except RuntimeError:
        return None
    return (y - before).abs().max().item()

theirs, their_prompt = difference([0, 7], True), logits(5)
import cpu_adapters
print(json.dumps({
    "ours": differences(),
    "theirs": theirs,
    "prompt": logits(5),
    "their_prompt": their_prompt,
    "last_tokens": logits(2),
}))
"""


@pytest.fixture(scope="module")
def compared(ml_python: Path) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "containers" / "vllm"), "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        [ml_python, "-c", COMPARE], env=environment, check=True, capture_output=True, text=True, timeout=300
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_every_token_gets_its_own_adapter_and_none_where_none_is_asked_for(compared: dict[str, Any]) -> None:
    assert len(compared["ours"]) == 10
    assert max(compared["ours"]) < 1e-4


def test_vllm_itself_still_mixes_the_last_slot_into_tokens_without_an_adapter(compared: dict[str, Any]) -> None:
    """Where this fails vLLM has mended it, and only speed is left as a reason for our own functions."""
    without_adapter, with_adapter = compared["theirs"]
    assert without_adapter > 1e-2
    assert with_adapter < 1e-4


def test_the_logits_of_a_prompt_do_not_end_the_engine(compared: dict[str, Any]) -> None:
    assert compared["prompt"] == 0, "adapters that leave the output layer alone change no logits there"
    assert compared["last_tokens"] > 1e-2, "an adapter of the output layer still does its part"


def test_vllm_itself_still_fails_over_the_logits_of_a_prompt(compared: dict[str, Any]) -> None:
    """Where this fails vLLM has mended it, and ``add_lora_logits`` of our own may go."""
    assert compared["their_prompt"] is None
