"""Job containers of a stack: they are the Docker engine's children, so stopping the stack's processes misses them."""

from __future__ import annotations

from pathlib import Path

from tollgate.settings import Settings

FOLDER_LABEL = "tollgate.folder"
"""Label of a job's container that names its job folder."""

_ENGINE_SECONDS = 10


def stop_job_containers(configuration: Settings, grace: float) -> int:
    """Stop the containers of jobs and servers whose folders belong to this stack; trainings save a checkpoint first.

    Where no engine answers there is nothing to stop, or nobody to ask.

    Args:
        configuration: The stack's settings.
        grace: Seconds between SIGTERM and SIGKILL.

    Returns:
        How many were running.
    """
    import docker
    import requests

    try:
        engine = docker.DockerClient(
            base_url=configuration.docker_url, version="auto", timeout=_ENGINE_SECONDS + int(grace)
        )
        running = engine.containers.list(filters={"label": FOLDER_LABEL})
    except (docker.errors.DockerException, requests.RequestException):
        return 0
    folders = [configuration.jobs.resolve(), configuration.servers.resolve()]
    ours = [one for one in running if any(map(Path(one.labels[FOLDER_LABEL]).resolve().is_relative_to, folders))]
    for container in ours:
        container.stop(timeout=int(grace))
    return len(ours)
