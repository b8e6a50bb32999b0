"""Jobs as containers on a real Docker engine keep the contract; the traps of containers follow it."""

from __future__ import annotations

import datetime as dt
import subprocess
import time
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
from tests.unit.plugins.jobs.job_contract import JOB, JobContract, MakeTask, Task, kill, wait_until

from jobs.docker_runtime import DockerRuntime, unusable_because
from jobs.errors import JobFailedError, JobSpecificationError
from jobs.runtimes import Runtime
from tollgate.errors import ServiceUnavailableError
from tollgate.settings import PROJECT, settings

BASE_IMAGE = "tollgate/base:bookworm"
pytestmark = pytest.mark.docker


@pytest.fixture(scope="session")
def client() -> docker.APIClient:
    """A client of the engine, which has the small image that the tests run in."""
    try:
        found = docker.APIClient(base_url=settings().docker_url, version="auto", timeout=60)
        found.ping()
    except (docker.errors.DockerException, requests.RequestException) as error:
        pytest.skip(f"no Docker engine: {error}")
    if not found.images(name=BASE_IMAGE):
        built = subprocess.run(["bash", str(PROJECT / ".ci" / "base-image")], capture_output=True, text=True)
        if built.returncode:
            pytest.skip(f"no image {BASE_IMAGE}, and .ci/base-image cannot make it here: {built.stderr[-300:]}")
    return found


def _containers(client: docker.APIClient, task: Task) -> list[dict[str, Any]]:
    return client.containers(all=True, filters={"label": f"tollgate.folder={task.folder}"})


class TestContainerJobs(JobContract):
    @pytest.fixture
    def runtime(self, client: docker.APIClient) -> DockerRuntime:
        return DockerRuntime(client)

    @pytest.fixture
    def parameters(self) -> dict[str, Any]:
        return {"runtime": "docker", "image": BASE_IMAGE}

    def make_vanish(self, task: Task, runtime: Runtime) -> None:
        runtime.remove(task.job_id)

    def test_container_is_labelled_confined_and_asks_for_no_gpu(self, task: MakeTask, client: docker.APIClient) -> None:
        road = task("wait", labels={"team": "roads"})
        worker = road.start_worker()
        road.wait_until_job_waits()
        (found,) = _containers(client, road)
        inspected = client.inspect_container(found["Id"])
        labels, host = inspected["Config"]["Labels"], inspected["HostConfig"]
        assert (labels["tollgate.dag"], labels["tollgate.task"], labels["tollgate.map_index"], labels["team"]) == (
            "finetune",
            "train",
            "-1",
            "roads",
        )
        assert labels["tollgate.run"] == road.instance.run_id
        assert not host["DeviceRequests"], "an engine without GPUs would refuse to start it"
        assert host["Memory"] == 64 * 2**20
        assert host["NetworkMode"] == "none"
        assert host["CapDrop"] == ["ALL"]
        modes = {mount["Destination"]: mount["RW"] for mount in inspected["Mounts"]}
        assert modes == {str(road.folder): True, str(JOB): False}
        road.let_job_go()
        assert road.outcome_of(worker)["result"]["starts"] == 1

    def test_gpu_that_the_engine_does_not_have_leaves_no_container(
        self, task: MakeTask, runtime: DockerRuntime, client: docker.APIClient
    ) -> None:
        road = task("succeed")
        request = road.operator()._make_request(road.context())
        wanting = request.__class__(**{**vars(request), "devices": (7,)})
        with pytest.raises(JobFailedError, match="engine refused"):
            runtime.submit(wanting)
        assert not _containers(client, road)

    def test_job_that_is_silent_for_longer_than_the_engines_timeout(self, task: MakeTask) -> None:
        road = task("wait", timeout=1)
        worker = road.start_worker()
        road.wait_until_job_waits()
        worker.join(3)
        assert worker.is_alive()
        road.let_job_go()
        assert road.outcome_of(worker)["result"]["starts"] == 1

    def test_container_created_but_never_started_is_started_once(
        self, task: MakeTask, runtime: DockerRuntime, client: docker.APIClient
    ) -> None:
        road = task("succeed")
        runtime._create(road.operator()._make_request(road.context()))
        assert road.run()["starts"] == 1
        assert not _containers(client, road)

    def test_second_submission_joins_the_running_container(
        self, task: MakeTask, runtime: DockerRuntime, client: docker.APIClient
    ) -> None:
        road = task("wait")
        request = road.operator()._make_request(road.context())
        first = runtime.submit(request)
        assert runtime.submit(request) == first
        assert len(_containers(client, road)) == 1
        road.let_job_go()
        assert runtime.wait(first).state == "succeeded"

    def test_stop_goes_on_where_the_worker_dies_meanwhile(self, task: MakeTask, runtime: DockerRuntime) -> None:
        road = task("stubborn", stop_grace=dt.timedelta(seconds=2))
        worker = road.start_worker()
        road.wait_until_job_waits()
        road.wait_until_kept()
        job_id = road.job_id
        worker.terminate()
        wait_until((road.folder / "stop.json").exists)
        time.sleep(0.5)  # the engine has the request by now
        kill(worker)
        assert runtime.wait(job_id).exit_code == 137
        road.let_job_go()
        assert road.run()["starts"] == 2

    def test_retry_stays_with_the_engine_that_has_the_job(
        self, task: MakeTask, runtime: DockerRuntime, tmp_path: Path
    ) -> None:
        road = task("wait")
        worker = road.start_worker()
        road.wait_until_job_waits()
        road.wait_until_kept()
        kill(worker)
        road.parameters.update({"runtime": "auto", "docker_url": f"unix://{tmp_path}/no.sock"})
        with pytest.raises(ServiceUnavailableError):
            road.run()
        road.parameters.update({"docker_url": settings().docker_url})
        road.let_job_go()
        assert road.run()["starts"] == 1

    def test_unknown_image_is_refused(self, task: MakeTask) -> None:
        with pytest.raises(JobSpecificationError, match="tollgate/none"):
            task("succeed", image="tollgate/none:0").run()


def test_auto_says_why_the_engine_cannot_be_used(client: docker.APIClient, tmp_path: Path) -> None:
    assert unusable_because(settings().docker_url, BASE_IMAGE) is None
    assert "no image tollgate/none:0" in str(unusable_because(settings().docker_url, "tollgate/none:0"))
    assert "no Docker engine" in str(unusable_because(f"unix://{tmp_path}/no.sock", BASE_IMAGE))
