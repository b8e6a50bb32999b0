"""Servers of full weights as jobs: the same runtimes, guardians and GPU leases as trainings, but without an end."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from docker import APIClient
from docker.errors import DockerException
from docker.utils import parse_bytes

from jobs.docker_runtime import DockerRuntime, unusable_because
from jobs.errors import JobError
from jobs.process_runtime import ProcessRuntime
from jobs.runtimes import JobKey, JobRequest, JobState, Runtime
from tollgate.errors import ServiceUnavailableError, TollgateError
from tollgate.serving.server_keeper import ServerOrder, StartedServer
from tollgate.settings import PROJECT, settings
from tollgate.stack.processes import marker
from tollgate.store.session import transaction
from tollgate.training import leases
from tollgate.training.leases import Waiting, Wish

SCRIPT = "containers/vllm/serve.py"
CONTAINER_PORT = 8000
ALL_INTERFACES = "0.0.0.0"  # noqa: S104
"""Of a container in a network of its own, which the gateway must reach by the container's name."""
GRACE_SECONDS = 60
"""Between SIGTERM and SIGKILL: more than ``serve.py`` takes to finish running answers."""
LAST_LINES = 20
PLACE = "server.json"
"""In a server's folder: where it answers, written before it starts, so that it is found where its row was not kept."""


class JobServerHost:
    """Runs servers through the jobs' runtimes; ids are ``<runtime>:<the runtime's id>``.

    Args:
        script: Entry point of a server, relative to the project or absolute.
        python: Interpreter of it; default: that of the settings.
        options: Further options of vLLM, such as ``--dtype float32``.
    """

    def __init__(self, script: str | Path = SCRIPT, python: Path | None = None, options: tuple[str, ...] = ()) -> None:
        self._script = PROJECT / script
        self._python = python
        self._options = options
        self._runtimes: dict[str, Runtime] = {}

    def start(self, order: ServerOrder) -> StartedServer | str:
        """Lease a GPU, where there are some, and start the server, or find the one that was started before.

        Raises:
            TollgateError: The runtime could not start it.
            ServiceUnavailableError: The runtime or PostgreSQL did not answer.
        """
        order.folder.mkdir(parents=True, exist_ok=True)
        runtime = self._runtime(_usable_runtime())
        try:
            found = self._adopt(runtime, order)
            return found or self._submit(runtime, order)
        except JobError as error:
            raise TollgateError(str(error)) from error

    def is_running(self, job_id: str) -> bool:
        """Whether the job has not ended."""
        name, _, own = job_id.partition(":")
        return self._runtime(name).status(own).state is JobState.ACTIVE

    def stop(self, order: ServerOrder, job_id: str | None) -> None:
        """SIGTERM, the grace, SIGKILL; then the lease is given back.

        Raises:
            ServiceUnavailableError: The runtime did not answer.
        """
        for runtime, own in self._jobs(order, job_id):
            runtime.stop(own, GRACE_SECONDS)
            runtime.remove(own)
        (order.folder / PLACE).unlink(missing_ok=True)
        with transaction() as session:
            leases.release(session, _key(order).holder)

    def last_words(self, order: ServerOrder) -> str:
        """The last lines of its log."""
        lines = [line for runtime, own in self._jobs(order, None) for line in runtime.last_lines(own, LAST_LINES)]
        return "\n".join(["Last lines of its log:", *lines]) if lines else ""

    def _jobs(self, order: ServerOrder, job_id: str | None) -> list[tuple[Runtime, str]]:
        """The order's job: the one that the row names, else what the runtime in use finds by its folder."""
        if job_id is not None:
            name, _, own = job_id.partition(":")
            return [(self._runtime(name), own)]
        if not order.folder.is_dir():
            return []
        runtime = self._runtime(_usable_runtime())
        found = runtime.find(self._request(order))
        return [(runtime, found)] if found else []

    def _adopt(self, runtime: Runtime, order: ServerOrder) -> StartedServer | None:
        """A running job of this order; an ended one is forgotten."""
        existing = runtime.find(self._request(order))
        if existing is None:
            return None
        port = _kept_port(order)
        if runtime.status(existing).state is JobState.ACTIVE and port is not None:
            return StartedServer(f"{runtime.name}:{existing}", _address(runtime, order, port))
        runtime.stop(existing, GRACE_SECONDS)
        runtime.remove(existing)
        return None

    def _submit(self, runtime: Runtime, order: ServerOrder) -> StartedServer | str:
        devices = _lease(runtime, order)
        if isinstance(devices, Waiting):
            return str(devices)
        port = CONTAINER_PORT if _has_own_network(runtime) else _free_port()
        _keep_port(order, port)
        job = runtime.submit(self._request(order, port, devices))
        return StartedServer(f"{runtime.name}:{job}", _address(runtime, order, port))

    def _request(self, order: ServerOrder, port: int = 0, devices: tuple[int, ...] = ()) -> JobRequest:
        python = self._python or settings().ml_python
        return _request(order, port, devices, (str(python), str(self._script), *self._options), self._options)

    def _runtime(self, name: str) -> Runtime:
        if name not in self._runtimes:
            self._runtimes[name] = _docker() if name == "docker" else ProcessRuntime()
        return self._runtimes[name]


