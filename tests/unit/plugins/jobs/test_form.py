"""The trigger form takes exactly what the training specification takes."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import ParamValidationError

from jobs.form import optional_params, training_params
from tollgate.errors import BadInputError
from tollgate.training.jobs import FORM_FIELDS
from tollgate.training.parsing import parse_spec
from tollgate.training.spec import TrainingSpec

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
VALUES: list[Any] = [*NUMBERS, "fp32", "bf16", "fp8", "lora", "full", "magic", "cosine", "linear", ""]
VALUES += ["last", "none", "checkpoint-500", "checkpoint-0", "ddp", "trl", "axolotl", "unsloth", "merged"]
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
    """Whether this field may have the value; what it then demands of others is not the form's matter."""
    try:
        parse_spec({**PATHS, name: value})
    except BadInputError as error:
        return all(problem.where != name for problem in error.problems)
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


OPTIONAL = sorted({*SIMPLE, "early_stopping_patience", "max_steps"})


def optional_takes(name: str, value: Any) -> bool:
    try:
        optional_params([name], section="How")[name].resolve(value)
    except ParamValidationError:
        return False
    return True


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_field_that_may_stay_empty_has_the_specifications_limits_too(name: str) -> None:
    assert optional_takes(name, None)
    taken = [value for value in VALUES if optional_takes(name, value)]
    assert taken == [value for value in VALUES if specification_takes(name, value)]
    assert 0 < len(taken) < len(VALUES), "the values lie on both sides of the limits"


@pytest.mark.parametrize("name", ["packing", "assistant_only_loss", "gradient_checkpointing"])
def test_a_switch_is_on_off_or_empty(name: str) -> None:
    assert [value for value in (None, True, False, "magic", 7) if optional_takes(name, value)] == [None, True, False]


def test_every_field_that_a_user_would_set_is_on_the_form_or_reaches_it_as_json() -> None:
    from dags.finetune import HYPERPARAMETERS, MORE_HYPERPARAMETERS, PARAMS

    shown = {"method", *HYPERPARAMETERS, *MORE_HYPERPARAMETERS}
    assert shown <= set(PARAMS)
    assert shown <= FORM_FIELDS
    as_json = FORM_FIELDS - set(PARAMS)
    assert as_json <= {"target_modules", "processes"}


def test_an_optional_field_tells_what_empty_means() -> None:
    params = optional_params(["weight_decay", "lr_scheduler", "max_steps", "packing"], "How")
    assert all(param.value is None for param in params.values())
    assert str(params["weight_decay"].description).endswith("empty: 0.0.")
    assert str(params["lr_scheduler"].description).endswith("empty: cosine.")
    assert "empty" not in str(params["max_steps"].description)
    assert params["packing"].schema["type"] == ["null", "boolean"]
