from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from tests.unit.serving.fake_vllm import write_adapter, write_base

from tollgate.errors import BadInputError
from tollgate.serving.adapter import (
    AdapterDamagedError,
    AdapterMissingError,
    AdapterRankError,
    AdapterUnsupportedError,
    WrongBaseError,
    check_adapter,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


def test_an_adapter_of_this_base_passes(tmp_path: Path, base: Path) -> None:
    adapter = check_adapter(write_adapter(tmp_path / "a", base, rank=4), base, max_rank=8)
    assert (adapter.rank, adapter.base_model) == (4, str(base))


def test_a_base_known_by_its_hub_name_is_the_same_base(tmp_path: Path, base: Path) -> None:
    adapter = write_adapter(tmp_path / "a", base, base_model_name_or_path="somebody/base")
    assert check_adapter(adapter, base, 8).rank == 4


def test_the_largest_rank_counts(tmp_path: Path, base: Path) -> None:
    adapter = write_adapter(tmp_path / "a", base, rank=4, rank_pattern={"q_proj": 16})
    with pytest.raises(AdapterRankError, match=r"r: found 16, expected at most 8"):
        check_adapter(adapter, base, 8)


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, base: Path, file: str) -> None:
    adapter = write_adapter(tmp_path / "a", base)
    (adapter / file).unlink()
    with pytest.raises(AdapterMissingError, match=file.replace(".", r"\.")):
        check_adapter(adapter, base, 8)


def test_every_cut_of_the_weights_is_noticed(tmp_path: Path, base: Path) -> None:
    adapter = write_adapter(tmp_path / "a", base)
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for length in range(0, len(whole), 37):
        weights.write_bytes(whole[:length])
        with pytest.raises(AdapterDamagedError):
            check_adapter(adapter, base, 8)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_an_unreadable_configuration_is_damage(tmp_path: Path, base: Path, content: bytes) -> None:
    adapter = write_adapter(tmp_path / "a", base)
    (adapter / "adapter_config.json").write_bytes(content)
    with pytest.raises(AdapterDamagedError, match=r"adapter_config\.json"):
        check_adapter(adapter, base, 8)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_weights_that_are_no_usable_numbers_never_reach_a_server(tmp_path: Path, base: Path, value: float) -> None:
    with pytest.raises(AdapterDamagedError, match="diverged"):
        check_adapter(write_adapter(tmp_path / "a", base, fill=value), base, 8)


@pytest.mark.parametrize("value", [0.0, -0.0, 65504.0, -1e-30])
def test_ordinary_weights_pass(tmp_path: Path, base: Path, value: float) -> None:
    assert check_adapter(write_adapter(tmp_path / "a", base, fill=value), base, 8)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"hidden": 32}, "shape"),
        ({"layers": 3}, "layer 2"),
        ({"base_model_name_or_path": "/models/other"}, "/models/other"),
    ],
)
def test_an_adapter_of_another_base_is_told(tmp_path: Path, base: Path, change: dict[str, Any], found: str) -> None:
    adapter = write_adapter(tmp_path / "a", base, **change)
    with pytest.raises(WrongBaseError, match=found):
        check_adapter(adapter, base, 8)


@pytest.mark.parametrize(
    "change",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"peft_type": "IA3"},
        {"init_lora_weights": "pissa"},
    ],
)
def test_kinds_that_vllm_cannot_serve_are_told(tmp_path: Path, base: Path, change: dict[str, Any]) -> None:
    with pytest.raises(AdapterUnsupportedError, match=next(iter(change))):
        check_adapter(write_adapter(tmp_path / "a", base, **change), base, 8)


def test_a_folder_that_is_no_base_model_is_told(tmp_path: Path, base: Path) -> None:
    with pytest.raises(BadInputError, match=r"config\.json is missing"):
        check_adapter(write_adapter(tmp_path / "a", base), tmp_path / "elsewhere", 8)