def _usable_runtime() -> str:
    chosen = settings().runtime
    if chosen != "auto":
        return chosen
    return "process" if unusable_because(settings().docker_url, settings().vllm_image) else "docker"


def _docker() -> Runtime:
    try:
        return DockerRuntime(APIClient(base_url=settings().docker_url, version="auto", timeout=GRACE_SECONDS + 30))
    except DockerException as error:
        raise ServiceUnavailableError(f"No Docker engine answers at {settings().docker_url}.") from error


def _key(order: ServerOrder) -> JobKey:
    return JobKey("model_servers", order.served_name, "serve")


def _request(
    order: ServerOrder, port: int, devices: tuple[int, ...], process: tuple[str, ...], options: tuple[str, ...]
) -> JobRequest:
    own_network = settings().server_network != "host"
    return JobRequest(
        key=_key(order),
        folder=order.folder,
        image=settings().vllm_image,
        command=options,
        process_command=process,
        entrypoint=("python", f"/opt/tollgate/{SCRIPT}"),
        environment={
            "TOLLGATE_HOST": ALL_INTERFACES if port == CONTAINER_PORT and own_network else settings().host,
            "TOLLGATE_VLLM_PORT": str(port),
            "TOLLGATE_BASE_MODEL": str(order.model),
            "TOLLGATE_BASE_MODEL_NAME": order.served_name,
            "TOLLGATE_MAX_MODEL_LEN": str(settings().max_model_len),
            **marker(settings().home),  # whoever starts it: ``tollgate down`` finds it
        },
        read_only_paths=(order.model,),
        memory_bytes=int(parse_bytes(settings().job_memory)),
        shm_bytes=1024**3,
        devices=devices,
        network=settings().server_network,
        grace_seconds=GRACE_SECONDS,
    )


def _lease(runtime: Runtime, order: ServerOrder) -> tuple[int, ...] | Waiting:
    """One GPU where some are configured; who finds none free has a place in the queue, and asks at every look."""
    configured = settings().gpu_ids
    if not configured:
        return ()
    with transaction() as session:
        leases.reclaim(session, runtime.is_alive, runtime=runtime.name)
        answer = leases.ask(session, Wish(_key(order).holder, 1, (), runtime.name), configured)
    return answer if isinstance(answer, Waiting) else tuple(answer)


def _has_own_network(runtime: Runtime) -> bool:
    return runtime.name == "docker" and settings().server_network != "host"


def _address(runtime: Runtime, order: ServerOrder, port: int) -> str:
    host = _request(order, port, (), (), ()).name if _has_own_network(runtime) else settings().host
    return f"http://{host}:{port}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((settings().host, 0))
        return int(probe.getsockname()[1])


def _keep_port(order: ServerOrder, port: int) -> None:
    temporary = order.folder / f".{PLACE}.{os.getpid()}"
    temporary.write_text(json.dumps({"port": port}), encoding="utf-8")
    temporary.replace(order.folder / PLACE)


def _kept_port(order: ServerOrder) -> int | None:
    try:
        return int(json.loads((order.folder / PLACE).read_text(encoding="utf-8"))["port"])
    except (OSError, ValueError, KeyError):
        return None
