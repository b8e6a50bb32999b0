"""Full weights are examined in the image of vLLM under ``ContainerJobOperator``, as ``candidate.examine`` does it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
from tests.unit.containers.trainer.conftest import MAKE_BASE
from tests.unit.plugins.jobs.job_contract import Task, kill, wait_until

from jobs.docker_runtime import DockerRuntime, unusable_because
from jobs.errors import JobSpecificationError, JobStoppedError
from tollgate.evaluation.cases import Case, CaseResult, Message, read_json_lines
from tollgate.evaluation.examination import CASES, Examination, write_examination
from tollgate.settings import settings

pytestmark = pytest.mark.docker
MAKE_MODEL = f"""{MAKE_BASE}
import pathlib
pathlib.Path(sys.argv[1], "result.json").write_text('{{"status": "succeeded"}}')
"""
SERVED_NAME = "numbers@v1"
QUESTIONS = [f"{number} 더하기 1은 얼마인가요?" for number in range(6)]


@pytest.fixture(scope="module")
def client() -> docker.APIClient:
    """A client of the engine, which has vLLM's image."""
    image = settings().vllm_image
    try:
        found = docker.APIClient(base_url=settings().docker_url, version="auto", timeout=60)
        found.ping()
    except (docker.errors.DockerException, requests.RequestException) as error:
        pytest.skip(f"no Docker engine: {error}")
    if reason := unusable_because(settings().docker_url, image):
        pytest.skip(f"{reason}; the head of containers/vllm/Dockerfile says how to build it")
    return found


class ExaminationTask(Task):
    """A task with the operator's parameters of ``dags/finetune.py``."""

    def __init__(self, folder: Path, **own: Any) -> None:
        super().__init__(folder, "unused", runtime="docker", script="containers/vllm/examine.py")
        entrypoint = ["python", "/opt/tollgate/containers/vllm/examine.py"]
        self.parameters.update(
            {"image": settings().vllm_image, "entrypoint": entrypoint, "read_only_paths": [], "memory": "10g", **own}
        )
        self.answers = folder / "evaluation"
        self.answers.mkdir()

    def order(self, model: Path, count: int = len(QUESTIONS), **changes: Any) -> None:
        self.parameters.update({"read_only_paths": [str(model)], "writable_paths": [str(self.answers)]})
        fields: dict[str, Any] = {
            "model": model,
            "served_name": SERVED_NAME,
            "cases": self.folder / CASES,
            "answers": self.answers / "answers.jsonl",
            "perplexity": self.answers / "perplexity.jsonl",
            "max_tokens": 8,
            "max_model_len": 128,
            "concurrency": 2,
        }
        questions = (QUESTIONS * (count // len(QUESTIONS) + 1))[:count]
        cases = [
            Case(id=f"q{place}", messages=(Message(role="user", content=text),), expected=f"{place + 1}입니다.")
            for place, text in enumerate(questions)
        ]
        write_examination(self.folder, Examination(**{**fields, **changes}), cases)

    def results(self, name: str) -> list[CaseResult]:
        return [result for _, result in read_json_lines(self.answers / f"{name}.jsonl", CaseResult)]

    def answered(self) -> int:
        """How many answers are there so far."""
        path = self.answers / "answers.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def containers(self, client: docker.APIClient) -> list[dict[str, Any]]:
        return client.containers(all=True, filters={"label": f"tollgate.folder={self.folder}"})


@pytest.fixture(scope="module")
def model(client: docker.APIClient, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Full weights, random ones, made by the image itself as a job."""
    task = ExaminationTask(tmp_path_factory.mktemp("model"), entrypoint=["python", "-c", MAKE_MODEL])
    assert task.run() == {"status": "succeeded"}
    return task.folder


def test_every_case_is_answered_and_nothing_is_left(client: docker.APIClient, model: Path, tmp_path: Path) -> None:
    task = ExaminationTask(tmp_path)
    task.order(model)
    result = task.run()
    assert (result["status"], result["cases"]) == ("succeeded", len(QUESTIONS))
    answers, likelihoods = task.results("answers"), task.results("perplexity")
    ids = {f"q{place}" for place in range(len(QUESTIONS))}
    assert {answer.id for answer in answers} == {answer.id for answer in likelihoods} == ids
    assert all(answer.model == SERVED_NAME and answer.answer and not answer.error for answer in answers)
    assert all(math.isfinite(value) and value < 0 for found in likelihoods for value in found.logprobs)
    assert not task.containers(client)
    again = task.run()
    assert again["cases"] == len(QUESTIONS)
    assert len(task.results("answers")) == len(QUESTIONS), "a cleared task asks for nothing twice"


def test_a_killed_worker_and_a_stop_leave_no_server(client: docker.APIClient, model: Path, tmp_path: Path) -> None:
    task = ExaminationTask(tmp_path)
    task.order(model, count=4000, max_tokens=64, concurrency=1)
    worker = task.start_worker()
    wait_until(lambda: task.answered() >= 2)
    container = task.job_id
    kill(worker)
    assert DockerRuntime(client).status(container).state == "active"

    worker = task.start_worker()
    task.wait_until_followed()
    assert task.job_id == container
    worker.terminate()
    assert task.outcome_of(worker)["error"] == JobStoppedError.__name__
    assert not task.containers(client), "the server ends with the container"
    assert 2 <= task.answered() < 4000


def test_weights_that_are_not_there_are_named_and_not_asked_for_again(
    client: docker.APIClient, model: Path, tmp_path: Path
) -> None:
    task = ExaminationTask(tmp_path)
    task.order(model)
    order = json.loads((task.folder / "spec.json").read_text())
    (task.folder / "spec.json").write_text(json.dumps({**order, "model": str(task.folder)}))
    with pytest.raises(JobSpecificationError, match="weights are not there"):
        task.run()


def test_image_has_no_root_and_says_its_version(client: docker.APIClient) -> None:
    config: dict[str, Any] = client.inspect_image(settings().vllm_image)["Config"]
    assert config["User"] == "tollgate"
    assert config["Labels"]["org.opencontainers.image.version"] == settings().vllm_image.rpartition(":")[2]
    assert config["Healthcheck"]["Test"][0] == "CMD"
