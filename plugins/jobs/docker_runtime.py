"""Jobs as containers on a Docker engine."""

from __future__ import annotations

import codecs
import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import urllib3
from docker import APIClient
from docker.errors import APIError, DockerException
from docker.types import DeviceRequest, Mount

from jobs.errors import JobFailedError, JobSpecificationError
from jobs.job_folder import JobFolder
from jobs.runtimes import JobRequest, JobState, JobStatus, RuntimeName, job_environment, visible_text
from tollgate.errors import ServiceUnavailableError
from tollgate.settings import PROJECT
from tollgate.stack import image_sources

ENDED = ("exited", "dead", "removing")
_TITLE = "org.opencontainers.image.title"
_BASE = "org.opencontainers.image.base.name"
LEFTOVER_AGE = dt.timedelta(days=1)
"""How long an ended container waits for a retry that reads its end; after that it is swept."""


def unusable_because(url: str, image: str) -> str | None:
    """Say why jobs cannot run on the engine at ``url``; nothing where they can."""
    try:
        client = APIClient(base_url=url, version="auto", timeout=5)
        client.ping()
        if client.images(name=image):
            return stale_because(client, image)
    except (DockerException, requests.RequestException):
        return f"no Docker engine answers at {url}"
    return f"the Docker engine at {url} has no image {image}"


def stale_because(client: APIClient, image: str) -> str | None:
    """Say why an image is older than the sources here, and what builds it again; nothing where it is not.

    An image of this project says in its labels what it is, and by their digest of which sources it was made
    (``tollgate.stack.image_sources``). One without a digest was made before there were any. Images of others are not
    judged.

    Args:
        client: The engine, which has the image.
        image: Its name.
    """
    labels = client.inspect_image(image)["Config"].get("Labels") or {}  # type: ignore[no-untyped-call]
    title = labels.get(_TITLE, "")
    name = title.removeprefix(image_sources.TITLE_PREFIX)
    if name == title or name not in image_sources.IMAGES:
        return None
    try:
        wanted = image_sources.digest(name, PROJECT)
    except FileNotFoundError as error:
        return f"the sources of the image {image} are not here to compare it with: {error}"
    built = labels.get(image_sources.LABEL)
    if built == wanted:
        return None
    made = f"sources {built[:12]}" if built else "sources that it does not name"
    return (
        f"the image {image} was made of {made}, and here are {wanted[:12]}. "
        f"Build it again: {_build_command(name, image, labels)}"
    )


def _build_command(name: str, image: str, labels: Mapping[str, str]) -> str:
    """The command that made this image, with the sources of now."""
    options = [f"--tag {image}"]
    if base := labels.get(_BASE):
        options.append(f"--base-image {base}")
    if pins := labels.get(image_sources.REQUIREMENTS_LABEL):
        options.append(f"--requirements {pins}")
    return " ".join(["python3.11 containers/build_image.py", name, *options])


