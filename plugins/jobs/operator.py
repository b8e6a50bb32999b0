"""``ContainerJobOperator``: a container, or the same entry point as a process group, as one resumable Airflow task."""

from __future__ import annotations

import datetime as dt
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import Context, ResumableJobMixin
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowException, AirflowTaskTimeout
from docker.errors import DockerException
from docker.utils import parse_bytes
from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from jobs.checkpoint_recorder import CheckpointRecorder
from jobs.devices import lease_devices, release_devices
from jobs.docker_runtime import DockerRuntime, unusable_because
from jobs.errors import JobError, JobFailedError, JobSpecificationError, JobTimeoutError
from jobs.job_folder import JobFolder
from jobs.outcome import error_of
from jobs.process_runtime import ProcessRuntime
from jobs.progress_mirror import ProgressMirror
from jobs.runtimes import JobKey, JobRequest, JobState, JobStatus, Runtime
from runs.notes import write_note
from tollgate.errors import BadInputError, Problem, ServiceUnavailableError
from tollgate.settings import PROJECT, settings
from tollgate.training.backends import DEFAULT, LIMITS
from tollgate.training.leases import Waiting, Wish

LAST_LINES = 20
_DEVICE_IDS = TypeAdapter(list[Annotated[int, Field(ge=0)]])
RUNTIME_KEY = "job_runtime"
QUEUE_KEY = "gpu_queue"
"""In the task's state store: the place in the queue for GPUs, while the task waits."""


