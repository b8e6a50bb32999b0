"""A specification names its backend, and fields that the backend does not honour are refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from tests.unit.training.test_spec import VALUES

from tollgate.errors import BadInputError
from tollgate.settings import PROJECT, Settings
from tollgate.training.backends import LIMITS, BackendName
from tollgate.training.parsing import parse_spec
from tollgate.training.spec import TrainingSpec


def test_every_backend_has_its_limits_and_its_file() -> None:
    names = get_args(BackendName)
    assert set(LIMITS) == set(names)
    files = {path.stem for path in (PROJECT / "containers/trainer/backends").glob("*.py")}
    assert files == {*names, "__init__", "base", "rows"}
    assert {field for limits in LIMITS.values() for field in limits} <= set(TrainingSpec.model_fields)


def test_a_specification_of_before_trains_with_trl() -> None:
    assert parse_spec(VALUES).backend == "trl"


@pytest.mark.parametrize("backend", get_args(BackendName))
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_every_backend_takes_the_defaults_of_every_method(backend: str, method: str) -> None:
    assert parse_spec({**VALUES, "backend": backend, "method": method}).backend == backend


@pytest.mark.parametrize(
    ("changes", "field", "allows"),
    [
        ({"backend": "axolotl", "packing": True}, "packing", "false with the backend axolotl"),
        ({"backend": "axolotl", "processes": 2}, "processes", "1 with the backend axolotl"),
        (
            {"backend": "llamafactory", "processes": 2, "distribution": "fsdp"},
            "distribution",
            "none or ddp with the backend llamafactory",
        ),
        (
            {"backend": "llamafactory", "target_modules": "(q|k)_proj"},
            "target_modules",
            "all-linear, or a list of layer names",
        ),
    ],
)
def test_what_a_backend_does_not_honour_is_refused_by_name(changes: dict[str, Any], field: str, allows: str) -> None:
    assert parse_spec({**VALUES, **changes, "backend": "trl"})
    with pytest.raises(BadInputError) as refused:
        parse_spec({**VALUES, **changes})
    [problem] = refused.value.problems
    assert problem.where == field
    assert allows in problem.expected


@pytest.mark.parametrize("backend", ["trl", "llamafactory"])
def test_these_backends_pack(backend: str) -> None:
    assert parse_spec({**VALUES, "backend": backend, "packing": True}).packing


@pytest.mark.parametrize("distribution", ["none", "ddp"])
def test_llamafactory_trains_in_several_processes_with_copies_of_the_weights(distribution: str) -> None:
    shared = {"backend": "llamafactory", "processes": 2, "distribution": distribution}
    assert parse_spec({**VALUES, **shared}).rows_per_step == 2 * parse_spec(VALUES).rows_per_step


def test_all_of_it_is_refused_at_once_beside_fields_that_are_wrong_by_themselves() -> None:
    wrong = {"backend": "axolotl", "packing": True, "processes": 2, "distribution": "zero2", "epochs": 0}
    with pytest.raises(BadInputError) as refused:
        parse_spec({**VALUES, **wrong})
    assert {problem.where for problem in refused.value.problems} == {"packing", "processes", "distribution", "epochs"}


def test_a_backend_that_is_none_is_refused() -> None:
    with pytest.raises(BadInputError, match="'trl', 'axolotl' or 'llamafactory'"):
        parse_spec({**VALUES, "backend": "unsloth", "packing": True})


@pytest.mark.parametrize(
    ("image", "named"),
    [
        ("tollgate/trainer:0.1.0", "tollgate/trainer-axolotl:0.1.0"),
        ("registry.local:5000/trainer", "registry.local:5000/trainer-axolotl"),
        ("trainer:1", "trainer-axolotl:1"),
    ],
)
def test_a_backends_image_is_named_after_the_trainers(image: str, named: str) -> None:
    settings = Settings(trainer_image=image, backend_images={"llamafactory": "other:2"})
    assert settings.trainer_image_of("trl") == image
    assert settings.trainer_image_of("axolotl") == named
    assert settings.trainer_image_of("llamafactory") == "other:2"


def test_a_backends_interpreter_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_BACKEND_PYTHONS", '{"axolotl": "/opt/axolotl/bin/python"}')
    settings = Settings()
    assert settings.python_of("trl") == settings.ml_python
    assert settings.python_of("axolotl") == Path("/opt/axolotl/bin/python")
    assert settings.python_of("llamafactory") == PROJECT / ".venv-llamafactory/bin/python"
