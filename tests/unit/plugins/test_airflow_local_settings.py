"""What the scheduler imports for its tasks can be forked, and nobody else imports it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tollgate.settings import PROJECT

BEGIN = """
import json, sys, threading
sys.argv = ["airflow", sys.argv[1]]
import airflow_local_settings as settings
loaded = {name for name in (*settings.WANTED_BY_TASKS, "polars", "mlflow", "numba", "torch") if name in sys.modules}
print(json.dumps({"loaded": sorted(loaded), "wanted": sorted(settings.WANTED_BY_TASKS),
                  "threads": threading.active_count()}))
"""


def begun(component: str) -> dict[str, Any]:
    rooms = os.pathsep.join(str(PROJECT / room) for room in ("include", "plugins"))
    command = [sys.executable, "-c", BEGIN, component]
    environment = {**os.environ, "PYTHONPATH": rooms}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_the_scheduler_has_what_tasks_need_and_no_thread() -> None:
    scheduler = begun("scheduler")
    assert scheduler["loaded"] == scheduler["wanted"]
    assert scheduler["threads"] == 1


def test_no_other_process_imports_it() -> None:
    assert begun("api-server")["loaded"] == []
