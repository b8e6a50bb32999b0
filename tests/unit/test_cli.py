from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tollgate import cli
from tollgate.errors import BadInputError, GateRefusedError, Problem, ServiceUnavailableError


def _main(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(words))
    return int(stopped.value.code or 0)


def test_help_lists_every_command_and_imports_no_room() -> None:
    program = (
        "import sys; from tollgate.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print(sorted({'sqlalchemy', 'mlflow', 'pandas', 'polars', 'aiohttp'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for name in ("up", "down", "status", *cli.ROOMS):
        assert f" {name} " in answer.stdout
    assert answer.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", sorted(cli.ROOMS))
def test_every_room_is_there_when_called(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main(name, "--help") == 0
    assert name in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadInputError("Not usable.", [Problem("line 3", "abc", "a number")]), 2),
        (GateRefusedError("Too few right answers."), 1),
        (ServiceUnavailableError("MLflow did not answer."), 3),
    ],
)
def test_an_error_is_told_plainly_with_its_status(
    error: Exception, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tollgate.stack import lifecycle

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(lifecycle, "down", fail)
    assert _main("down") == status
    streams = capsys.readouterr()
    assert streams.err == f"{error}\n"
    assert streams.out == ""
    with pytest.raises(type(error)):
        cli.main(["--debug", "down"])


def test_wrong_usage_and_wrong_settings_have_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tollgate.settings import settings

    assert _main("no-such-command") == 2
    monkeypatch.setenv("TOLLGATE_AIRFLOW_PORT", "abc")
    settings.cache_clear()
    try:
        assert _main("status") == 2
    finally:
        settings.cache_clear()
    assert "TOLLGATE_AIRFLOW_PORT: found 'abc'" in capsys.readouterr().err


def test_status_as_json_is_one_object_and_not_healthy_is_status_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tollgate.stack import lifecycle
    from tollgate.stack.lifecycle import ServiceStatus

    found = [
        ServiceStatus("postgres", "running", 7, None, healthy=True, memory=1),
        ServiceStatus("router@v2", "restarting", None, None, healthy=False, memory=0, problem="it hung [for long]"),
    ]
    monkeypatch.setattr(lifecycle, "status", lambda _: found)
    assert _main("status", "--json") == 3
    services = json.loads(capsys.readouterr().out)["services"]
    assert [(row["name"], row["healthy"]) for row in services] == [("postgres", True), ("router@v2", False)]
    assert _main("status") == 3
    assert "router@v2: it hung [for long]" in capsys.readouterr().out
    monkeypatch.setattr(lifecycle, "status", lambda _: found[:1])
    assert _main("status") == 0
    assert "postgres" in capsys.readouterr().out
