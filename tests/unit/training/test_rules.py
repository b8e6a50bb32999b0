"""Fields that cannot hold together are refused before anything starts, all at once, with what would be right."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.training.test_spec import VALUES

from tollgate.errors import BadInputError
from tollgate.settings import PROJECT
from tollgate.training.model_shape import Linear, ModelShape
from tollgate.training.parsing import parse_spec
from tollgate.training.rules import base_contradictions, row_contradictions
from tollgate.training.spec import TrainingSpec, schema_text


def told(**changes: Any) -> dict[str, str]:
    with pytest.raises(BadInputError) as refused:
        parse_spec({**VALUES, **changes})
    return {problem.where: problem.expected for problem in refused.value.problems}


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"early_stopping_minimum_gain": 0.1}, "early_stopping_patience", "1 to 1000"),
        ({"early_stopping_patience": 2, "max_steps": 100}, "eval_steps", "1 to 100"),
        ({"lr_scheduler": "constant_with_warmup", "warmup_fraction": 0}, "warmup_fraction", "above 0"),
        ({"target_modules": []}, "target_modules", "all-linear"),
        ({"target_modules": ""}, "target_modules", "all-linear"),
        ({"method": "full", "serve_adapter_as": "merged"}, "serve_adapter_as", "only lora and qlora leave an adapter"),
    ],
)
def test_fields_that_contradict_each_other(changes: dict[str, Any], field: str, words: str) -> None:
    [(where, expected)] = told(**changes).items()
    assert where == field
    assert words in expected


@pytest.mark.parametrize(
    "changes",
    [
        {"processes": 2, "distribution": "ddp"},
        {"early_stopping_patience": 1, "early_stopping_minimum_gain": 0.1},
        {"early_stopping_patience": 2, "max_steps": 100, "eval_steps": 100},
        {"lr_scheduler": "constant_with_warmup", "warmup_fraction": 0.1},
        {"method": "full", "target_modules": []},
        {"method": "full", "serve_adapter_as": "adapter"},
        {"method": "qlora", "serve_adapter_as": "merged"},
    ],
)
def test_what_may_be_meant_is_taken_and_survives_its_file(changes: dict[str, Any]) -> None:
    spec = parse_spec({**VALUES, **changes})
    assert parse_spec(json.loads(spec.model_dump_json())) == spec


def test_contradictions_are_told_beside_wrong_fields_but_not_about_them() -> None:
    wrong = {"learning_rate": -1, "base_model": "here", "eval_steps": 0, "early_stopping_patience": 3}
    wrong |= {"lr_scheduler": "constant_with_warmup", "warmup_fraction": 0}
    assert set(told(**wrong, max_steps=5, typo=1)) == {
        "learning_rate",
        "base_model",
        "eval_steps",
        "typo",
        "warmup_fraction",
    }


def test_all_relative_paths_are_told_at_once() -> None:
    assert set(told(base_model="a", dataset="b", output="c")) == {"base_model", "dataset", "output"}


def shape(*widths: int, positions: int | None = 512) -> ModelShape:
    linear = tuple(Linear(f"model.layers.0.mlp.up_proj_{width}", width, 128) for width in widths)
    return ModelShape("X", 1, 64, 64, 64, 2, 2, 128, 300, positions, True, 10_000, linear)


def base_told(spec: TrainingSpec, device: str = "cpu", longest: int = 100, **sizes: Any) -> list[str]:
    base = shape(*sizes.pop("widths", (64, 192)), **sizes)
    return [problem.where for problem in base_contradictions(spec, base, device, longest)]


def test_what_a_base_cannot_bear() -> None:
    spec = parse_spec({**VALUES, "method": "qlora"})
    assert base_told(spec) == []
    assert base_told(spec, widths=(64, 96)) == ["method"]
    assert base_told(spec, "gpu", widths=(64, 96)) == []
    assert base_told(spec.model_copy(update={"method": "lora"}), widths=(64, 96)) == []
    assert base_told(spec.model_copy(update={"target_modules": ["q_proj"]})) == ["target_modules"]


def test_only_rows_that_are_there_count_against_the_positions() -> None:
    spec = parse_spec({**VALUES, "max_length": 2048})
    assert base_told(spec, longest=512) == []
    assert base_told(spec, longest=513) == ["max_length"]
    assert base_told(spec.model_copy(update={"max_length": 512}), longest=513) == []
    assert base_told(spec, longest=513, positions=None) == []


def test_what_the_rows_cannot_bear() -> None:
    spec = parse_spec({**VALUES, "early_stopping_patience": 1, "eval_steps": 50})
    assert row_contradictions(spec, 50, {"train": 9, "validation": 1}) == []
    assert [problem.where for problem in row_contradictions(spec, 49, {"train": 9, "validation": 1})] == ["eval_steps"]
    empty = row_contradictions(spec, 50, {"train": 9, "validation": 0})
    assert "validation" in str(empty[0])
    several = spec.model_copy(update={"distribution": "ddp", "processes": 10})
    assert [problem.where for problem in row_contradictions(several, 50, {"train": 9, "validation": 1})] == [
        "processes"
    ]


def test_the_published_schema_is_the_specifications() -> None:
    published = PROJECT / "docs" / "training-spec.schema.json"
    assert published.read_text(encoding="utf-8") == schema_text(), (
        "tollgate schema training > docs/training-spec.schema.json"
    )
    assert set(json.loads(schema_text())["properties"]) == set(TrainingSpec.model_fields)
