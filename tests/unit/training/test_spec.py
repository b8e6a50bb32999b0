from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from tollgate.errors import BadInputError
from tollgate.training.parsing import parse_spec
from tollgate.training.spec import TrainingSpec

VALUES: dict[str, Any] = {
    "job_name": "router-1",
    "base_model": "/models/base",
    "dataset": "/datasets/highway/v1",
    "dataset_reference": "highway@v1",
    "output": "/jobs/router-1",
}


def test_a_specification_survives_its_file() -> None:
    spec = parse_spec({**VALUES, "target_modules": ["q_proj"]})
    assert spec.output == Path("/jobs/router-1")
    assert TrainingSpec.model_validate_json(spec.model_dump_json()) == spec


def test_every_wrong_field_is_named_at_once_with_what_was_found() -> None:
    wrong = {**VALUES, "job_name": "../x", "epochs": 0, "method": "magic", "seed": "one", "typo": 1}
    with pytest.raises(BadInputError) as refused:
        parse_spec(wrong)
    found = {problem.where: problem.value for problem in refused.value.problems}
    assert found == {"job_name": "'../x'", "epochs": "0", "method": "'magic'", "seed": "'one'", "typo": "1"}
    assert "greater than 0" in str(refused.value)


def test_every_number_and_every_choice_is_refused_with_all_that_is_allowed() -> None:
    """One request in which everything is wrong; bounds are read from the fields, not from what is told."""
    fields = {name: field for name, field in TrainingSpec.model_fields.items() if name not in VALUES}
    with pytest.raises(BadInputError) as refused:
        parse_spec({**VALUES, **dict.fromkeys(fields, "wrong"), "target_modules": 5})
    told: dict[str, str] = {}
    for problem in refused.value.problems:
        told.setdefault(problem.where.partition(".")[0], problem.expected)
    assert set(told) == set(fields)
    for name, field in fields.items():
        for choice in get_args(field.annotation) if get_origin(field.annotation) is Literal else ():
            assert repr(choice) in told[name]
        for bound in field.metadata:
            for value in (getattr(bound, limit, None) for limit in ("ge", "gt", "le", "lt")):
                assert value is None or re.search(rf"(?<![\d.]){value:.10g}(?![\d.])", told[name]), (name, told[name])


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("epochs", 0, "above 0, at most 1000"),
        ("epochs", 1001, "above 0, at most 1000"),
        ("lora_dropout", 1, "0 or more, below 1"),
        ("seed", "one", "0 to 2147483647"),
        ("early_stopping_patience", 0, "1 to 1000, or empty"),
        ("max_steps", 0, "1 or more, or empty"),
        ("checkpoints_kept", 101, "1 to 100"),
        ("weight_decay", -1, "0 to 1"),
    ],
)
def test_the_whole_range_is_told_not_only_the_bound_that_was_broken(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(BadInputError) as refused:
        parse_spec({**VALUES, field: value})
    [problem] = refused.value.problems
    assert problem.where == field
    assert problem.expected.endswith(f"allowed: {allowed}")


@pytest.mark.parametrize("field", ["base_model", "dataset", "output"])
def test_paths_mean_the_same_in_every_container(field: str) -> None:
    with pytest.raises(BadInputError, match=f"{field} must be an absolute path"):
        parse_spec({**VALUES, field: "models/base"})


@pytest.mark.parametrize(
    ("changes", "field", "told"),
    [
        ({"method": "qlora", "distribution": "zero3", "processes": 2}, "distribution", "choose ddp or zero2"),
        ({"method": "qlora", "distribution": "fsdp", "processes": 2}, "distribution", "stay whole"),
        ({"distribution": "fsdp"}, "processes", "fsdp shares the work of 2 or more processes"),
        ({"distribution": "ddp", "processes": 1}, "processes", "with 1 the distribution is none"),
        ({"processes": 0}, "processes", "greater than or equal to 1"),
    ],
)
def test_a_distribution_that_cannot_work_is_refused_in_words(changes: dict[str, Any], field: str, told: str) -> None:
    with pytest.raises(BadInputError, match=told) as refused:
        parse_spec({**VALUES, **changes})
    assert [problem.where for problem in refused.value.problems] == [field]


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "qlora", "distribution": "zero2"},
        {"method": "qlora", "distribution": "ddp"},
        {"method": "full", "distribution": "zero3"},
        {"method": "lora", "distribution": "fsdp"},
        {"method": "lora", "distribution": "none"},
    ],
)
def test_every_process_adds_its_rows_to_a_step(changes: dict[str, Any]) -> None:
    spec = parse_spec({**VALUES, **changes, "processes": 2, "batch_size": 4, "gradient_accumulation": 3})
    assert spec.rows_per_step == 24
