"""Airflow imports each file of the plugins folder under its bare name; ``operator.py`` must not be among them."""

from __future__ import annotations

from pathlib import Path

from airflow.utils.file import find_path_from_directory

from tollgate.settings import PROJECT


def test_airflow_takes_one_file_for_a_plugin_and_none_of_the_rooms() -> None:
    found = map(Path, find_path_from_directory(str(PROJECT / "plugins"), ".airflowignore", "glob"))
    assert [path.name for path in found if path.suffix == ".py"] == ["tollgate_reports.py"]
