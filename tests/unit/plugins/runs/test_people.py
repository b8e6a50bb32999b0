from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from runs.people import who


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({"triggering_user_name": "kim"}, "kim"),
        ({"triggering_user_name": None}, "retrain/scheduled__1"),
        ({}, "retrain/scheduled__1"),
    ],
)
def test_a_run_is_its_users_or_else_its_own(user: dict[str, Any], expected: str) -> None:
    run = SimpleNamespace(dag_id="retrain", run_id="scheduled__1", **user)
    assert who({"dag_run": run}) == expected  # type: ignore[typeddict-item]
