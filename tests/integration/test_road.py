"""The whole road on the real stack: the demo, the three ways to start a run, a killed worker, bad input.

The tests of this file build on one another and run in their order: first the demo, then the rest on what it left.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import func, select

from tollgate.demo.raw_data import Planted
from tollgate.serving.release import retire
from tollgate.stack.secrets import load_or_create
from tollgate.store.session import transaction
from tollgate.store.tables import (
    Experiment,
    FinetuningJob,
    GpuLease,
    ModelEvaluation,
    RegisteredModel,
    RequestLog,
    TrainingDataset,
)
from tollgate.training.merging import ORIGIN

pytestmark = pytest.mark.stack

ROUTE = "highway-router"
SHORT = {
    "model_name": ROUTE,
    "dataset": "highway@latest",
    "lora_rank": 8,
    "lora_alpha": 16,
    "learning_rate": 1e-3,
    "batch_size": 8,
    "max_length": 192,
    "max_answer_tokens": 64,
    "more_hyperparameters": '{"max_steps": 3, "logging_steps": 1}',
}

MERGED = {"method": "qlora", "serve_adapter_as": "merged"}


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what} did not happen within {seconds} s")


def served(stack) -> set[str]:
    models = httpx.get(f"{stack.settings.vllm_addresses[0]}/v1/models", timeout=30).json()["data"]
    return {model["id"] for model in models}


@pytest.fixture(scope="module")
def demo(stack, tmp_path_factory) -> dict[str, Any]:
    """What ``tollgate demo`` did on an empty stack."""
    report = tmp_path_factory.mktemp("demo") / "demo.json"
    done = stack.command("demo", "--output", str(report))
    print(done.stdout)
    summary = dict(json.loads(report.read_text(encoding="utf-8")))
    assert done.returncode == (0 if summary["ok"] else 1), done.stdout[-3000:] + done.stderr[-3000:]
    return summary


def test_the_gates_find_what_was_planted_and_lose_no_row(stack, demo):
    planted = Planted.model_validate_json((stack.settings.home / "demo" / "full.planted.json").read_text("utf-8"))
    data = demo["dataset"]
    assert data["rows_in"] == planted.lines
    assert data["quarantined"] == sum(planted.broken.values())
    assert data["masked"] == planted.personal_data
    assert data["dropped"] == {
        "exact_duplicate": planted.exact_duplicates,
        "near_duplicate": planted.near_duplicates,
        "toxic": planted.toxic,
        "low_quality": sum(planted.low_quality.values()),
    }
    assert data["splits"] == planted.rows
    assert data["rows_in"] == sum(data["splits"].values()) + data["quarantined"] + sum(data["dropped"].values())


def test_the_good_are_released_and_the_bad_one_is_refused(stack, demo):
    first, swapped, full = demo["candidates"]
    assert 0.2 <= demo["base_accuracy"] <= 0.6
    assert first["accuracy"] > 0.90
    assert first["outcome"] == "in production"
    assert (first["verdict"] == "inconclusive") == (first["answered_by"] is not None)
    assert swapped["accuracy"] < 0.85
    assert (swapped["verdict"], swapped["outcome"]) == ("fail", "refused")
    assert full["accuracy"] >= 0.95
    assert full["verdict"] == "pass"
    assert full["outcome"] == "A/B test against production"
    with transaction() as session:
        refused = session.scalars(select(RegisteredModel).where(RegisteredModel.verdict == "fail")).one()
        assert refused.status == "archived"
        assert refused.verdict_reasons == swapped["reasons"]
        assert Path(refused.model_path).is_dir(), "a refused candidate is kept for inspection"
        assert session.scalar(select(func.count()).select_from(ModelEvaluation)) == 3
    assert refused.served_name not in served(stack)


def test_mlflow_shows_every_version_with_its_verdict(stack, demo):
    import mlflow

    client = mlflow.MlflowClient(stack.settings.mlflow_address)
    versions = {
        version.tags["tollgate.version"]: version for version in client.search_model_versions(f"name='{ROUTE}'")
    }
    for candidate in demo["candidates"]:
        version = versions[candidate["model_version"].rpartition("@")[2]]
        assert version.tags["tollgate.verdict"] == candidate["verdict"]
        assert candidate["reasons"][0] in version.tags["tollgate.reasons"]
    production = client.get_model_version_by_alias(ROUTE, "production")
    assert f"{ROUTE}@{production.tags['tollgate.version']}" == demo["production"]["version"]


def test_the_experiment_was_decided_by_users_means_and_nothing_failed(stack, demo):
    experiment = demo["experiment"]
    assert experiment["simulated"] is True
    assert experiment["failed_requests"] == 0
    assert experiment["decision"] in {"promote", "hold"}
    assert experiment["reasons"]
    assert demo["ok"] == (experiment["decision"] == "promote")
    with transaction() as session:
        row = session.scalars(select(Experiment)).one()
        logged = session.scalar(select(func.count()).select_from(RequestLog).where(RequestLog.experiment_id == row.id))
        assert row.status == "completed"
        assert logged == experiment["requests"]
        production = session.scalars(select(RegisteredModel).where(RegisteredModel.status == "production")).one()
    winner = demo["candidates"][2 if experiment["decision"] == "promote" else 0]
    assert production.served_name == winner["model_version"] == demo["production"]["version"]


def test_the_gateway_answers_with_the_production_version(stack, demo):
    answer = ask(stack, ROUTE)
    assert answer.status_code == 200
    assert answer.headers["x-tollgate-version"] == demo["production"]["version"]


def ask(stack, route: str) -> httpx.Response:
    key = load_or_create(stack.settings.secrets_file).gateway_key
    body = {"model": route, "messages": [{"role": "user", "content": "휴게소에 지갑을 두고 왔어요"}], "max_tokens": 32}
    return httpx.post(
        f"{stack.settings.gateway_address}/v1/chat/completions",
        json=body,
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    )


def test_a_rest_call_starts_a_run_and_a_wrong_value_is_refused_at_once(stack, demo):
    """What ``curl -X POST …/api/v2/dags/finetune/dagRuns`` does, with the form's own checks."""
    base = stack.settings.airflow_address
    login = {"username": "admin", "password": load_or_create(stack.settings.secrets_file).airflow_admin_password}
    token = httpx.post(f"{base}/auth/token", json=login, timeout=60).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{base}/api/v2/dags/finetune/dagRuns"
    wrong = httpx.post(
        url, json={"logical_date": None, "conf": {**SHORT, "learning_rate": "abc"}}, headers=headers, timeout=60
    )
    assert wrong.status_code == 400
    assert "abc" in wrong.text
    right = httpx.post(url, json={"logical_date": None, "conf": SHORT}, headers=headers, timeout=60)
    assert right.status_code == 200, right.text
    run_id = right.json()["dag_run_id"]
    assert stack.airflow.wait("finetune", run_id, 400) == "failed", "three steps can't make a router"
    verdict = stack.airflow.result("finetune", run_id, "candidate.verdict")
    assert verdict["outcome"] == "fail"
    assert "refused" in (stack.airflow.run("finetune", run_id)["note"] or "")
    assert served(stack) == {"base", *(name for name in served(stack) if name in _in_use())}


