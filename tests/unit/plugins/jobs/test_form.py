"""The trigger form takes exactly what the training specification takes."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import ParamValidationError

from jobs.form import training_params
from tollgate.errors import BadInputError
from tollgate.training.spec import TrainingSpec, parse_spec

PATHS = {
    "job_name": "router-1",
    "base_model": "/models/base",
    "dataset": "/datasets/highway/v1",
    "dataset_reference": "highway@v1",
    "output": "/jobs/router-1",
    "processes": 2,  # a distribution needs several
}
NUMBERS = [-1, 0, 1e-9, 0.5, 0.999, 1, 1.5, 2, 7, 8, 512, 513, 1000, 1000.5, 1024, 1025, 4096, 4097, 1_048_576]
NUMBERS += [1_048_577, 2**31 - 1, 2**31]
VALUES: list[Any] = [*NUMBERS, "fp32", "bf16", "fp8", "lora", "full", "magic", "cosine", "linear", "trl", "none", ""]
SIMPLE = sorted(
    name
    for name, schema in TrainingSpec.model_json_schema()["properties"].items()
    if "default" in schema and "type" in schema and schema["type"] != "boolean"
)


def form_takes(name: str, value: Any) -> bool:
    try:
        training_params([name], section="How")[name].resolve(value)
    except ParamValidationError:
        return False
    return True


def specification_takes(name: str, value: Any) -> bool:
    try:
        parse_spec({**PATHS, name: value})
    except BadInputError:
        return False
    return True


@pytest.mark.parametrize("name", SIMPLE)
def test_the_forms_limits_are_the_specifications(name: str) -> None:
    taken = [value for value in VALUES if form_takes(name, value)]
    assert taken == [value for value in VALUES if specification_takes(name, value)]
    assert 0 < len(taken) < len(VALUES), "the values lie on both sides of the limits"


def test_the_fields_of_finetune_are_among_them() -> None:
    assert {
        "lora_rank",
        "lora_alpha",
        "learning_rate",
        "epochs",
        "batch_size",
        "max_length",
        "precision",
        "seed",
    } <= set(SIMPLE)


def test_defaults_and_descriptions_are_the_specifications_unless_told() -> None:
    params = training_params(["epochs", "lora_rank"], "How", epochs=1.0)
    assert {name: param.value for name, param in params.items()} == {"epochs": 1.0, "lora_rank": 16}
    assert params["lora_rank"].schema["title"] == "LoRA rank"
    assert params["lora_rank"].description == TrainingSpec.model_fields["lora_rank"].description
