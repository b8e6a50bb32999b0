from __future__ import annotations

from pathlib import Path

from tollgate.settings import Settings
from tollgate.stack.containers import stop_job_containers


def test_without_an_engine_there_is_nothing_to_stop(tmp_path: Path) -> None:
    configuration = Settings(home=tmp_path, docker_url=f"unix://{tmp_path}/no-engine.sock")
    assert stop_job_containers(configuration, grace=1) == 0