def test_qlora_reaches_the_gate(stack, demo):
    run_id = stack.airflow.trigger("finetune", {**SHORT, "method": "qlora"})
    assert stack.airflow.wait("finetune", run_id, 600) == "failed", "three steps can't make a router"
    assert stack.airflow.result("finetune", run_id, "validate")["method"] == "qlora"
    assert stack.airflow.result("finetune", run_id, "candidate.verdict")["outcome"] == "fail"
    assert stack.airflow.result("finetune", run_id, "candidate.examine") is None


@pytest.mark.parametrize(
    ("route", "method", "lineage"),
    [("whole-router", {"method": "full"}, ["full"]), ("merged-router", MERGED, ["qlora", "rank 8", "merged"])],
    ids=["all weights trained", "an adapter merged"],
)
def test_full_weights_get_a_server_of_their_own(stack, demo, route, method, lineage):
    """Three tiny steps leave the base as good as it was, which is enough for so low a bar."""
    gentle = {**SHORT, **method, "model_name": route, "learning_rate": 1e-6}
    low = {"threshold": 0.1, "verdict": {"category_floor": None}}  # the base knows nothing of some categories
    before = served(stack)
    run_id = stack.airflow.trigger("finetune", gentle | low)
    assert stack.airflow.wait("finetune", run_id, 900) == "success"
    verdict = stack.airflow.result("finetune", run_id, "candidate.verdict")
    examined = stack.airflow.result("finetune", run_id, "candidate.examine")
    assert (verdict["outcome"], examined["cases"]) == ("pass", verdict["cases"])
    assert verdict["accuracy"] == pytest.approx(demo["base_accuracy"], abs=0.1)
    with transaction() as session:
        model = session.scalars(select(RegisteredModel).where(RegisteredModel.model_name == route)).one()
        assert (model.status, model.verdict, model.model_format) == ("production", "pass", "transformers")
        assert (model.tags, model.manifest_digest is not None) == (lineage, True)
    folder = Path(model.model_path)
    assert (folder.name, (folder / ORIGIN).is_file()) == ("model", method == MERGED)
    merged = stack.airflow.result("finetune", run_id, "merge")
    assert merged is None if method != MERGED else merged["weights_path"] == str(folder)
    answer = ask(stack, route)
    assert (answer.status_code, answer.headers["x-tollgate-version"]) == (200, f"{route}@v1")
    assert served(stack) == before, "the shared server has nothing to do with it"
    assert _servers_of(f"{route}@v1")
    with transaction() as session:
        retire(session, route, "test", "the test is over")
    wait_for(lambda: not _servers_of(f"{route}@v1"), 300, "the end of its server, by the reconciler")


