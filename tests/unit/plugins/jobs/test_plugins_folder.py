"""Airflow imports each file of the plugins folder under its bare name; ``operator.py`` must not be among them."""

from __future__ import annotations

from airflow.utils.file import find_path_from_directory

from tollgate.settings import PROJECT


def test_airflow_takes_nothing_of_this_room_for_a_plugin() -> None:
    found = find_path_from_directory(str(PROJECT / "plugins"), ".airflowignore", "glob")
    assert not [path for path in found if path.startswith(str(PROJECT / "plugins" / "jobs")) and path.endswith(".py")]
