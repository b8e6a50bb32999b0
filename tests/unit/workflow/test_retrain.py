from __future__ import annotations

import pytest

from tollgate.workflow.retrain import parameters


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], "highway@latest"),
        ([{"dataset": "highway@v2"}], "highway@v2"),
        ([{"dataset": "highway@v9"}, {"dataset": "highway@v10"}, {"dataset": "law@v11"}], "highway@v10"),
    ],
)
def test_the_run_uses_the_newest_version_that_started_it(events, expected):
    chosen = parameters("highway@latest", {"epochs": 2}, events)
    assert chosen == {"epochs": 2, "dataset": expected}


def test_a_new_version_of_another_dataset_starts_nothing():
    assert parameters("highway@latest", {}, [{"dataset": "law@v1"}]) is None