def _servers_of(name: str) -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["cmdline"]) if name in (one.info["cmdline"] or [])]


def _in_use() -> set[str]:
    from tollgate.serving.rollout import adapters_in_use

    with transaction() as session:
        former = session.scalars(select(RegisteredModel).where(RegisteredModel.verdict != "fail"))
        return set(adapters_in_use(session)) | {model.served_name for model in former}


def test_a_new_dataset_version_starts_retrain_when_that_is_on(stack, demo, tmp_path, retrain_on):
    airflow = stack.airflow
    rows = (stack.settings.home / "demo" / "first.jsonl").read_text(encoding="utf-8").splitlines()
    source = tmp_path / "more.jsonl"
    source.write_text("\n".join(rows[:1500]), encoding="utf-8")
    run_id = airflow.trigger("prepare_dataset", {"name": "highway", "source": str(source)})
    assert airflow.wait("prepare_dataset", run_id, 300) == "success"
    newest = airflow.result("prepare_dataset", run_id, "write_version")["reference"]
    assert newest.startswith("highway@v")

    def started() -> list[dict[str, Any]]:
        return [run for run in _started_by_retrain(airflow) if run["conf"]["dataset"] == newest]

    assert len(wait_for(started, 120, f"a run of finetune on {newest}")) == 1


@pytest.fixture
def retrain_on(stack, demo) -> Iterator[None]:
    """``retrain`` is turned on; afterwards off again, and what it started, which nobody waits for, is ended."""
    airflow = stack.airflow
    airflow.unpause("retrain")
    yield
    airflow._request("PATCH", "/api/v2/dags/retrain", json={"is_paused": True})
    for dag_id, runs in (("retrain", _runs(airflow, "retrain")), ("finetune", _started_by_retrain(airflow))):
        for run in runs:
            if run["state"] in {"queued", "running"}:
                path = f"/api/v2/dags/{dag_id}/dagRuns/{run['dag_run_id']}"
                airflow._request("PATCH", path, json={"state": "failed"})


def _started_by_retrain(airflow) -> list[dict[str, Any]]:
    return [run for run in _runs(airflow, "finetune") if run["dag_run_id"].startswith("retrain__")]


def _runs(airflow, dag_id: str) -> list[dict[str, Any]]:
    return list(airflow._request("GET", f"/api/v2/dags/{dag_id}/dagRuns")["dag_runs"])


def test_a_killed_worker_loses_nothing_and_starts_no_second_job(stack, demo):
    airflow = stack.airflow
    long = {**SHORT, "dataset": "highway@v1", "more_hyperparameters": '{"max_steps": 90, "logging_steps": 1}'}
    run_id = airflow.trigger("finetune", long)
    job = wait_for(lambda: airflow.result("finetune", run_id, "validate"), 120, "the validation")
    progress = Path(job["folder"]) / "progress.jsonl"
    wait_for(progress.exists, 200, "the first step")
    trainers = _trainers(job["folder"])
    assert len(trainers) == 1
    for worker in _workers_of(airflow, run_id):
        worker.send_signal(signal.SIGKILL)
    trainer = trainers[0]
    assert trainer.is_running(), "the job outlives its worker"

    wait_for(lambda: _try_number(airflow, run_id) > 1, 200, "the retry")
    state = airflow.wait("finetune", run_id, 600)
    assert state in {"failed", "success"}, "the gate decides, not the kill"
    train = next(task for task in airflow.tasks("finetune", run_id) if task["task_id"] == "train")
    assert (train["state"], train["try_number"]) == ("success", 2)
    steps = [json.loads(line)["step"] for line in progress.read_text(encoding="utf-8").splitlines() if "loss" in line]
    first_pass = [step for step in steps if step < 90]
    assert len(first_pass) == len(set(first_pass)), "no step was trained twice"
    assert json.loads((Path(job["folder"]) / "result.json").read_text())["steps"] == 90
    assert _trainers(job["folder"]) == []


