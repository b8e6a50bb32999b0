"""Start the stack, stop it, and say how it is: what ``tollgate up``, ``down`` and ``status`` do."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.markup import escape
from sqlalchemy.exc import SQLAlchemyError

from tollgate.errors import BadInputError, Problem, TollgateError
from tollgate.serving import server_metrics, servers
from tollgate.serving.client import VllmClient
from tollgate.serving.rollout import reconcile
from tollgate.serving.servers import ServerView
from tollgate.settings import Settings
from tollgate.stack import checks, health, postgres, processes, startup
from tollgate.stack.containers import stop_job_containers
from tollgate.stack.display import StartDisplay
from tollgate.stack.secrets import load_or_create
from tollgate.stack.services import (
    POSTGRES,
    VLLM,
    Service,
    common_environment,
    log_file,
    postgres_guardian,
    preparations,
    services,
)
from tollgate.stack.supervision import ProcessState, Supervisor
from tollgate.store.session import transaction

GRACE = 15.0
"""Seconds that a process outside the supervisor's care, such as a training job, gets to save its state and end."""


@dataclass(frozen=True)
class ServiceStatus:
    """How a service is.

    Args:
        name: The service.
        state: ``running``, ``stopped``, or another word of the supervisor's in lower case.
        process_id: Process number, if it runs.
        address: What a person opens, if anything.
        healthy: Whether it answered as it should.
        memory: Resident memory with its children, in bytes.
        problem: What stands or stood in its way, where that is known.
    """

    name: str
    state: str
    process_id: int | None
    address: str | None
    healthy: bool
    memory: int
    problem: str | None = None


@dataclass(frozen=True)
class Started:
    """Outcome of a start.

    Args:
        already_running: Nothing had to be started.
        seconds: How long each part took that was started.
    """

    already_running: bool
    seconds: dict[str, float]


def supervisor_of(configuration: Settings) -> Supervisor:
    """The supervisor of the stack under the settings' home folder."""
    return Supervisor(configuration.home / "run", configuration.home / "logs")


def up(configuration: Settings, console: Console, without: Collection[str] = ()) -> Started:
    """Start whatever of the stack is not running, and return once all of it is healthy.

    Args:
        configuration: The settings.
        console: Where to show progress.
        without: Names of services to leave out.

    Returns:
        What was started.

    Raises:
        BadInputError: A start cannot succeed: taken port, remains of an earlier stack, full disk, no base model, other
            settings than those of the running stack. Nothing was started.
        ServiceUnavailableError: A service did not come up; the end of its log is in the text. The others keep running.
    """
    with _alone(configuration.home):
        secrets = load_or_create(configuration.secrets_file)
        all_services = services(configuration, secrets)
        _check_names(without, all_services)
        supervisor = supervisor_of(configuration)
        supervised = supervisor.running()
        if supervised and not supervisor.configured_like([*all_services, postgres_guardian(configuration)]):
            raise BadInputError(
                "The stack is running with other settings.",
                [Problem(str(configuration.home), "settings that changed", "'tollgate down', then 'tollgate up'")],
            )
        states = supervisor.states() if supervised else {}
        wanted = [service for service in all_services if service.name not in without]
        missing = [service for service in wanted if not _works(service, states)]
        if supervised and not missing and postgres.running_process(configuration.postgres_data):
            return Started(already_running=True, seconds={})
        if not supervised:
            checks.check_no_remains(configuration.home)
        stopped = [service for service in missing if not (s := states.get(service.name)) or s.process_id is None]
        checks.check_machine(configuration, stopped)
        return _start(configuration, console, supervisor, missing)


def _works(service: Service, states: dict[str, ProcessState]) -> bool:
    return health.check_all([service], states)[service.name]


def _check_names(without: Collection[str], all_services: Collection[Service]) -> None:
    names = {service.name for service in all_services}
    problems = [
        Problem("--without", name, f"one of {', '.join(sorted(names))}") for name in without if name not in names
    ]
    if problems:
        raise BadInputError("There is no such service.", problems)


def _start(configuration: Settings, console: Console, supervisor: Supervisor, missing: list[Service]) -> Started:
    secrets = load_or_create(configuration.secrets_file)
    environment = common_environment(configuration)
    guardian = postgres_guardian(configuration)
    if not supervisor.running():
        supervisor.start([*services(configuration, secrets), guardian], environment)

    async def start_postgres() -> str:
        await asyncio.to_thread(postgres.start, configuration.postgres_data)
        await asyncio.to_thread(supervisor.start_service, guardian.name)
        return ""

    parts = [
        startup.Part(POSTGRES, frozenset(), start_postgres),
        *(
            startup.preparation(step, environment, log_file(configuration, step.name))
            for step in preparations(configuration, secrets)
        ),
        *(startup.service(service, supervisor, log_file(configuration, service.name)) for service in missing),
    ]
    with StartDisplay([part.name for part in parts], console) as display:
        asyncio.run(startup.start_all(parts, display))
    if any(service.name == VLLM for service in missing):
        _load_what_routes_need(configuration, console)
    return Started(already_running=False, seconds=display.seconds)


