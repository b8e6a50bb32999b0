from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.stack.conftest import MakeService

from tollgate.errors import BadInputError, ServiceUnavailableError
from tollgate.stack import processes
from tollgate.stack.services import Service
from tollgate.stack.supervision import Supervisor


def _eventually(condition: Callable[[], bool], seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_restarts_a_killed_service_and_leaves_nothing_behind(
    home: Path, supervisor: Supervisor, web_service: MakeService, environment: dict[str, str]
) -> None:
    web = web_service()
    assert not supervisor.running()
    supervisor.start([web], environment)
    assert supervisor.running()
    assert supervisor.states()["web"].state == "STOPPED"

    supervisor.start_service("web")
    supervisor.start_service("web")
    first = supervisor.states()["web"].process_id
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert _eventually(lambda: supervisor.states()["web"].process_id not in {None, first})

    supervisor.shut_down(patience=10)
    assert not supervisor.running()
    assert supervisor.process() is None
    assert processes.stack_processes(home) == []


def test_environment_reaches_the_service_letter_by_letter(
    home: Path, supervisor: Supervisor, environment: dict[str, str]
) -> None:
    values = {"PERCENT": "50%(here)s%%", "LIST": '["a", "b"]', "TEXT": "it's; x=y, C#"}
    program = home / "show.py"
    program.write_text(
        "import json, os, time\n"
        "print(json.dumps({name: os.environ[name] for name in ('PERCENT', 'LIST', 'TEXT')}), flush=True)\n"
        "time.sleep(60)\n",
        encoding="utf-8",
    )
    supervisor.start([Service("show", (sys.executable, str(program)), values, "http://127.0.0.1:1/")], environment)
    supervisor.start_service("show")
    log = home / "logs" / "show.log"
    assert _eventually(lambda: log.exists() and log.read_text(encoding="utf-8").endswith("\n"))
    assert json.loads(log.read_text(encoding="utf-8")) == values
    supervisor.shut_down(patience=10)


@pytest.mark.parametrize("value", ["both ' and \"", "first\nsecond", "cut #here", "cut ;here"])
def test_a_value_that_would_arrive_changed_is_refused(
    supervisor: Supervisor, web_service: MakeService, value: str
) -> None:
    with pytest.raises(BadInputError, match="web, SECRET_NAME") as caught:
        supervisor.configuration([web_service(environment={"SECRET_NAME": value})])
    assert value not in str(caught.value)


def test_configuration_is_for_its_owner_only_and_tells_changes(
    home: Path, supervisor: Supervisor, web_service: MakeService, environment: dict[str, str]
) -> None:
    web = web_service(environment={"KEY": "one"})
    assert not supervisor.configured_like([web])
    supervisor.start([web], environment)
    for name in ("supervisord.conf", "supervisor.sock"):
        assert stat.S_IMODE((home / "run" / name).stat().st_mode) & 0o077 == 0
    assert supervisor.configured_like([web])
    assert not supervisor.configured_like([replace(web, environment={"KEY": "two"})])
    supervisor.shut_down(patience=10)


def test_unknown_service_and_absent_supervisor_are_told(
    supervisor: Supervisor, web_service: MakeService, environment: dict[str, str]
) -> None:
    with pytest.raises(ServiceUnavailableError, match="does not answer"):
        supervisor.states()
    with pytest.raises(ServiceUnavailableError, match="does not answer"):
        supervisor.start_service("web")
    supervisor.start([web_service()], environment)
    with pytest.raises(ServiceUnavailableError, match="nonsense"):
        supervisor.start_service("nonsense")
    supervisor.stop_service("web")
    supervisor.shut_down(patience=10)