def _trainers(folder: str) -> list[psutil.Process]:
    """Processes that train this job, on the host or in a container (which are seen from the host)."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if folder in words and any(word.endswith("train.py") for word in words) and "launcher" not in " ".join(words):
            found.append(process)
    children = {process.pid for process in found}
    return [process for process in found if process.ppid() not in children]


def _workers_of(airflow, run_id: str) -> list[psutil.Process]:
    """The processes in which Airflow runs the training task: what a dying worker machine would take along."""
    instance = next(task["id"] for task in airflow.tasks("finetune", run_id) if task["task_id"] == "train")
    for process in psutil.process_iter(["cmdline"]):
        title = " ".join(process.info["cmdline"] or []).removeprefix("airflow worker -- ").strip()
        if len(title) > 20 and instance.startswith(title):  # the title is cut where the command line's memory ends
            return [*filter(None, [process.parent()]), process]
    raise AssertionError("no worker runs the training task")


def _try_number(airflow, run_id: str) -> int:
    return next(int(task["try_number"]) for task in airflow.tasks("finetune", run_id) if task["task_id"] == "train")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "source"),
        (b"", "rows"),
        (b"\xff\xfe\x00\x01" * 50, "broken.jsonl"),
        (b'{"messages": [{"role": "wizard", "content": "x"}]}\n' * 20, "role"),
        (b'{"messages": [{"role": "user", "content": "x"}]}\n' * 20, "messages"),
    ],
    ids=["missing", "empty", "not text", "unknown role", "no answer"],
)
def test_a_bad_source_is_refused_in_plain_words_and_leaves_nothing(stack, demo, tmp_path, content, expected):
    source = tmp_path / "broken.jsonl"
    if content is not None:
        source.write_bytes(content)
    with transaction() as session:
        versions = session.scalar(select(func.count()).select_from(TrainingDataset))
    run_id = stack.airflow.trigger("prepare_dataset", {"name": "broken", "source": str(source)})
    assert stack.airflow.wait("prepare_dataset", run_id, 120) == "failed"
    note = stack.airflow.run("prepare_dataset", run_id)["note"]
    assert "ingest" in note
    assert expected in note or str(source) in note
    ingest = next(task for task in stack.airflow.tasks("prepare_dataset", run_id) if task["task_id"] == "ingest")
    assert ingest["try_number"] == 1, "the same file would be refused again"
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(TrainingDataset)) == versions
    assert not (stack.settings.datasets / "broken").exists() or not any((stack.settings.datasets / "broken").glob("v*"))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"base_model": "/nowhere"}, "/nowhere"),
        ({"dataset": "nothing@v7"}, "nothing"),
        ({"more_hyperparameters": '{"seed": 1, "weight_decay": 0, "weight_decay": 1}'}, "twice"),
        ({"lora_rank": 256}, "lora_rank"),
        ({"more_hyperparameters": '{"learnign_rate": 1}'}, "learnign_rate"),
    ],
    ids=["no base model", "no dataset", "a field twice", "rank too large", "unknown field"],
)
def test_a_bad_job_is_refused_before_anything_starts(stack, demo, changed, expected):
    with transaction() as session:
        jobs = session.scalar(select(func.count()).select_from(FinetuningJob))
    run_id = stack.airflow.trigger("finetune", {**SHORT, **changed})
    assert stack.airflow.wait("finetune", run_id, 120) == "failed"
    note = stack.airflow.run("finetune", run_id)["note"]
    assert "validate" in note
    assert expected in note
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(FinetuningJob)) == jobs
        assert session.scalar(select(func.count()).select_from(GpuLease)) == 0


@pytest.mark.real_data
def test_real_law_questions_go_the_same_way_and_deploy_nothing(stack, demo, tmp_path):
    from tollgate.settings import PROJECT

    source = PROJECT.parent / "shared" / "data" / "easylaw" / "easylaw.json"
    if not source.is_file():
        pytest.skip("the data folder beside the project is not there")
    report = tmp_path / "law.json"
    done = stack.command("demo", "--dataset", str(source), "--steps", "5", "--output", str(report))
    summary = json.loads(report.read_text(encoding="utf-8"))
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert summary["dataset"]["rows_in"] == 2195
    assert summary["candidates"][0]["verdict"] == "fail"
    assert summary["production"] is None
    assert "easylaw@v1" not in served(stack)


def test_down_leaves_no_process_behind(stack, demo):
    done = stack.command("down", timeout=180)
    assert done.returncode == 0, done.stderr
    home = str(stack.settings.home)
    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TOLLGATE_HOME") == home and process.pid != os.getpid():
                left.append(process)
        except psutil.Error:
            continue
    assert [process.cmdline() for process in left] == []
