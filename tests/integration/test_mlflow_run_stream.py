"""A job's figures in MLflow while it trains: on a real server, one that dies, and one that hangs."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from sqlalchemy import select
from tests.integration.mlflow_tracking import TrackingServer
from tests.unit.dataset.example_version import write_version
from tests.unit.training.example_base import write_base_model

from tollgate.registry import mlflow_run_stream, mlflow_server
from tollgate.registry.mlflow_run import SENT
from tollgate.registry.mlflow_run_stream import RunStream
from tollgate.registry.registration import register_job
from tollgate.settings import Settings, settings
from tollgate.store.session import transaction
from tollgate.store.tables import FinetuningJob
from tollgate.training.jobs import TrainingRequest, create_job

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    server = TrackingServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def client(server: TrackingServer, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("TOLLGATE_SIGNATURES", "off")  # of no matter here
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return mlflow_server.connect(server.address)


@pytest.fixture
def make_job(postgres_url: str, tmp_path: Path) -> Callable[[str], Path]:
    """A job as ``validate`` makes it: row, folder, specification, on a real dataset version."""

    def make(model: str) -> Path:
        if not (tmp_path / "datasets").exists():
            write_version(tmp_path / "datasets")
        home = Settings(home=tmp_path, base_model=write_base_model(tmp_path / "base"), max_lora_rank=32)
        asked = TrainingRequest(model_name=model, dataset="highway@latest", hyperparameters={"lora_rank": 8})
        with transaction() as session:
            return create_job(session, asked, "run", "kim", home).folder

    return make


def write(folder: Path, *lines: dict[str, Any]) -> None:
    at = datetime.now(UTC).isoformat()  # MLflow gives a history back in the order of its times
    with (folder / "progress.jsonl").open("a") as file:
        file.writelines(json.dumps({"max_steps": 30, "time": at, **line}) + "\n" for line in lines)


def finish(folder: Path) -> None:
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(bytes(1000))
    (folder / "result.json").write_text(json.dumps({"status": "succeeded", "metrics": {"train_loss": 1.4}}))


def stream_of(folder: Path, model: str, server: TrackingServer) -> RunStream:
    return RunStream(folder, model, lambda: mlflow_server.connect(server.address))


def runs(client: MlflowClient, model: str) -> list[Any]:
    experiment = client.get_experiment_by_name(model)
    return client.search_runs([experiment.experiment_id], order_by=["start_time DESC"]) if experiment else []


def points(client: MlflowClient, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, name)]


def wait_until(condition: Callable[[], Any], seconds: float = 120.0) -> float:
    """Seconds until the condition held."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "it did not happen"
        time.sleep(0.05)
    return time.monotonic() - begun


def test_the_run_begins_with_the_training_and_the_registration_goes_on_with_it(server, client, make_job) -> None:
    folder = make_job("streamed")
    stream = stream_of(folder, "streamed", server)
    stream.start()
    wait_until(lambda: runs(client, "streamed") and (folder / SENT).exists())
    wait_until(lambda: "lora_rank" in runs(client, "streamed")[0].data.params)
    write(folder, {"step": 0}, {"step": 10, "loss": 2.0, "learning_rate": 1e-4, "tokens_per_second": 800.0})
    stream.wake()
    run_id = runs(client, "streamed")[0].info.run_id
    print(f"in MLflow after {wait_until(lambda: points(client, run_id, 'loss')):.2f} s")
    write(folder, {"step": 20, "loss": 1.5, "memory_bytes": 5}, {"step": 20, "eval_loss": 1.7, "eval_perplexity": 5.5})
    assert stream.close()

    (run,) = runs(client, "streamed")
    assert run.info.status == "RUNNING", "the evaluation follows"
    assert (run.data.params["lora_rank"], run.data.params["base_model"], run.data.params["method"]) == (
        "8",
        "base",
        "lora",
    )
    assert run.data.tags["tollgate.dataset"] == "highway@v1"
    assert run.data.tags["tollgate.code_version"] == "0.1.0"
    manifest = json.loads((folder.parents[1] / "datasets" / "highway" / "v1" / "manifest.json").read_text())
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("highway@v1", manifest["content_hash"][:36])
    assert {tag.key: tag.value for tag in used.tags}["tollgate.content_hash"] == manifest["content_hash"]

    finish(folder)
    for _ in range(2):
        done = register_job(folder.name, "streamed", "kim", "pass", ["good"], connect=lambda: client)
        assert done.mlflow_run_id == run_id
    (run,) = runs(client, "streamed")
    assert run.info.status == "FINISHED"
    assert points(client, run_id, "loss") == [(10, 2.0), (20, 1.5)]
    assert points(client, run_id, "eval_loss") == [(20, 1.7)]
    assert {name: run.data.metrics[name] for name in ("tokens_per_second", "memory_bytes")} == {
        "tokens_per_second": 800.0,
        "memory_bytes": 5.0,
    }
    assert len(run.inputs.dataset_inputs) == 1
    assert {file.path for file in client.list_artifacts(run_id)} == {"adapter", "losses.svg"}
    assert "adapter/README.md" in {file.path for file in client.list_artifacts(run_id, "adapter")}
    with transaction() as session:
        assert session.scalar(select(FinetuningJob.mlflow_run_id)) == run_id


