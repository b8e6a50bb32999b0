"""Keep the services running: ``supervisord`` does the work, this writes its configuration and talks to it."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from supervisor.xmlrpc import SupervisorTransport

from tollgate.errors import BadInputError, Problem, ServiceUnavailableError
from tollgate.stack.processes import wait_ended
from tollgate.stack.services import Service

SETTLED_AFTER = 15
"""Seconds that a process must live to count as started; one that ends earlier is tried three times, then given up."""

_NOT_EXPRESSIBLE = re.compile(r"[\r\n]|\s[;#]")
"""What the format of the supervisor's configuration cannot hold: it would end the value, or start a comment."""

_UNREACHABLE = (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError)


@dataclass(frozen=True)
class ProcessState:
    """What the supervisor knows about a service.

    Args:
        name: The service.
        state: The supervisor's word: STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED or FATAL.
        process_id: Process number, or None while nothing runs.
        started: When the process was started, in seconds since 1970.
    """

    name: str
    state: str
    process_id: int | None
    started: float

    @property
    def alive(self) -> bool:
        """Whether the process is there, or about to be."""
        return self.state in {"STARTING", "RUNNING"}


class Supervisor:
    """The supervisor of one stack.

    Args:
        folder: Where its configuration (0600, for it holds secrets), socket and process number lie.
        logs: Folder of the services' logs.
    """

    def __init__(self, folder: Path, logs: Path) -> None:
        self._folder = folder
        self._logs = logs
        self._configuration = folder / "supervisord.conf"
        self._socket = folder / "supervisor.sock"

    def running(self) -> bool:
        """Whether the supervisor answers."""
        try:
            self._ask("getState")
        except _UNREACHABLE:
            return False
        return True

    def start(self, services: Iterable[Service], environment: Mapping[str, str]) -> None:
        """Start the supervisor in the background; the services wait for :meth:`start_service`.

        Args:
            services: The services it will be able to start.
            environment: The whole environment that it and they inherit.

        Raises:
            ServiceUnavailableError: It did not come up.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        self._write_configuration(self.configuration(services))
        self._socket.unlink(missing_ok=True)  # of a killed supervisor
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._configuration)]
        outcome = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
        if outcome.returncode != 0 or not self._answers_within(10):
            log = self._logs / "supervisord.log"
            raise ServiceUnavailableError(f"The supervisor does not start (log: {log}).\n{outcome.stderr.strip()}")

    def configured_like(self, services: Iterable[Service]) -> bool:
        """Whether the supervisor was started with these very services, settings and secrets."""
        try:
            return self._configuration.read_text(encoding="utf-8") == self.configuration(services)
        except OSError:
            return False

    def configuration(self, services: Iterable[Service]) -> str:
        """The text of ``supervisord.conf``."""
        own = {
            "logfile": self._logs / "supervisord.log",
            "pidfile": self._folder / "supervisord.pid",
            "childlogdir": self._logs,
            "identifier": "tollgate",
            **({"user": "root"} if os.geteuid() == 0 else {}),
        }
        sections = [
            _section("unix_http_server", {"file": self._socket, "chmod": "0700"}),
            _section("supervisord", own),
            _section(
                "rpcinterface:supervisor",
                {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
            ),
            *(self._program(service) for service in services),
        ]
        return "\n".join(sections)

    def _program(self, service: Service) -> str:
        options = {
            "command": shlex.join(service.command),
            "environment": _environment(service),
            "autostart": "false",
            "autorestart": "true",
            "startsecs": SETTLED_AFTER,
            "startretries": 3,
            "stopwaitsecs": service.stop_seconds,
            "stopasgroup": "true",
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": self._logs / f"{service.name}.log",
            "stdout_logfile_maxbytes": "20MB",
            "stdout_logfile_backups": 2,
        }
        return _section(f"program:{service.name}", options)

    def _write_configuration(self, text: str) -> None:
        temporary = self._configuration.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(self._configuration)

    def _answers_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self.running():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def states(self) -> dict[str, ProcessState]:
        """The state of every service, by name.

        Raises:
            ServiceUnavailableError: The supervisor does not answer.
        """
        try:
            answers = self._ask("getAllProcessInfo")
        except _UNREACHABLE as error:
            raise ServiceUnavailableError("The stack's supervisor does not answer.") from error
        return {
            answer["name"]: ProcessState(
                answer["name"], answer["statename"], answer["pid"] or None, float(answer["start"])
            )
            for answer in answers
        }

    def start_service(self, name: str) -> None:
        """Start a service without waiting for it; does nothing when it runs."""
        try:
            self._ask("startProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if "ALREADY_STARTED" not in fault.faultString:
                raise ServiceUnavailableError(f"The supervisor cannot start {name}: {fault.faultString}") from fault
        except _UNREACHABLE as error:
            raise ServiceUnavailableError("The stack's supervisor does not answer.") from error

    def stop_service(self, name: str) -> None:
        """Ask a service to end without waiting for it; does nothing when it does not run."""
        try:
            self._ask("stopProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if "NOT_RUNNING" not in fault.faultString:
                raise ServiceUnavailableError(f"The supervisor cannot stop {name}: {fault.faultString}") from fault
        except _UNREACHABLE as error:
            raise ServiceUnavailableError("The stack's supervisor does not answer.") from error

    def _ask(self, method: str, *arguments: object) -> Any:
        """Call the supervisor; a connection for each call, for one cannot be shared by threads nor outlive an error."""
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as remote:
            return getattr(remote.supervisor, method)(*arguments)

    def process(self) -> psutil.Process | None:
        """The supervisor's own process, also when it no longer answers."""
        try:
            number = int((self._folder / "supervisord.pid").read_text(encoding="utf-8"))
            process = psutil.Process(number)
            ours = str(self._configuration) in process.cmdline()
        except (OSError, ValueError, psutil.Error):
            return None
        return process if ours else None

    def shut_down(self, patience: float) -> None:
        """Stop all services side by side, then the supervisor.

        Args:
            patience: Seconds to wait; what still lives then is left to the caller.
        """
        process = self.process()
        deadline = time.monotonic() + patience
        try:
            for state in self.states().values():
                if state.process_id is not None:
                    self.stop_service(state.name)
            while any(state.process_id for state in self.states().values()) and time.monotonic() < deadline:
                time.sleep(0.2)
            self._ask("shutdown")
        except (ServiceUnavailableError, xmlrpc.client.Fault, *_UNREACHABLE):
            return  # killed meanwhile
        if process is not None:
            wait_ended([process], timeout=10)


def _section(name: str, options: Mapping[str, object]) -> str:
    lines = [f"{key}={_literal(f'{name}, {key}', str(value))}" for key, value in options.items()]
    return "\n".join([f"[{name}]", *lines, ""])


def _literal(where: str, value: str) -> str:
    if _NOT_EXPRESSIBLE.search(value):
        raise BadInputError(
            "A setting cannot be passed on to a service.",
            [Problem(where, "a line break, or a blank before ; or #", "a value on one line without such a blank")],
        )
    return value.replace("%", "%%")  # the parser replaces %(…)s; a percent sign of ours stands for itself


def _environment(service: Service) -> str:
    return ",".join(
        f"{name}={_quoted(f'{service.name}, {name}', value)}" for name, value in sorted(service.environment.items())
    )


def _quoted(where: str, value: str) -> str:
    for quote in "\"'":
        if quote not in value:
            _literal(where, value)
            return f"{quote}{value}{quote}"
    raise BadInputError(
        "A setting cannot be passed on to a service.",
        [Problem(where, "both kinds of quotes", "a value with at most one kind")],
    )