class ContainerJobOperator(ResumableJobMixin, DockerOperator):  # type: ignore[misc]
    """Runs a job whose contract is its folder: it writes ``result.json`` there, which becomes the XCom.

    The job outlives the worker. A retry finds it by the id kept in Airflow's task state store or, where the worker died
    before keeping it, by its labels, and never starts a second one. Clearing a finished task runs the job again:
    earlier outputs move to ``earlier/`` in the job folder. A job that failed, was stopped or vanished keeps its
    checkpoints, and the next attempt continues from them. While it runs, its progress goes to the task's log, the task
    state store (key ``progress``) and MLflow, and its checkpoints to ``training_checkpoints``.

    Args:
        job_folder: Absolute path of the job folder, mounted writable at the same path (templated).
        script: Entry point for jobs that run as processes, relative to the project; what the image's entry point runs.
        command: Arguments of the entry point (templated); default: the job folder.
        entrypoint: Replaces the image's entry point (templated).
        image: Default: the trainer's image, of this backend.
        backend: Which training library the job uses (templated): chooses image and interpreter.
        read_only_paths: Host paths that the job reads, mounted at the same absolute path (templated).
        writable_paths: Further host paths that it writes (templated).
        memory: Memory limit such as ``"16g"`` (templated); default: ``TOLLGATE_JOB_MEMORY``.
        gpus: How many GPUs to lease (templated); where none is configured the job runs without.
        gpu_ids: Ids of the GPUs to lease, instead of a number (templated): a list, or the JSON of one. They must be
            configured.
        mlflow_experiment: Experiment of the job's MLflow run (templated); empty: MLflow gets nothing while it runs.
        runtime: ``docker``, ``process`` or ``auto``; default: ``TOLLGATE_RUNTIME``.
        stop_grace: Time between SIGTERM and SIGKILL when the job is stopped.
        **kwargs: ``docker_url``, ``docker_conn_id``, ``environment`` (templated), ``network_mode`` (default: none),
            ``shm_size`` and ``labels`` as for ``DockerOperator``; ``execution_timeout`` and all else of a task.

    Raises:
        JobSpecificationError: The job cannot run as described; not retried.
        JobOutOfMemoryError: It needed more memory than allowed.
        JobTimeoutError: ``execution_timeout`` passed.
        JobStoppedError: It was stopped.
        JobFailedError: It ended badly, without a result, or vanished.
        ServiceUnavailableError: Engine or database did not answer; the job may still run, and a retry finds it.
    """

    external_id_key = "job_id"
    template_fields: Sequence[str] = (
        "image",
        "backend",
        "command",
        "entrypoint",
        "environment",
        "job_folder",
        "read_only_paths",
        "writable_paths",
        "memory",
        "gpus",
        "gpu_ids",
        "mlflow_experiment",
    )
    template_ext: Sequence[str] = ()
    ui_color = "#dbeafe"

    def __init__(
        self,
        *,
        job_folder: str,
        script: str = "containers/trainer/train.py",
        command: list[str] | None = None,
        entrypoint: list[str] | None = None,
        image: str | None = None,
        backend: str = DEFAULT,
        read_only_paths: Sequence[str] = (),
        writable_paths: Sequence[str] = (),
        memory: str | None = None,
        gpus: int | str = 0,
        gpu_ids: Sequence[int] | str = (),
        mlflow_experiment: str = "",
        runtime: str | None = None,
        stop_grace: dt.timedelta = dt.timedelta(seconds=120),
        labels: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("docker_url", settings().docker_url)
        kwargs.setdefault("network_mode", "none")
        kwargs.setdefault("shm_size", 1024**3)
        super().__init__(
            image=image or "",  # known when the backend is
            command=command,
            entrypoint=entrypoint,
            auto_remove="never",  # removed below, after its end was read
            mount_tmp_dir=False,
            labels=labels or {},
            **kwargs,
        )
        self.job_folder = job_folder
        self.script = script
        self.backend = backend
        self.read_only_paths = list(read_only_paths)
        self.writable_paths = list(writable_paths)
        self.memory = memory or settings().job_memory
        self.gpus = gpus
        self.gpu_ids = gpu_ids
        self.mlflow_experiment = mlflow_experiment
        self.runtime = runtime
        self.stop_grace = stop_grace
        self._request: JobRequest | None = None
        self._runtime: Runtime | None = None
        self._job_id: str | None = None
        self._result: dict[str, Any] | None = None
        self._stop_requested = False

    def execute(self, context: Context) -> dict[str, Any]:  # type: ignore[override]
        """Run the job, or the rest of it, and return its result."""
        try:
            self._request = self._make_request(context)
            self._runtime = self._choose_runtime(context)
        except BadInputError as error:
            raise JobSpecificationError(str(error)) from error
        try:
            result: dict[str, Any] = self.execute_resumable(context)
        except AirflowTaskTimeout as error:
            self._stop(f"it ran longer than {self.execution_timeout}")
            self._finish(context, succeeded=False)
            raise JobTimeoutError(f"The job ran longer than {self.execution_timeout} and was stopped.") from error
        except JobError:
            self._finish(context, succeeded=False)
            raise
        self._finish(context, succeeded=True)
        return result

    # What ResumableJobMixin asks for. Ids are "<runtime>:<the runtime's id>".

    def submit_job(self, context: Context) -> str:
        """Start the job, or find the one whose worker died before its id was kept."""
        runtime = self._known_runtime
        existing = self._adopt_existing(runtime)
        if existing is None:
            if isinstance(runtime, DockerRuntime):
                runtime.check_image(self._known_request.image)
            request = self._lease_devices(runtime, context)
            self._folder.prepare_for_submission()
            existing = runtime.submit(request)
            self.log.info("Started job %s in %s", existing[-64:], request.folder)
        self._job_id = existing
        if self._stop_requested:
            self._stop("the task was stopped while the job started")
        return f"{runtime.name}:{existing}"

    def get_job_status(self, external_id: Any, context: Context) -> str:
        """Return the job's state; a job that left a result and is gone has succeeded, since results come last."""
        runtime, self._job_id = self._known_runtime, _job_id(external_id)
        status = runtime.status(self._job_id)
        return str(JobState.SUCCEEDED if self._has_succeeded(status) else _state_without_result(status))

    def is_job_active(self, status: str) -> bool:
        """Whether there is a job to reattach to."""
        return status == JobState.ACTIVE

    def is_job_succeeded(self, status: str) -> bool:
        """Whether the job has left its result."""
        return status == JobState.SUCCEEDED

    def poll_until_complete(self, external_id: Any, context: Context) -> dict[str, Any]:  # type: ignore[override]
        """Follow the log to the job's end and return the result: on reattachment the mixin asks for nothing else."""
        runtime, self._job_id = self._known_runtime, _job_id(external_id)
        last_lines: deque[str] = deque(maxlen=LAST_LINES)
        with CheckpointRecorder(self._known_request.folder, self.log), self._mirror(context) as mirror:
            for line in runtime.follow(self._job_id):
                self.log.info("%s", line)
                mirror.heard(line)
                last_lines.append(line)
            status = runtime.wait(self._job_id)
            if not self._has_succeeded(status):
                raise error_of(status, self._folder, list(last_lines), self.memory)
            self._result = self._read_result()
        return self._result

    def get_job_result(self, external_id: Any, context: Context) -> dict[str, Any]:
        """Return the result; of a job that ended while nobody followed it, tell first what it told meanwhile."""
        return self._result or self.poll_until_complete(external_id, context)

    def _read_result(self) -> dict[str, Any]:
        try:
            return self._folder.result()
        except ValueError as error:
            raise JobFailedError(str(error)) from error

    def on_kill(self) -> None:
        """Stop the job: the task was cleared, marked, or its worker shuts down. Airflow allows this a few seconds.

        Engine and launcher go on with the stop where this process is killed in the middle of it.
        """
        self._stop_requested = True
        self._stop("the task was stopped")

    # Parts of the above.

    @property
    def _known_runtime(self) -> Runtime:
        assert self._runtime is not None, "execute() chooses the runtime first"
        return self._runtime

    @property
    def _known_request(self) -> JobRequest:
        assert self._request is not None, "execute() makes the request first"
        return self._request

    @property
    def _folder(self) -> JobFolder:
        return JobFolder(self._known_request.folder)

    def _mirror(self, context: Context) -> ProgressMirror:
        """What shows the job's progress while it is followed."""
        stream = None
        if self.mlflow_experiment:
            from mlflow_registry.hook import MlflowRegistryHook
            from tollgate.registry.mlflow_run_stream import RunStream

            connect = MlflowRegistryHook().get_conn
            stream = RunStream(self._known_request.folder, self.mlflow_experiment, connect, self.log)
        return ProgressMirror(self._known_request.folder, context.get("task_state_store"), self.log, stream)

    def _has_succeeded(self, status: JobStatus) -> bool:
        return status.state in {JobState.SUCCEEDED, JobState.MISSING} and self._folder.has_result

    def _adopt_existing(self, runtime: Runtime) -> str | None:
        existing = runtime.find(self._known_request)
        if existing is None:
            return None
        status = runtime.status(existing)
        if status.state is JobState.ACTIVE or (status.state is JobState.SUCCEEDED and self._folder.has_result):
            self.log.info("Found the job that an earlier attempt started: %s", existing[-64:])
            return existing
        if status.state is not JobState.CREATED:  # submit() starts a created one
            runtime.remove(existing)
        return None

    def _lease_devices(self, runtime: Runtime, context: Context) -> JobRequest:
        request = self._known_request
        wish = Wish(request.key.holder, int(self.gpus), tuple(device_ids(self.gpu_ids)), runtime.name)
        try:
            devices = lease_devices(
                wish,
                request.folder,
                is_alive=runtime.is_alive,
                is_stopped=lambda: self._stop_requested,
                tell=lambda waiting: self._tell_place(waiting, context),
                log=self.log,
            )
        except BadInputError as error:
            raise JobSpecificationError(str(error)) from error
        self._tell_devices(wish, devices, context)
        return replace(request, devices=devices)

    def _tell_place(self, waiting: Waiting, context: Context) -> None:
        """Say where the task stands in the queue: in its log, its state store, and the run's note."""
        self.log.info("Waiting for GPUs. %s", waiting)
        store = context.get("task_state_store")
        if store is not None:
            busy: dict[str, JsonValue] = {str(device): holder for device, holder in waiting.busy.items()}
            place: dict[str, JsonValue] = {
                "place": waiting.place,
                "waiters": waiting.waiters,
                "wish": str(waiting.wish),
                "busy": busy,
            }
            store.set(QUEUE_KEY, place)
        self._note(context, f"waits for GPUs. {waiting}")

    def _tell_devices(self, wish: Wish, devices: tuple[int, ...], context: Context) -> None:
        store = context.get("task_state_store")
        if devices:
            named = ", ".join(map(str, devices))
            self.log.info("The job has GPU %s.", named)
            if store is not None and store.get(QUEUE_KEY) is not None:
                store.delete(QUEUE_KEY)
                self._note(context, f"has GPU {named} after waiting.")
        elif wish.size:
            self.log.info("No GPU is configured (TOLLGATE_GPU_IDS): the job runs on the CPU.")

    def _note(self, context: Context, text: str) -> None:
        if context.get("dag_run") is not None:
            write_note(context, f"**{self.task_id}** {text}")

    def _stop(self, reason: str) -> None:
        if self._runtime is None or self._request is None:
            return
        job_id = self._job_id or self._runtime.find(self._request)
        if job_id is not None:
            self.log.info("Stopping the job: %s", reason)
            self._folder.mark_stop(reason)
            self._runtime.stop(job_id, int(self.stop_grace.total_seconds()))

    def _finish(self, context: Context, *, succeeded: bool) -> None:
        """Free everything that an ended job holds. The kept id goes last: until then a retry finds the result."""
        runtime, request = self._known_runtime, self._known_request
        release_devices(request.key.holder)
        job_id = self._job_id or runtime.find(request)
        if job_id is not None:
            runtime.remove(job_id)
        store = context.get("task_state_store")
        # Airflow can clear the store in the transaction that marks the task successful. Else a cleared task would find
        # the old id and "succeed" without running.
        if store is not None and not (succeeded and conf.getboolean("state_store", "clear_on_success", fallback=False)):
            store.delete(self.external_id_key)
            store.delete(RUNTIME_KEY)
            store.delete(QUEUE_KEY)

    def _choose_runtime(self, context: Context) -> Runtime:
        """Keep to the runtime of the attempt before; else take the one that the settings name or that is usable."""
        store = context.get("task_state_store")
        name = store.get(RUNTIME_KEY) if store is not None else None
        if name:
            self.log.info("Runtime: %s, as in the attempt before", name)
        else:
            name, reason = self._usable_runtime()
            self.log.info("Runtime: %s, because %s", name, reason)
        runtime = self._docker_runtime() if name == "docker" else self._process_runtime()
        if store is not None:
            store.set(RUNTIME_KEY, name)
        return runtime

    def _usable_runtime(self) -> tuple[str, str]:
        wish = self.runtime or settings().runtime
        if wish != "auto":
            return wish, f"TOLLGATE_RUNTIME or the task asks for {wish}"
        problem = unusable_because(str(self.docker_url), self.image)
        return ("process", problem) if problem else ("docker", f"the engine has the image {self.image}")

    def _docker_runtime(self) -> DockerRuntime:
        try:
            client = self.cli
            if not client.images(name=self.image):
                client.pull(self.image)
        except DockerException as error:
            raise JobSpecificationError(
                f"The Docker engine has no image {self.image} for the backend {self.backend} and cannot fetch it: "
                f"{error}. docs/backends.md tells how to build it; TOLLGATE_BACKEND_IMAGES names another."
            ) from error
        except AirflowException as error:
            raise ServiceUnavailableError(f"No Docker engine answers at {self.docker_url}.") from error
        return DockerRuntime(client)

    def _process_runtime(self) -> ProcessRuntime:
        script, python = PROJECT / self.script, settings().python_of(self.backend)
        environment = (
            ("TOLLGATE_ML_PYTHON", python, "`make setup` creates it")
            if self.backend == DEFAULT
            else ("TOLLGATE_BACKEND_PYTHONS", python, f"the environment of {self.backend}; docs/backends.md makes it")
        )
        missing = [
            Problem(where, str(path), f"an existing file; {advice}")
            for where, path, advice in (
                ("script", script, "the job's entry point"),
                environment,
            )
            if not path.is_file()
        ]
        if missing:
            raise BadInputError("The job cannot run as a process.", missing)
        return ProcessRuntime()

    def _make_request(self, context: Context) -> JobRequest:
        if problems := self._problems():
            raise BadInputError("The job cannot run as it is described.", problems)
        self.image = self.image or settings().trainer_image_of(self.backend)
        instance = context["ti"]
        map_index = -1 if instance.map_index is None else instance.map_index
        command = tuple(self.command or [self.job_folder])
        return JobRequest(
            key=JobKey(instance.dag_id, instance.run_id, instance.task_id, map_index),
            folder=Path(self.job_folder),
            image=self.image,
            command=command,
            process_command=(str(settings().python_of(self.backend)), str(PROJECT / self.script), *command),
            entrypoint=tuple(self.entrypoint) if self.entrypoint else None,
            environment={**self.environment},
            read_only_paths=tuple(map(Path, self.read_only_paths)),
            writable_paths=tuple(map(Path, self.writable_paths)),
            memory_bytes=int(parse_bytes(self.memory)),
            shm_bytes=self.shm_size,
            network=self.network_mode or "none",
            grace_seconds=int(self.stop_grace.total_seconds()),
            labels=self.labels if isinstance(self.labels, dict) else {},
        )

    def _problems(self) -> list[Problem]:
        """Check everything before anything starts."""
        problems = [
            Problem(name, path, "an existing absolute path")
            for name, paths in (
                ("job_folder", [self.job_folder]),
                ("read_only_paths", self.read_only_paths),
                ("writable_paths", self.writable_paths),
            )
            for path in paths
            if not (Path(path).is_absolute() and Path(path).exists())
        ]
        if self.backend not in LIMITS:
            problems.append(Problem("backend", self.backend, f"one of {', '.join(LIMITS)}"))
        if not str(self.gpus).isdecimal():
            problems.append(Problem("gpus", str(self.gpus), "a whole number, 0 or more"))
        try:
            device_ids(self.gpu_ids)
        except ValidationError:
            problems.append(Problem("gpu_ids", str(self.gpu_ids), "a list of device ids, such as [0, 1]"))
        if (self.runtime or "auto") not in {"auto", "docker", "process"}:
            problems.append(Problem("runtime", str(self.runtime), "auto, docker or process"))
        try:
            parse_bytes(self.memory)
        except DockerException:
            problems.append(Problem("memory", self.memory, "a number with a unit, such as 512m or 16g"))
        return problems


def device_ids(text: Sequence[int] | str) -> list[int]:
    """The ids in a list, or in the JSON of one as a template renders it; an empty text or ``None`` names none.

    Raises:
        ValidationError: It is no list of whole numbers.
    """
    if isinstance(text, str):
        return [] if text in {"", "None", "null"} else _DEVICE_IDS.validate_json(text)
    return _DEVICE_IDS.validate_python(list(text))


def _job_id(external_id: Any) -> str:
    """Return the runtime's own id: what follows the runtime's name."""
    return str(external_id).partition(":")[2]


def _state_without_result(status: JobStatus) -> JobState:
    return JobState.FAILED if status.state in {JobState.SUCCEEDED, JobState.CREATED} else status.state