def test_what_a_job_did_again_after_a_crash_is_there_once(server, client, make_job) -> None:
    folder = make_job("crashed")
    write(folder, {"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.5}, {"step": 30, "loss": 1.0})
    first = stream_of(folder, "crashed", server)
    first.start()
    assert first.close("FAILED", patience=60)
    (run,) = runs(client, "crashed")
    assert run.info.status == "FAILED"

    write(folder, {"step": 20}, {"step": 30, "loss": 1.0}, {"step": 40, "loss": 0.5})
    second = stream_of(folder, "crashed", server)
    second.start()
    assert second.close(patience=60)
    (run,) = runs(client, "crashed")
    assert run.info.status == "RUNNING"
    assert points(client, run.info.run_id, "loss") == [(10, 2.0), (20, 1.5), (30, 1.0), (40, 0.5)]


def test_a_job_that_is_trained_anew_gets_a_run_of_its_own(server, client, make_job) -> None:
    folder = make_job("again")
    write(folder, {"step": 10, "loss": 2.0})
    finish(folder)
    first = register_job(folder.name, "again", "kim", connect=lambda: client)
    for name in ("progress.jsonl", SENT, "losses.svg", "result.json"):  # as prepare_for_submission sets them aside
        (folder / name).unlink()
    shutil.rmtree(folder / "adapter")
    write(folder, {"step": 10, "loss": 1.0})
    stream = stream_of(folder, "again", server)
    stream.start()
    assert stream.close(patience=60)
    finish(folder)
    second = register_job(folder.name, "again", "kim", connect=lambda: client)
    assert second.mlflow_run_id != first.mlflow_run_id
    histories = [points(client, str(one.mlflow_run_id), "loss") for one in (first, second)]
    assert histories == [[(10, 2.0)], [(10, 1.0)]]


def test_while_mlflow_is_dead_the_job_goes_on_and_all_is_sent_when_it_is_back(
    server, client, make_job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_run_stream, "LONGEST_PAUSE", 1.0)
    folder = make_job("orphan")
    stream = stream_of(folder, "orphan", server)
    stream.start()
    write(folder, {"step": 1, "loss": 9.0})
    stream.wake()
    wait_until(lambda: runs(client, "orphan") and points(client, runs(client, "orphan")[0].info.run_id, "loss"))
    server.kill()
    begun = time.monotonic()
    for step in range(2, 200):
        write(folder, {"step": step, "loss": 9.0 / step})
        stream.wake()
    told = time.monotonic() - begun
    print(f"198 lines told in {told:.3f} s while MLflow was dead")
    never = stream_of(folder, "orphan", server)  # the job ends while it is dead
    never.start()
    assert not never.close(patience=30)

    server.start()
    wait_until(lambda: len(points(client, runs(client, "orphan")[0].info.run_id, "loss")) == 199)
    assert stream.close()
    (run,) = runs(client, "orphan")
    assert points(client, run.info.run_id, "loss") == [(step, pytest.approx(9.0 / step)) for step in range(1, 200)]


def test_a_server_that_never_answers_holds_nothing_up(make_job, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_job("hung")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # takes connections, and says nothing
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        stream = RunStream(folder, "hung", lambda: mlflow_server.connect(address))
        before = threading.active_count()
        stream.start()
        write(folder, {"step": 1, "loss": 9.0})
        stream.wake()
        begun = time.monotonic()
        assert not stream.close(patience=0.5)
        waited = time.monotonic() - begun
        print(f"the end waited {waited:.2f} s")
        assert threading.active_count() <= before + 1
    assert settings().mlflow_address
