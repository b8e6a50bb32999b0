from __future__ import annotations

import asyncio
import io
import sys
from pathlib import Path

import pytest
from rich.console import Console
from tests.unit.stack.conftest import MakeService

from tollgate.errors import ServiceUnavailableError
from tollgate.stack import startup
from tollgate.stack.display import StartDisplay
from tollgate.stack.services import Preparation, Service
from tollgate.stack.startup import Part
from tollgate.stack.supervision import Supervisor


def _run(parts: list[Part]) -> str:
    output = io.StringIO()
    with StartDisplay([part.name for part in parts], Console(file=output)) as display:
        asyncio.run(startup.start_all(parts, display))
    return output.getvalue()


def test_parts_wait_for_what_they_need_and_otherwise_run_together() -> None:
    events: list[str] = []
    both_run = asyncio.Barrier(2)

    def part(name: str, *after: str, together: bool = False) -> Part:
        async def run() -> str:
            events.append(f"{name} starts")
            if together:
                await both_run.wait()  # hangs unless the other one runs at the same time
            events.append(f"{name} done")
            return f"about {name}"

        return Part(name, frozenset(after), run)

    shown = _run(
        [
            part("last", "left", "right"),
            part("left", "first", together=True),
            part("right", "first", together=True),
            part("first", "absent"),
        ]
    )
    assert events[:2] == ["first starts", "first done"]
    assert events[-2:] == ["last starts", "last done"]
    assert "last: healthy after" in shown
    assert "about last" in shown


def test_a_failed_preparation_ends_the_start_and_shows_its_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "step.log"
    program = "print('line of the past\\n' * 100, 'the reason', sep=''); raise SystemExit(7)"
    step = startup.preparation(Preparation("step", (sys.executable, "-c", program), {}), {}, log)
    never_run = Part("dependent", frozenset({"step"}), lambda: pytest.fail("must not start"))
    with pytest.raises(ServiceUnavailableError) as caught:
        _run([step, never_run])
    lines = str(caught.value).splitlines()
    assert lines[0] == "step ended with status 7."
    assert str(log) in lines[1]
    assert lines[-1].strip() == "the reason"
    assert len(lines) == startup.LOG_LINES + 2


def test_a_service_that_dies_while_it_starts_is_reported_with_its_log(
    home: Path, supervisor: Supervisor, environment: dict[str, str]
) -> None:
    program = "import time; time.sleep(0.5); raise SystemExit('no such table')"
    dying = Service("dying", (sys.executable, "-c", program), {}, "http://127.0.0.1:1/")
    supervisor.start([dying], environment)
    with pytest.raises(ServiceUnavailableError, match=r"(?s)dying ended while it started.*dying\.log.*no such table"):
        _run([startup.service(dying, supervisor, home / "logs" / "dying.log")])
    supervisor.shut_down(patience=10)


def test_a_service_counts_once_it_answers(
    home: Path, supervisor: Supervisor, web_service: MakeService, environment: dict[str, str]
) -> None:
    web = web_service()
    supervisor.start([web], environment)
    shown = _run([startup.service(web, supervisor, home / "logs" / "web.log")])
    assert "web: healthy after" in shown
    assert str(web.address) in shown
    supervisor.shut_down(patience=10)


def test_a_service_that_never_answers_is_given_up(
    home: Path, supervisor: Supervisor, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "PATIENCE", 1.0)
    mute = Service("mute", ("sleep", "60"), {}, "http://127.0.0.1:1/health")
    supervisor.start([mute], environment)
    with pytest.raises(ServiceUnavailableError, match=r"mute does not answer at http://127\.0\.0\.1:1/health"):
        _run([startup.service(mute, supervisor, home / "logs" / "mute.log")])
    supervisor.shut_down(patience=10)
