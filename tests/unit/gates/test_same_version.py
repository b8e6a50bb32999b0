"""One source and one set of settings are one version: by command, as tasks, and as tasks killed again and again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tollgate.dataset import versions
from tollgate.dataset.commands import app
from tollgate.settings import settings

GATES = {"seed": 3, "personal_data_pseudonyms": True}
DRIVER = Path(__file__).with_name("killed_run.py")
KILLED_BEFORE = (
    "ingest.arrow",
    "ingest.result.json",
    "personal_data.arrow",
    "duplicates.result.json",
    "quality.arrow",
    "contamination.result.json",
    "split.arrow",
    "contract.json",
    "v1",
    "version.json",
)


@pytest.fixture
def home(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the stack for this test alone, here and in the processes that it starts."""
    monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    return tmp_path / "home"


def _go_on(state: Path, source: Path, *killed_before: str) -> int:
    command = [sys.executable, str(DRIVER), str(state), str(source), json.dumps(GATES), *killed_before]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, env=environment, check=False).returncode


def test_killed_tasks_the_command_and_undisturbed_tasks_agree(home: Path, faulty_source: Path, tmp_path: Path) -> None:
    state, again = tmp_path / "killed.json", tmp_path / "undisturbed.json"
    for name in KILLED_BEFORE:
        assert _go_on(state, faulty_source, name) == -signal.SIGKILL, name
    assert _go_on(state, faulty_source) == 0
    assert _go_on(again, faulty_source) == 0
    (tmp_path / "gates.json").write_text(json.dumps(GATES))
    command = ["prepare", str(faulty_source), "--name", "other", "--settings", str(tmp_path / "gates.json")]
    assert CliRunner().invoke(app, command).exit_code == 0

    killed, undisturbed = (json.loads(path.read_text())["state"] for path in (state, again))
    assert (killed["reference"], undisturbed["reference"], undisturbed["created"]) == ("calls@v1", "calls@v1", False)
    by_tasks, by_command = versions.resolve("calls@latest"), versions.resolve("other@latest")
    assert by_tasks.manifest.content_hash == by_command.manifest.content_hash == killed["content_hash"]
    assert by_tasks.manifest.counts == by_command.manifest.counts
    for part in ("train", "validation", "test"):
        assert by_tasks.read(part).equals(by_command.read(part))
    assert _without_times(by_tasks.report()) == _without_times(by_command.report())


def _without_times(report: dict[str, Any]) -> dict[str, Any]:
    return {"stages": report["stages"], "statistics": report["statistics"]}
