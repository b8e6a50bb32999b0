"""Airflow reads this module when one of its processes begins: the scheduler then imports what tasks need.

LocalExecutor forks its workers from the scheduler, and they fork each task. What the scheduler has imported every task
has at once, instead of spending two to six seconds on it. Only what neither starts a Python thread nor breaks in a
forked process belongs here: polars hangs there, and MLflow imports it.
"""

from __future__ import annotations

import importlib
import sys

__all__: list[str] = []  # Airflow takes over no name from here

WANTED_BY_TASKS = (
    "great_expectations",
    "tollgate.gates.stages",
    "tollgate.workflow.experiments",
    "tollgate.workflow.finetune",
)

if sys.argv[1:2] == ["scheduler"]:
    for _module in WANTED_BY_TASKS:
        importlib.import_module(_module)
