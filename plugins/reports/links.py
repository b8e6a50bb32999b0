"""Where the pages are."""

from __future__ import annotations

from urllib.parse import quote

PREFIX = "/tollgate"
"""Where Airflow mounts the pages."""


def report_path(name: str, number: int) -> str:
    """The path of a version's report on Airflow's own address."""
    return f"{PREFIX}/datasets/{name}/v{number}"


def experiment_path(name: str) -> str:
    """The path of an experiment's report on Airflow's own address."""
    return f"{PREFIX}/experiments/{quote(name, safe='')}"
