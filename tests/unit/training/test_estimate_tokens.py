"""Tokens of rows and what an epoch of them computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.unit.training.example_base import write_base_model
from tests.unit.training.test_spec import VALUES

from tollgate.errors import BadInputError
from tollgate.training import estimate_tokens
from tollgate.training.estimate_tokens import RowLengths, epoch, packed_lengths, row_lengths, total_steps
from tollgate.training.parsing import parse_spec


def write_rows(file: Path, questions: list[str]) -> Path:
    rows = [[{"role": "user", "content": text}, {"role": "assistant", "content": "ok"}] for text in questions]
    pl.DataFrame({"messages": rows}).write_parquet(file)
    return file


def lengths(*tokens: int) -> RowLengths:
    return RowLengths(rows=len(tokens), tokens=np.array(tokens), longest=max(tokens, default=0))


def of(spec: dict[str, Any], *tokens: int) -> estimate_tokens.Epoch:
    return epoch(parse_spec({**VALUES, **spec}), lengths(*tokens))


def test_rows_are_counted_through_the_template_and_the_tokenizer(tmp_path: Path) -> None:
    base = write_base_model(tmp_path / "base")
    counted = row_lengths(write_rows(tmp_path / "train.parquet", ["hello", "통행료"]), base)
    around = len("<user><assistant>ok")  # one token for each byte
    assert counted.tokens.tolist() == [around + 5, around + 9]
    assert (counted.rows, counted.longest) == (2, around + 9)


def test_of_many_rows_some_are_counted_and_the_longest_is_found(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(estimate_tokens, "SAMPLE", 10)
    base = write_base_model(tmp_path / "base")
    questions = ["a" * 5] * 101
    questions[52] = "a" * 500
    counted = row_lengths(write_rows(tmp_path / "train.parquet", questions), base)
    assert (counted.rows, counted.longest) == (101, 500 + len("<user><assistant>ok"))
    assert counted.counted <= 10
    assert counted.tokens.max() < 100, "the long row is none of the sample"


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda base: (base / "tokenizer.json").write_text("{"), "tokenizer.json"),
        (lambda base: (base / "chat_template.jinja").write_text("{% for %}"), "chat template"),
        (lambda base: (base / "chat_template.jinja").write_text("{{ raise_exception('no system') }}"), "no system"),
        (lambda base: (base / "chat_template.jinja").unlink(), "no chat template"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, spoil: Any, where: str) -> None:
    base = write_base_model(tmp_path / "base")
    spoil(base)
    with pytest.raises(BadInputError, match=where):
        row_lengths(write_rows(tmp_path / "train.parquet", ["hello"]), base)


def test_a_template_of_tokenizer_config_with_special_tokens(tmp_path: Path) -> None:
    base = write_base_model(tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    config = {"chat_template": "{{ bos_token }}{{ messages[0].content }}", "bos_token": {"content": "<s>"}}
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    assert row_lengths(write_rows(tmp_path / "train.parquet", ["hello"]), base).tokens.tolist() == [8]


def test_padding_counts_as_computed_and_rows_are_cut() -> None:
    found = of({"batch_size": 2, "max_length": 100}, 10, 300)
    assert found.tokens == 110
    assert found.computed == 200, "both rows of the batch at the length of the longer one, which is cut"
    assert found.squares == 2 * 100**2
    alone = of({"batch_size": 1, "max_length": 100}, 10, 300)
    assert alone.computed == pytest.approx(55, abs=1)


def test_steps_are_counted_as_the_trainer_counts_them() -> None:
    rows = [10] * 103
    found = of({"batch_size": 4, "gradient_accumulation": 5}, *rows)
    assert (found.batches, found.steps) == (26, 6)
    spec = parse_spec({**VALUES, "batch_size": 4, "gradient_accumulation": 5, "epochs": 2.5})
    assert total_steps(spec, found) == 15
    assert total_steps(spec.model_copy(update={"max_steps": 7}), found) == 7
    shared = of({"batch_size": 4, "processes": 2, "distribution": "ddp"}, *rows)
    assert shared.batches == 13


def test_packing_is_best_fit_decreasing() -> None:
    """The example in the documentation of TRL's pack_dataset: rows of 5 (cut to 4), 2, 3 and 1 into sequences of 4."""
    assert sorted(packed_lengths(np.array([4, 2, 3, 1]), 4).tolist()) == [2, 4, 4]
    found = of({"batch_size": 1, "max_length": 8, "packing": True}, 5, 2, 3, 1)
    assert (found.tokens, found.batches) == (11, 2)
    assert found.squares == found.computed**2


def test_nothing_to_train_on() -> None:
    with pytest.raises(BadInputError, match="no rows"):
        of({})
