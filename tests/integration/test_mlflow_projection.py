"""The registry's projection on a real MLflow server and a real PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.integration.mlflow_tracking import TrackingServer

from tollgate.errors import ServiceUnavailableError
from tollgate.registry import lifecycle, mlflow_projection, mlflow_repair, mlflow_run, mlflow_server
from tollgate.registry.registration import Registration, register_job
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.store.tables import FinetuningJob, ModelEvaluation, TrainingDataset
from tollgate.workflow.reconcile import reconcile_registry

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    """A tracking server of its own process group: address and process."""
    server = TrackingServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server.address, server.process
    server.kill()


@pytest.fixture
def client(server, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A client of the server, which is also the one of the settings; keys are made in a home of the test's own."""
    monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TOLLGATE_MLFLOW_URL", server[0])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[0])  # for download_artifacts, which takes no client
    settings.cache_clear()
    return mlflow_server.connect()


def _job(folder: Path, name: str) -> str:
    """A finished job as the training container leaves it, and its rows."""
    adapter = folder / name / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(bytes(1000))
    steps = [(10, 2.0), (20, 1.5), (20, 1.25), (30, 1.0)]
    lines = [json.dumps({"step": step, "max_steps": 30, "seconds": step / 10, "loss": loss}) for step, loss in steps]
    (folder / name / "progress.jsonl").write_text("\n".join([*lines, '{"step": 40, "lo']))
    (folder / name / "result.json").write_text(json.dumps({"status": "succeeded", "metrics": {"train_loss": 1.4}}))
    (folder / name / "evaluation.json").write_text("{}")
    with transaction() as session:
        dataset = TrainingDataset(
            name=name,
            version="v3",
            file_path="/datasets/highway/v3",
            content_hash="ab" * 32,
            total_samples=10,
            train_samples=8,
            val_samples=1,
            test_samples=1,
        )
        session.add(dataset)
        session.flush()
        job = FinetuningJob(
            job_name=name,
            base_model="/models/demo-base",
            method="lora",
            dataset_id=dataset.id,
            hyperparameters={"learning_rate": 2e-4},
            output_dir=str(folder / name),
        )
        session.add(job)
        session.flush()
        session.add(ModelEvaluation(job_id=job.id, eval_dataset_id=dataset.id, metrics={"accuracy": 0.97, "n": "400"}))
    return name


def _register(folder: Path, job: str, model: str, client) -> Registration:
    report = folder / job / "evaluation.json"
    return register_job(job, model, "kim", "pass", ["정확도 0.97 > 0.90"], evaluation=report, connect=lambda: client)


def _stage(version: Registration) -> None:
    with transaction() as session:
        lifecycle.move(session, version.model_id, "candidate", "staging", "kim", "passed")


def _promote(version: Registration) -> None:
    with transaction() as session:
        lifecycle.promote_to_production(session, version.model_id, "kim", "better")


def test_a_job_is_one_run_and_one_version_however_often_it_is_registered(client, tmp_path: Path) -> None:
    job = _job(tmp_path, "job-1")
    first = _register(tmp_path, job, "router", client)
    assert _register(tmp_path, job, "router", client) == first

    [run] = client.search_runs([client.get_experiment_by_name("router").experiment_id])
    assert run.info.run_id == first.mlflow_run_id
    assert run.info.status == "FINISHED"
    assert run.data.params == {"base_model": "demo-base", "method": "lora", "learning_rate": "0.0002"}
    assert run.data.tags["tollgate.dataset"] == "job-1@v3"
    assert run.data.tags["tollgate.verdict"] == "pass"
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["job-1@v3"]
    series = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in series] == [(10, 2.0), (20, 1.25), (30, 1.0)]
    assert run.data.metrics["result/train_loss"] == 1.4
    assert run.data.metrics["evaluation/accuracy"] == 0.97
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert artifacts == {"adapter", "evaluation", "losses.svg"}

    [version] = client.search_model_versions("name = 'router'")
    assert first.mlflow_uri == f"models:/router/{version.version}"
    assert version.tags["tollgate.version"] == "v1"
    assert "정확도 0.97 > 0.90" in version.description


def test_the_alias_gives_the_adapter_and_hand_made_changes_are_repaired(client, tmp_path: Path) -> None:
    from mlflow.artifacts import download_artifacts

    first, second = (_register(tmp_path, _job(tmp_path, name), "mended", client) for name in ("job-1", "job-2"))
    _stage(first)
    _stage(second)
    _promote(first)
    assert "mended: alias production = 1" in mlflow_projection.project_model("mended", client)
    assert mlflow_projection.project_model("mended", client) == []
    got = download_artifacts("models:/mended@production")
    assert sorted(file.name for file in Path(got).iterdir()) == [
        *("README.md", "adapter_config.json", "adapter_model.safetensors", "model.sig")
    ]

    client.set_registered_model_alias("mended", "production", "2")
    client.delete_registered_model_alias("mended", "staging")
    client.set_model_version_tag("mended", "2", "tollgate.stage", "production")
    client.update_model_version("mended", "1", "edited")
    assert len(mlflow_projection.project_model("mended", client)) == 4
    assert dict(client.get_registered_model("mended").aliases) == {"production": "1", "staging": "2"}
    with transaction() as session:
        lifecycle.archive(session, first.model_id, "kim", "over")
    mlflow_projection.project_model("mended", client)
    assert dict(client.get_registered_model("mended").aliases) == {"staging": "2"}


