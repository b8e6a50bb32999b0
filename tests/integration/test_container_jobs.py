"""Jobs as containers on a real Docker engine keep the contract; the traps of containers follow it."""

from __future__ import annotations

import datetime as dt
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
from tests.unit.plugins.jobs.job_contract import JOB, JobContract, MakeTask, Task, kill, wait_until

from jobs import docker_runtime
from jobs.docker_runtime import DockerRuntime, unusable_because
from jobs.errors import JobFailedError, JobSpecificationError
from jobs.runtimes import Runtime
from tollgate.errors import ServiceUnavailableError
from tollgate.settings import PROJECT, settings
from tollgate.stack import image_sources

BASE_IMAGE = "tollgate/base:bookworm"
pytestmark = pytest.mark.docker
MakeImage = Callable[..., str]
Choose = Callable[[str, str], tuple[str, str]]


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


class TestImagesOfOldSources:
    """An image of ours that was made of other sources is not used: its programs would read another specification."""

    @pytest.fixture
    def make_image(self, client: docker.APIClient) -> Iterator[MakeImage]:
        """Make an image with these labels and return its name."""
        made: list[str] = []

        def make(**labels: str) -> str:
            made.append(f"tollgate-test/labelled:{uuid.uuid4().hex}")
            names = {"title": "org.opencontainers.image.title", "base": "org.opencontainers.image.base.name"}
            said = {names.get(name, f"tollgate.{name}"): value for name, value in labels.items()}
            file = BytesIO(f"FROM {BASE_IMAGE}\nUSER 10001\n".encode())
            list(client.build(fileobj=file, tag=made[-1], labels=said, rm=True))
            return made[-1]

        yield make
        for image in made:
            client.remove_image(image, force=True)

    @pytest.fixture
    def choose(self, tmp_path: Path) -> Choose:
        """The runtime that the operator takes for an image, and what it says about it."""

        def chosen(image: str, runtime: str) -> tuple[str, str]:
            return Task(tmp_path / image[-12:], "succeed", image=image, runtime=runtime).operator()._usable_runtime()

        return chosen

    def test_image_of_these_sources_is_used(self, make_image: MakeImage, choose: Choose, tmp_path: Path) -> None:
        image = make_image(title="tollgate-trainer", sources=image_sources.digest("trainer"))
        assert choose(image, "auto")[0] == "docker"
        assert Task(tmp_path / "run", "succeed", image=image, runtime="docker").run()["status"] == "succeeded"

    @pytest.mark.parametrize("sources", [{}, {"sources": "0" * 64}])
    def test_auto_passes_over_an_old_image_and_says_what_builds_it(
        self, make_image: MakeImage, choose: Choose, sources: dict[str, str]
    ) -> None:
        image = make_image(
            title="tollgate-trainer-axolotl", base=BASE_IMAGE, requirements="requirements-gpu.txt", **sources
        )
        name, reason = choose(image, "auto")
        assert name == "process"
        command = f"python3.11 containers/build_image.py trainer-axolotl --tag {image} --base-image {BASE_IMAGE}"
        assert reason.endswith(f"Build it again: {command} --requirements requirements-gpu.txt")
        assert ("sources 000000000000" if sources else "sources that it does not name") in reason

    @pytest.mark.parametrize("sources", [{}, {"sources": "0" * 64}])
    def test_docker_refuses_an_old_image_before_it_starts_anything(
        self, client: docker.APIClient, make_image: MakeImage, tmp_path: Path, sources: dict[str, str]
    ) -> None:
        road = Task(tmp_path, "succeed", image=make_image(title="tollgate-trainer", **sources), runtime="docker")
        with pytest.raises(
            JobSpecificationError, match=r"Build it again: python3\.11 containers/build_image\.py trainer"
        ):
            road.run()
        assert not _containers(client, road)
        assert not (road.folder / "starts").exists()

    def test_a_running_job_is_kept_although_its_image_became_old(
        self, make_image: MakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = make_image(title="tollgate-trainer", sources=image_sources.digest("trainer"))
        road = Task(tmp_path, "wait", image=image, runtime="docker")
        worker = road.start_worker()
        road.wait_until_job_waits()
        road.wait_until_kept()
        kill(worker)
        monkeypatch.setattr(image_sources, "digest", lambda *_: "f" * 64)
        assert "was made of sources" in str(unusable_because(settings().docker_url, image))
        road.let_job_go()
        assert road.run()["starts"] == 1

    def test_images_of_others_are_not_judged(self, make_image: MakeImage) -> None:
        for labels in ({}, {"title": "somebody-elses"}, {"title": "tollgate-gateway"}):
            assert unusable_because(settings().docker_url, make_image(**labels)) is None

    def test_sources_that_are_not_here_are_named(
        self, make_image: MakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(docker_runtime, "PROJECT", tmp_path)
        image = make_image(title="tollgate-vllm", sources="0" * 64)
        assert "containers/vllm" in str(unusable_because(settings().docker_url, image))