class DockerRuntime:
    """Runs each job as one labelled container, and removes it only when told to."""

    name: RuntimeName = "docker"

    def __init__(self, client: APIClient) -> None:
        self._client = client

    def check_image(self, image: str) -> None:
        """Refuse an image that is older than the sources here; to be called before a new job, not for a running one.

        Raises:
            JobSpecificationError: It is; with what builds it again.
            ServiceUnavailableError: The engine did not answer.
        """
        with _engine():
            reason = stale_because(self._client, image)
        if reason:
            raise JobSpecificationError(f"The job cannot run in its image: {reason}")

    def submit(self, request: JobRequest) -> str:
        """Create and start the container, or start the one that an interrupted submission created.

        Raises:
            JobFailedError: The engine refused to create or start it; nothing is left behind.
            ServiceUnavailableError: The engine did not answer.
        """
        with _engine():
            self._sweep()
            try:
                container = str(self._create(request)["Id"])
            except APIError as error:
                existing = self.find(request) if error.status_code == requests.codes.conflict else None
                if existing is None:
                    raise
                container = existing
            self._start(container)
            return container

    def _create(self, request: JobRequest) -> dict[str, Any]:
        return self._client.create_container(
            image=request.image,
            name=request.name,
            command=list(request.command),
            entrypoint=list(request.entrypoint) if request.entrypoint else None,
            # A user without a line in /etc/passwd has no home, and some libraries insist on a name and a cache folder.
            environment={"HOME": "/tmp", "USER": "tollgate", **job_environment(request.environment)},  # noqa: S108
            user=JobFolder(request.folder).owner,
            working_dir=str(request.folder),
            labels={**request.labels, **request.key.labels, "tollgate.folder": str(request.folder)},
            host_config=self._client.create_host_config(
                mounts=_mounts(request),
                mem_limit=request.memory_bytes,
                memswap_limit=request.memory_bytes,  # equal: no swap, so that the limit means what it says
                shm_size=request.shm_bytes,
                network_mode=request.network,
                device_requests=_device_requests(request),
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                init=True,  # reaps data loaders' children and hands SIGTERM on
            ),
        )

    def _start(self, container: str) -> None:
        if self.status(container).state is not JobState.CREATED:
            return
        try:
            self._client.start(container)
        except APIError:
            self._client.remove_container(container, v=True, force=True)
            raise

    def find(self, request: JobRequest) -> str | None:
        """Return the id of this key's container: the persisted id may be missing where a worker died submitting."""
        labels = [f"{name}={value}" for name, value in request.key.labels.items()]
        labels.append(f"tollgate.folder={request.folder}")
        with _engine():
            found = self._client.containers(all=True, filters={"label": labels})
        return str(found[0]["Id"]) if found else None

    def status(self, job_id: str) -> JobStatus:
        """Inspect the container."""
        state: dict[str, Any] = {"Status": "removing"}
        with _unless_gone():
            state = self._client.inspect_container(job_id)["State"]
        if state["Status"] == "removing":
            return JobStatus(JobState.MISSING)
        if state["Status"] == "created":
            return JobStatus(JobState.CREATED)
        if state["Status"] not in ENDED:
            return JobStatus(JobState.ACTIVE)
        code = int(state["ExitCode"])
        # The flag alone does not make a failure: a data loader's worker may have run out of memory and been replaced.
        return JobStatus(
            JobState.FAILED if code else JobState.SUCCEEDED, code, out_of_memory=bool(code and state["OOMKilled"])
        )

    def follow(self, job_id: str) -> Iterator[str]:
        """Yield the container's log from its beginning until it ends; nothing where it is gone."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        pending = last = ""
        with _unless_gone():
            for chunk in self._client.logs(job_id, stream=True, follow=True, stdout=True, stderr=True):
                *lines, pending = (pending + decoder.decode(chunk)).split("\n")
                yield from map(visible_text, lines)
            # Following, an engine may lose a last line without a newline (20.10 does); asked again it has it.
            last = self._client.logs(job_id, tail=1).decode("utf-8", errors="replace")
        if last and not last.endswith("\n"):
            yield visible_text(last)

    def last_lines(self, job_id: str, count: int) -> list[str]:
        """Ask the engine for the end of the container's log."""
        text = b""
        with _unless_gone():
            text = self._client.logs(job_id, tail=count, stdout=True, stderr=True)
        return [visible_text(line) for line in text.decode("utf-8", errors="replace").splitlines()]

    def wait(self, job_id: str) -> JobStatus:
        """Block until the container has ended."""
        with _unless_gone():
            self._client.wait(job_id)
        return self.status(job_id)

    def stop(self, job_id: str, grace_seconds: int) -> None:
        """Let the engine stop the container. It does so to the end, even where this process dies meanwhile."""
        with _unless_gone():
            self._client.stop(job_id, timeout=grace_seconds)

    def remove(self, job_id: str) -> None:
        """Remove the container."""
        with _unless_gone():
            self._client.remove_container(job_id, v=True, force=True)

    def is_alive(self, holder: str) -> bool:
        """Whether a container of this holder has not ended yet."""
        with _engine():
            found = self._client.containers(all=True, filters={"label": [f"tollgate.holder={holder}"]})
        return any(container["State"] not in ENDED for container in found)

    def _sweep(self) -> None:
        """Remove containers that ended long ago and that no retry came back for."""
        filters = {"label": ["tollgate.holder"], "status": ["exited", "dead"]}
        for container in self._client.containers(all=True, filters=filters):
            if dt.datetime.fromtimestamp(container["Created"], dt.UTC) < dt.datetime.now(dt.UTC) - LEFTOVER_AGE:
                self._remove_if_ended_long_ago(container["Id"])

    def _remove_if_ended_long_ago(self, container: str) -> None:
        with _unless_gone():
            finished = self._client.inspect_container(container)["State"]["FinishedAt"]
            if dt.datetime.fromisoformat(finished) < dt.datetime.now(dt.UTC) - LEFTOVER_AGE:
                self._client.remove_container(container, v=True)


def _mounts(request: JobRequest) -> list[Mount]:
    writable = dict.fromkeys([request.folder, *request.writable_paths])
    return [_mount(path, read_only=False) for path in writable] + [
        _mount(path, read_only=True) for path in dict.fromkeys(request.read_only_paths) if path not in writable
    ]


def _mount(path: Path, *, read_only: bool) -> Mount:
    return Mount(target=str(path), source=str(path), type="bind", read_only=read_only)


def _device_requests(request: JobRequest) -> list[DeviceRequest] | None:
    """An engine without GPUs refuses to start a container that asks for one, so ask only where devices are given."""
    if not request.devices:
        return None
    return [DeviceRequest(device_ids=[str(device) for device in request.devices], capabilities=[["gpu"]])]


@contextmanager
def _engine() -> Iterator[None]:
    """Turn the engine's errors into ours: it said no, or it said nothing."""
    try:
        yield
    except APIError as error:
        raise JobFailedError(f"The Docker engine refused: {error.explanation or error}") from error
    except (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError) as error:
        raise ServiceUnavailableError(f"The Docker engine did not answer: {error}") from error


@contextmanager
def _unless_gone() -> Iterator[None]:
    """Leave the block quietly where the container is gone, or going at this moment."""
    with _engine():
        try:
            yield
        except APIError as error:
            if error.status_code not in {requests.codes.not_found, requests.codes.conflict}:
                raise