def test_what_mlflow_lost_is_brought_back_by_the_reconciler(client, tmp_path: Path) -> None:
    first, second = (_register(tmp_path, _job(tmp_path, name), "lost", client) for name in ("job-1", "job-2"))
    _stage(first)
    _promote(first)
    mlflow_projection.project_model("lost", client)
    assert mlflow_repair.repair(client) == []

    client.delete_model_version("lost", "1")
    assert mlflow_repair.repair(client)[0] == "lost@v1: registered again as models:/lost/3"
    client.delete_registered_model("lost")
    reconcile_registry("kim", lambda: client)
    tags = {version.tags["tollgate.version"] for version in client.search_model_versions("name = 'lost'")}
    assert tags == {"v1", "v2"}
    assert client.get_model_version_by_alias("lost", "production").tags["tollgate.version"] == "v1"
    assert mlflow_repair.repair(client) == []

    client.delete_run(second.mlflow_run_id)
    client.delete_registered_model("lost")
    changes = mlflow_repair.repair(client)
    assert changes[0].startswith(("lost@v1: registered again", "lost@v2: "))
    assert client.get_model_version_by_alias("lost", "production").tags["tollgate.version"] == "v1"


@pytest.mark.parametrize("step", ["log_job", "register", "project_model"])
def test_a_crash_after_any_step_is_made_good_by_a_retry(step: str, client, tmp_path: Path, monkeypatch) -> None:
    module = mlflow_run if step == "log_job" else mlflow_projection
    real = getattr(module, step)

    def die_afterwards(*arguments) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    job, model = _job(tmp_path, f"job-{step}"), f"crashed-{step}"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, step, die_afterwards)
        _register(tmp_path, job, model, client)
    version = _register(tmp_path, job, model, client)
    assert version.mlflow_uri == f"models:/{model}/1"
    assert len(client.search_model_versions(f"name = '{model}'")) == 1
    assert len(client.search_runs([client.get_experiment_by_name(model).experiment_id])) == 1


def test_after_racing_promotions_mlflow_says_what_postgresql_says(client, tmp_path: Path) -> None:
    versions = [_register(tmp_path, _job(tmp_path, f"job-{number}"), "raced", client) for number in range(3)]
    for version in versions:
        _stage(version)

    def promote_and_project(version: Registration) -> None:
        _promote(version)
        mlflow_projection.project_model("raced", client)

    for _ in range(2):
        with ThreadPoolExecutor(len(versions)) as pool:
            list(pool.map(promote_and_project, versions))
        with transaction() as session:
            champion = lifecycle.champion(session, "raced")
        assert champion is not None
        assert (
            client.get_model_version_by_alias("raced", "production").tags["tollgate.version"] == f"v{champion.version}"
        )
        stages = [version.tags["tollgate.stage"] for version in client.search_model_versions("name = 'raced'")]
        assert sorted(stages) == ["archived"] * 2 + ["production"]


def test_the_operators_register_promote_and_archive(server, client, tmp_path: Path, monkeypatch) -> None:
    from mlflow_registry.operators import ArchiveModelOperator, PromoteModelOperator, RegisterModelOperator

    host, port = server[0].removeprefix("http://").split(":")
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", f"http://{host}:{port}")
    monkeypatch.delenv("TOLLGATE_MLFLOW_URL")
    job = _job(tmp_path, "job-1")
    arguments = {"task_id": "register", "job_name": job, "model_name": "operated", "created_by": "kim"}
    register = RegisterModelOperator(**arguments, verdict="pass", reasons=["good"])
    version = register.execute({})
    assert json.loads(json.dumps(version))["mlflow_uri"] == "models:/operated/1"
    with transaction() as session:
        lifecycle.move(session, version["model_id"], "candidate", "staging", "kim", "passed")
    promote = PromoteModelOperator(task_id="promote", model_id=str(version["model_id"]), why="better", by="kim")
    assert [promote.execute({})["stage"] for _ in range(2)] == ["production"] * 2
    assert client.get_model_version_by_alias("operated", "production").tags["tollgate.stage"] == "production"
    archive = ArchiveModelOperator(task_id="archive", model_id=version["model_id"], why="over", by="kim")
    assert [archive.execute({})["stage"] for _ in range(2)] == ["archived"] * 2
    assert client.get_registered_model("operated").aliases == {}
    with transaction() as session:
        assert len(lifecycle.history(session, "operated")) == 4


def test_a_server_that_dies_is_told_in_plain_words_and_the_verdict_is_kept(
    server, client, tmp_path: Path, monkeypatch
) -> None:
    """Last, since it ends the module's server."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    job = _job(tmp_path, "job-1")
    os.killpg(server[1].pid, signal.SIGKILL)
    server[1].wait()
    with pytest.raises(ServiceUnavailableError, match="MLflow did not answer"):
        _register(tmp_path, job, "orphan", client)
    with pytest.raises(ServiceUnavailableError, match="did not answer"):
        register_job(job, "orphan", "kim")
    with transaction() as session:
        [model] = lifecycle.versions(session, "orphan")
    assert (model.status, model.verdict, model.mlflow_model_uri) == ("candidate", "pass", None)
