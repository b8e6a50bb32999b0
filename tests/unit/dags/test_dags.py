"""All DAG files load, keep heavy imports out of parsing, and have the shape that the README draws."""

from __future__ import annotations

import copy
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from airflow.sdk.exceptions import ParamValidationError

from tollgate.settings import PROJECT

HEAVY = ("mlflow", "great_expectations", "datasets", "torch", "transformers", "polars")


@pytest.fixture(scope="module")
def dags():
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(PROJECT / "dags", bundle_path=PROJECT / "dags", bundle_name="dags")
    assert bag.import_errors == {}
    return bag.dags


def downstream(dag, task_id: str) -> set[str]:
    return dag.get_task(task_id).downstream_task_ids


def test_the_five_dags_are_there_and_serialize(dags):
    from airflow.serialization.serialized_objects import DagSerialization

    assert set(dags) == {"prepare_dataset", "finetune", "retrain", "analyze_experiments", "roll_out"}
    for dag in dags.values():
        assert DagSerialization.to_dict(dag)["dag"]["dag_id"] == dag.dag_id


@pytest.mark.parametrize("name", ["prepare_dataset", "finetune", "retrain", "analyze_experiments", "roll_out"])
def test_parsing_a_dag_file_loads_nothing_heavy(name, tmp_path):
    script = f"import sys, {name}; print(','.join(m for m in {HEAVY!r} if m in sys.modules))"
    folders = ":".join(str(PROJECT / folder) for folder in ("include", "plugins", "dags"))
    environment = {"PYTHONPATH": folders, "AIRFLOW_HOME": str(tmp_path), "PATH": str(Path(sys.executable).parent)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_prepare_dataset_chains_the_gates_and_always_discards_the_work(dags):
    dag = dags["prepare_dataset"]
    gates = ["ingest", "mask_personal_data", "drop_duplicates", "score_quality"]
    gates += ["check_contamination", "split", "check_contract"]
    for gate, after in zip(gates, [*gates[1:], "write_version"], strict=True):
        assert after in downstream(dag, gate)
    assert dag.get_task("discard_work").is_teardown
    assert [asset.uri for asset in dag.get_task("write_version").outlets] == ["tollgate://datasets/"]


def test_finetune_reads_like_the_road(dags):
    dag = dags["finetune"]
    assert "train" in downstream(dag, "validate")
    assert downstream(dag, "train") == {"choose_form"}
    assert {"merge", "candidate.serve"} == downstream(dag, "choose_form")
    assert downstream(dag, "merge") == {"candidate.serve"}
    assert "candidate.choose_server" in downstream(dag, "candidate.serve")
    assert "candidate.verdict" in downstream(dag, "candidate.evaluate")
    assert "register" in downstream(dag, "candidate.verdict")
    assert {"release.start_server", "approval", "refuse"} == downstream(dag, "decide")
    assert {"release.start_server", "refuse"} == downstream(dag, "approval")
    assert downstream(dag, "release.start_server") == {"release.choose"}
    assert {"release.promote", "release.open_experiment", "release.begin_rollout"} <= downstream(dag, "release.choose")
    assert "release.follow_rollout" in downstream(dag, "release.begin_rollout")


def test_a_rollout_is_followed_without_holding_a_worker(dags):
    dag = dags["roll_out"]
    assert downstream(dag, "choose") == {"begin", "roll_back"}
    assert (downstream(dag, "begin"), downstream(dag, "follow")) == ({"follow"}, {"tell"})
    assert dag.get_task("follow").mode == "reschedule"


def test_everything_is_reconciled_before_the_looks(dags):
    dag = dags["analyze_experiments"]
    assert downstream(dag, "reconcile_replicas") == {"running"}
    assert dag.has_task("reconcile_registry")


def test_the_candidate_is_loaded_by_a_setup_and_unloaded_by_its_teardown(dags):
    dag = dags["finetune"]
    assert dag.get_task("candidate.serve").is_setup
    unload = dag.get_task("unload_unless_in_use")
    assert unload.is_teardown
    released = {"release.promote", "release.open_experiment", "release.begin_rollout"}
    ends = {*released, "refuse"}
    assert unload.upstream_task_ids == ends | {"candidate.serve"}


def test_full_weights_are_examined_alone(dags):
    dag = dags["finetune"]
    assert downstream(dag, "candidate.choose_server") == {"candidate.examine", "candidate.evaluate"}
    assert downstream(dag, "candidate.examine") == {"candidate.evaluate"}
    examine = dag.get_task("candidate.examine")
    assert (type(examine).__name__, examine.pool) == ("ContainerJobOperator", "gpu")
    assert (PROJECT / examine.script).is_file()


def test_an_adapter_is_merged_without_a_gpu_where_the_training_has_left_it(dags):
    from airflow.sdk import TriggerRule

    dag = dags["finetune"]
    merge = copy.copy(dag.get_task("merge"))
    assert (type(merge).__name__, merge.pool, merge.gpus) == ("ContainerJobOperator", "default_pool", 0)
    assert (PROJECT / merge.script).is_file()
    assert dag.get_task("candidate.serve").trigger_rule == TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS
    job = {"folder": "/jobs/router-1", "base_model": "/base", "dataset_folder": "/data"}

    class Instance:
        def xcom_pull(self, task_ids):
            return {"validate": job}[task_ids]

    merge.render_template_fields({"ti": Instance(), "params": {"backend": "axolotl"}})
    assert merge.command == ["/jobs/router-1", "/jobs/router-1/model", "--report", "/jobs/router-1/merging"]
    assert (merge.job_folder, merge.backend) == ("/jobs/router-1/merging", "axolotl")
    assert (merge.read_only_paths, merge.writable_paths) == (["/base", "/data"], ["/jobs/router-1"])


@pytest.mark.parametrize(
    ("method", "served_as", "outcome", "form", "server", "way"),
    [
        ("lora", "adapter", "pass", "candidate.serve", "candidate.evaluate", "release.start_server"),
        ("qlora", "adapter", "inconclusive", "candidate.serve", "candidate.evaluate", "approval"),
        ("lora", "merged", "inconclusive", "merge", "candidate.examine", "approval"),
        ("qlora", "merged", "pass", "merge", "candidate.examine", "release.start_server"),
        ("full", "adapter", "pass", "candidate.serve", "candidate.examine", "release.start_server"),
        ("full", "adapter", "inconclusive", "candidate.serve", "candidate.examine", "approval"),
        ("full", "adapter", "fail", "candidate.serve", "candidate.examine", "refuse"),
    ],
)
def test_the_ways_through_the_dag_follow_method_and_verdict(
    dags, monkeypatch, tmp_path, method, served_as, outcome, form, server, way
):
    job = {"id": 1, "dataset_id": 1, "name": "job", "model_name": "router", "dataset": "highway@v1", "method": method}
    paths = {"folder": str(tmp_path), "base_model": "/base", "dataset_folder": "/data"}
    results = {
        "validate": {**job, **paths, "serve_adapter_as": served_as},
        "candidate.verdict": {"outcome": outcome},
    }
    for task_id, chosen in (("choose_form", form), ("candidate.choose_server", server), ("decide", way)):
        fork = dags["finetune"].get_task(task_id).python_callable
        monkeypatch.setitem(fork.__globals__, "result_of", results.get)
        assert fork() == chosen
    assert (tmp_path / "merging").is_dir() == (form == "merge")


def test_training_takes_a_place_in_the_gpu_pool(dags):
    train = dags["finetune"].get_task("train")
    assert train.pool == "gpu"
    assert type(train).__name__ == "ContainerJobOperator"


@pytest.mark.parametrize(("ids", "rendered"), [(None, "[]"), ([], "[]"), ([0, 3], "[0, 3]")])
def test_certain_gpus_reach_the_operator(dags, ids, rendered):
    train = copy.copy(dags["finetune"].get_task("train"))
    train.template_fields = ("gpu_ids",)
    train.render_template_fields({"params": {"gpu_ids": ids}})
    assert train.gpu_ids == rendered


@pytest.mark.parametrize(
    ("ids", "is_taken"), [(None, True), ([0], True), ([1, 1], False), (["0"], False), ("0", False)]
)
def test_the_form_takes_a_list_of_device_ids(dags, ids, is_taken):
    param = copy.deepcopy(dags["finetune"].params.get_param("gpu_ids"))
    if is_taken:
        assert param.resolve(ids) == ids
    else:
        with pytest.raises(ParamValidationError):
            param.resolve(ids)


def test_every_task_fails_at_once_on_bad_input_and_retries_a_service_that_is_down(dags):
    from airflow.sdk import RetryAction

    from tollgate.errors import BadInputError, GateRefusedError, ServiceUnavailableError

    for dag in dags.values():
        for task in dag.tasks:
            decide = task.retry_policy.evaluate
            assert decide(BadInputError("wrong"), 1, 3).action is RetryAction.FAIL
            assert decide(GateRefusedError("no"), 1, 3).action is RetryAction.FAIL
            assert decide(ServiceUnavailableError("down"), 1, 3).action is RetryAction.RETRY


def test_retrain_is_off_until_someone_turns_it_on_and_listens_to_new_versions(dags):
    dag = dags["retrain"]
    assert dag.is_paused_upon_creation is True
    assert type(dag.timetable).__name__ == "AssetOrTimeSchedule"


@pytest.mark.parametrize(
    ("now", "last", "expected"),
    [
        ("2026-11-22T16:59:00", None, "2026-11-22T17:00:00"),
        ("2026-11-22T17:09:00", None, "2026-11-22T17:00:00"),
        ("2026-11-22T17:11:00", None, "2026-11-29T17:00:00"),
        ("2026-11-23T08:00:00", None, "2026-11-29T17:00:00"),
        ("2026-11-25T08:00:00", None, "2026-11-29T17:00:00"),
        ("2026-11-25T08:00:00", "2026-11-22T17:00:00", "2026-11-29T17:00:00"),
        ("2026-11-25T08:00:00", "2026-11-08T17:00:00", "2026-11-22T17:00:00"),
    ],
    ids=[
        "just before Monday 02:00 in Seoul",
        "a late scheduler",
        "soon after",
        "within a tenth of the week",
        "in mid-week",
        "it ran on Monday",
        "it was off on Monday",
    ],
)
def test_turning_retrain_on_for_the_first_time_makes_up_for_no_monday(dags, monkeypatch, now, last, expected):
    """As the scheduler reads the DAG: serialized, and with its own clock (UTC)."""
    import pendulum
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.timetables.base import DataInterval, TimeRestriction

    def at(text: str) -> pendulum.DateTime:
        return pendulum.instance(datetime.fromisoformat(text), tz="UTC")

    monkeypatch.setattr("airflow.timetables.trigger.utcnow", lambda: at(now))
    timetable = DagSerialization.from_dict(DagSerialization.to_dict(dags["retrain"])).timetable
    info = timetable.next_dagrun_info(
        last_automated_data_interval=DataInterval.exact(at(last)) if last else None,
        restriction=TimeRestriction(earliest=None, latest=None, catchup=False),
    )
    assert info is not None
    assert info.run_after == at(expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", "abc"),
        ("learning_rate", 0),
        ("lora_rank", 0),
        ("epochs", -1),
        ("method", "magic"),
        ("serve_adapter_as", "full"),
        ("dataset", "highway"),
        ("model_name", "../x"),
        ("threshold", 1.2),
        ("resume_from", "checkpoint-0"),
        ("resume_job", "../x"),
    ],
)
def test_the_form_refuses_what_can_never_be_right(dags, field, value):
    from airflow.sdk.exceptions import ParamValidationError

    params = dags["finetune"].params
    with pytest.raises(ParamValidationError):
        params.get_param(field).resolve(value)
