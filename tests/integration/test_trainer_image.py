"""The trainer's image trains a real (tiny) model under ``ContainerJobOperator``, through a stop and a killed worker."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
from tests.unit.containers.trainer.conftest import MAKE_BASE, dataset
from tests.unit.plugins.jobs.job_contract import Task, kill, wait_until

from jobs.docker_runtime import DockerRuntime, unusable_because
from jobs.errors import JobSpecificationError, JobStoppedError
from tollgate.settings import settings
from tollgate.stack import image_sources

__all__ = ["dataset"]
pytestmark = pytest.mark.docker
STEPS = 400
MAKE_BASE_AND_RESULT = f"""{MAKE_BASE}
import pathlib
pathlib.Path(sys.argv[1], "result.json").write_text('{{"status": "succeeded"}}')
"""


@pytest.fixture(scope="module")
def client() -> docker.APIClient:
    """A client of the engine."""
    try:
        found = docker.APIClient(base_url=settings().docker_url, version="auto", timeout=60)
        found.ping()
    except (docker.errors.DockerException, requests.RequestException) as error:
        pytest.skip(f"no Docker engine: {error}")
    return found


@pytest.fixture(scope="module", params=["trl", "axolotl", "llamafactory"])
def backend(request: pytest.FixtureRequest, client: docker.APIClient) -> str:
    """A training backend whose image the engine has."""
    name: str = request.param
    if reason := unusable_because(settings().docker_url, settings().trainer_image_of(name)):
        pytest.skip(f"{reason}; .ci/run builds TRL's, docs/backends.md tells how to build the others")
    return name


class TrainerTask(Task):
    """A task with the operator's defaults for the image and its entry point, as the DAG has them."""

    own: dict[str, Any]

    def __init__(self, folder: Path, **own: Any) -> None:
        super().__init__(folder, "unused", runtime="docker", script="containers/trainer/train.py")
        self.parameters.update({"entrypoint": None, "read_only_paths": [], "memory": "4g", **own})


def _write_spec(task: Task, base_model: Path, dataset: Path, **values: Any) -> None:
    spec = {
        "job_name": "image-test",
        "base_model": str(base_model),
        "dataset": str(dataset),
        "dataset_reference": "numbers@v1",
        "output": str(task.folder),
        "max_steps": STEPS,
        "batch_size": 2,
        "max_length": 64,
        "lora_rank": 4,
        "logging_steps": 5,
        "save_steps": 50,
        "eval_steps": STEPS,
        **values,
    }
    (task.folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")


@pytest.fixture(scope="module")
def base_model(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of random weights, made by the image itself as a job."""
    task = TrainerTask(
        tmp_path_factory.mktemp("base"), backend=backend, entrypoint=["python", "-c", MAKE_BASE_AND_RESULT]
    )
    assert task.run() == {"status": "succeeded"}
    return task.folder


def test_training_survives_a_stop_and_a_killed_worker(
    client: docker.APIClient, backend: str, base_model: Path, dataset: Path, tmp_path: Path
) -> None:
    reads = {"read_only_paths": [str(base_model), str(dataset)], "stop_grace": dt.timedelta(seconds=60)}
    road = TrainerTask(tmp_path, backend=backend, **reads)
    _write_spec(road, base_model, dataset, backend=backend)

    worker = road.start_worker()
    wait_until(lambda: _steps(road) >= 5)
    worker.terminate()
    assert road.outcome_of(worker)["error"] == JobStoppedError.__name__
    (checkpoint,) = (road.folder / "checkpoints").glob("checkpoint-*")
    stopped_at = int(checkpoint.name.rpartition("-")[2])
    assert 0 < stopped_at < STEPS

    worker = road.start_worker()
    wait_until(lambda: _steps(road) > stopped_at)
    container = road.job_id
    kill(worker)
    assert DockerRuntime(client).status(container).state == "active"

    result = road.run()
    assert (result["status"], result["steps"]) == ("succeeded", STEPS)
    assert (Path(result["weights_path"]) / "adapter_model.safetensors").is_file()
    steps = [row["step"] for row in _progress(road) if "loss" in row]
    assert steps == sorted(set(steps)), "no step was trained twice"
    assert not client.containers(all=True, filters={"label": f"tollgate.folder={road.folder}"})


def test_wrong_specification_is_named_and_not_retried(backend: str, tmp_path: Path) -> None:
    road = TrainerTask(tmp_path, backend=backend)
    _write_spec(road, tmp_path / "nowhere", tmp_path, backend=backend, lora_rank=0)
    with pytest.raises(JobSpecificationError, match="lora_rank"):
        road.run()


def test_image_has_no_root_and_says_its_version(client: docker.APIClient, backend: str) -> None:
    image = settings().trainer_image_of(backend)
    config: dict[str, Any] = client.inspect_image(image)["Config"]  # type: ignore[no-untyped-call]
    name = "trainer" if backend == "trl" else f"trainer-{backend}"
    assert config["User"] == "tollgate"
    assert config["Labels"]["org.opencontainers.image.title"] == f"tollgate-{name}"
    assert config["Labels"]["org.opencontainers.image.version"] == image.rpartition(":")[2]
    assert config["Labels"][image_sources.LABEL] == image_sources.digest(name)
    assert config["Healthcheck"]["Test"][0] == "CMD"


def _progress(task: Task) -> list[dict[str, Any]]:
    try:
        lines = (task.folder / "progress.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def _steps(task: Task) -> int:
    return max((row["step"] for row in _progress(task)), default=0)
