"""Settings that a user gave: what is wrong is named, with what was expected."""

from __future__ import annotations

import pytest

from tollgate.errors import BadInputError
from tollgate.gates.gate_settings import GateSettings, read_settings


def test_what_is_not_named_keeps_its_default() -> None:
    assert read_settings({"min_quality": 0.6}) == GateSettings(min_quality=0.6)
    assert GateSettings().min_quality == 0.7


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(BadInputError) as caught:
        read_settings({"min_quality": 2, "minimum": 1})
    assert [problem.where for problem in caught.value.problems] == ["min_quality", "minimum"]
    assert "less than or equal to 1" in str(caught.value)
    assert "min_rows" in caught.value.problems[1].expected


def test_every_setting_is_described() -> None:
    assert [name for name, field in GateSettings.model_fields.items() if not field.description] == []