def _load_what_routes_need(configuration: Settings, console: Console) -> None:
    """Load the adapters that routes and experiments use: a vLLM that starts holds nothing but its base."""
    addresses, base, rank = configuration.vllm_addresses, configuration.served_base_model, configuration.max_lora_rank
    with (
        VllmClient(addresses, base_model=base, max_rank=rank) as client,
        transaction(configuration.tollgate_database) as session,
    ):
        done = reconcile(session, client)
    for line in done.loaded:
        console.print(f"loaded {line}", highlight=False)
    for problem in done.problems:
        console.print(f"[yellow]{escape(problem)}[/]", highlight=False)
    _start_servers(configuration, console)


def _start_servers(configuration: Settings, console: Console) -> None:
    """Start the servers of full weights that routes need, and wait until they have loaded their weights."""
    from tollgate.workflow.servers import start_all

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    try:
        start_all(common_environment(configuration), configuration.tollgate_database, tell)
    except TollgateError as error:
        console.print(f"[yellow]{escape(str(error))}[/]", highlight=False)


def down(configuration: Settings) -> int:
    """Stop the whole stack and leave no process of it behind, also when the supervisor was killed.

    Args:
        configuration: The settings.

    Returns:
        How many processes were there, PostgreSQL counting as one.

    Raises:
        TollgateError: Processes resisted even SIGKILL.
    """
    home = configuration.home
    with _alone(home):
        present = len(processes.stack_processes(home))
        supervisor = supervisor_of(configuration)
        if supervisor.running():
            supervisor.shut_down(patience=45)
        present += stop_job_containers(configuration, GRACE)
        for _ in range(3):  # a dying process may still start another
            remains = processes.stack_processes(home)
            if not remains:
                break
            processes.end(remains, GRACE)
        present += postgres.stop(configuration.postgres_data)
        remains = processes.stack_processes(home)
        if remains:
            raise TollgateError("Still there: " + ", ".join(map(processes.describe, remains)))
        return present


def status(configuration: Settings) -> list[ServiceStatus]:
    """How every service is, PostgreSQL first, servers of full weights last."""
    all_services = services(configuration, load_or_create(configuration.secrets_file))
    supervisor = supervisor_of(configuration)
    states = supervisor.states() if supervisor.running() else {}
    healthy = health.check_all(all_services, states)
    postgres_status = _postgres_status(configuration)
    found = [postgres_status, *(_service_status(unit, states, healthy) for unit in all_services)]
    return [*found, *_model_servers(configuration)] if postgres_status.healthy else found


def _model_servers(configuration: Settings) -> list[ServiceStatus]:
    """Servers of full weights; none where the database has no tables yet."""
    try:
        with transaction(configuration.tollgate_database) as session:
            views = servers.views(session)
    except (TollgateError, SQLAlchemyError):
        return []
    return [_server_status(configuration, view) for view in views]


def _server_status(configuration: Settings, view: ServerView) -> ServiceStatus:
    process_id = _process_of(configuration.servers / view.served_name)
    return ServiceStatus(
        view.served_name,
        view.state,
        process_id,
        view.address,
        healthy=view.address is not None and server_metrics.is_healthy(view.address),
        memory=processes.memory(process_id) if process_id else 0,
        problem=view.problem,
    )


def _process_of(folder: Path) -> int | None:
    """The process of a server that is no container, as its guardian wrote it down."""
    try:
        number = int(json.loads((folder / "process.json").read_text(encoding="utf-8"))["group"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return number if psutil.pid_exists(number) else None


def _postgres_status(configuration: Settings) -> ServiceStatus:
    process = postgres.running_process(configuration.postgres_data)
    if process is None:
        return ServiceStatus(POSTGRES, "stopped", None, None, healthy=False, memory=0)
    address = str(configuration.postgres_data)
    return ServiceStatus(
        POSTGRES,
        "running",
        process.pid,
        address,
        healthy=postgres.answers(configuration.postgres_data),
        memory=processes.memory(process.pid),
    )


def _service_status(unit: Service, states: dict[str, ProcessState], healthy: dict[str, bool]) -> ServiceStatus:
    state = states.get(unit.name)
    process_id = state.process_id if state else None
    return ServiceStatus(
        unit.name,
        state.state.lower() if state else "stopped",
        process_id,
        unit.address,
        healthy=healthy[unit.name],
        memory=processes.memory(process_id) if process_id else 0,
    )


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Keep two starts or stops of one stack apart.

    Raises:
        BadInputError: Another one is at work.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            problem = Problem(str(home), "another 'tollgate up' or 'down' at work", "one at a time; try again shortly")
            raise BadInputError("The stack is being started or stopped.", [problem]) from None
        yield
