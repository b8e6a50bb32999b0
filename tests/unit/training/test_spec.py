from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tollgate.errors import BadInputError
from tollgate.training.spec import TrainingSpec, parse_spec

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


@pytest.mark.parametrize("field", ["base_model", "dataset", "output"])
def test_paths_mean_the_same_in_every_container(field: str) -> None:
    with pytest.raises(BadInputError, match=f"{field} must be an absolute path"):
        parse_spec({**VALUES, field: "models/base"})
