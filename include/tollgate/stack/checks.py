"""What must be right before the stack starts; everything wrong is told at once, in plain words."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tollgate.errors import BadInputError, Problem
from tollgate.settings import Settings
from tollgate.stack import processes
from tollgate.stack.services import VLLM, Service

MINIMUM_FREE = 2 * 2**30
"""Bytes that must be free under the home folder."""

LONGEST_HOME = 80
"""Bytes: a Unix socket's path may have 107, and PostgreSQL's is ``<home>/postgres/.s.PGSQL.5432.lock``."""

SHOWN_REMAINS = 3
"""Processes of an earlier stack that a message names; of more it tells the number."""


def check_machine(configuration: Settings, services: Sequence[Service]) -> None:
    """Refuse a start that cannot succeed.

    Args:
        configuration: The settings.
        services: The services about to be started; those that run already must not be among them.

    Raises:
        BadInputError: Something is in the way; every problem is listed.
    """
    problems = [
        *_home_problems(configuration.home),
        *_port_problems(services),
        *(_model_problems(configuration) if any(service.name == VLLM for service in services) else ()),
    ]
    if problems:
        raise BadInputError("The stack cannot start.", problems)


def check_no_remains(home: Path) -> None:
    """Refuse to start beside processes that an earlier stack of the same home left behind.

    Raises:
        BadInputError: There are some; the text names them and the command that ends them.
    """
    remains = processes.stack_processes(home)
    if remains:
        shown = ", ".join(processes.describe(process) for process in remains[:SHOWN_REMAINS])
        more = f" and {len(remains) - SHOWN_REMAINS} more" if len(remains) > SHOWN_REMAINS else ""
        problem = Problem(f"stack {home}", shown + more, "none; 'tollgate down' ends them")
        raise BadInputError("Processes of an earlier stack are still there.", [problem])


def _home_problems(home: Path) -> Iterator[Problem]:
    length = len(str(home.resolve()).encode())
    if length > LONGEST_HOME:
        yield Problem("TOLLGATE_HOME", f"a path of {length} bytes", f"at most {LONGEST_HOME}, for sockets lie in it")
    free = shutil.disk_usage(next(folder for folder in (home, *home.parents) if folder.exists())).free
    if free < MINIMUM_FREE:
        yield Problem(f"disk of {home}", f"{free / 2**30:.1f} GB free", f"at least {MINIMUM_FREE / 2**30:.0f} GB")


def _port_problems(services: Iterable[Service]) -> Iterator[Problem]:
    taken: dict[int, str] = {}
    for service in services:
        if service.port is None:
            continue
        setting = f"TOLLGATE_{service.name.removesuffix('-api-server').upper()}_PORT"
        if service.port in taken:
            yield Problem(setting, f"port {service.port}, which {taken[service.port]} has too", "a port of its own")
        elif not _is_free(service.port):
            holder = processes.port_holder(service.port)
            who = processes.describe(holder) if holder else "a process of another user"
            yield Problem(
                setting, f"port {service.port} in use by {who}", "a free port: end that process or set another"
            )
        taken[service.port] = service.name


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))  # all addresses: a listener on any of them would be in the way
        except OSError:
            return False
    return True


def _model_problems(configuration: Settings) -> Iterator[Problem]:
    without = "or start with --without vllm"
    if not configuration.ml_python.exists():
        yield Problem(
            "TOLLGATE_ML_PYTHON",
            f"no interpreter {configuration.ml_python}",
            f"one with vLLM: 'make setup' makes it, {without}",
        )
    model = configuration.served_base_model
    if not (model / "config.json").is_file():
        made_by = "'tollgate demo' makes the demo's" if configuration.base_model is None else "with a config.json"
        yield Problem(
            "TOLLGATE_BASE_MODEL", f"no model in {model}", f"a Hugging Face model folder ({made_by}), {without}"
        )
