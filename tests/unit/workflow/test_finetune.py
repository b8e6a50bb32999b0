"""The tasks of ``finetune``, one after the other and some of them twice."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.unit.serving.fake_vllm import FakeVllm, write_adapter
from tests.unit.training.example_base import write_base_model
from tests.unit.training.example_checkpoint import write_checkpoint

from tollgate.errors import BadInputError, GateRefusedError
from tollgate.evaluation.candidate import EvaluationFolder
from tollgate.evaluation.cases import Case, cases_from_dataset, read_json_lines
from tollgate.evaluation.examination import read_examination
from tollgate.evaluation.runner import run_cases
from tollgate.registry import lifecycle
from tollgate.serving import rollout
from tollgate.serving.client import ProbeFailedError
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.store.tables import Experiment, FinetuningJob, ModelEvaluation, RegisteredModel, StageTransition
from tollgate.training.checkpoints import checkpoints_of
from tollgate.workflow import finetune

PARAMS: dict[str, Any] = {
    "model_name": "router",
    "dataset": "highway@latest",
    "base_model": None,
    "method": "lora",
    "lora_rank": 4,
    "epochs": None,
    "more_hyperparameters": None,
    "experiment": {"minimum_effect": 0.5},
}
ANSWER = {
    "chosen_options": ["Reject"],
    "params_input": {"reason": "통행료 답변이 부정확함"},
    "responded_by_user": {"id": "7", "name": "lee"},
}


@pytest.fixture(autouse=True)
def signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole road with its signatures: what ``serve_candidate`` registers is what the server may load."""
    monkeypatch.setenv("TOLLGATE_SIGNATURES", "required")


def verdict(outcome: str) -> dict[str, Any]:
    figures = {"cases": 3, "correct": 2, "accuracy": 2 / 3, "lower_bound": 0.3, "threshold": 0.9, "empty_answers": 0}
    return {
        "outcome": outcome,
        "reasons": ["0.67 is not above 0.90."],
        "reasons_ko": ["0.90보다 높지 않습니다."],
        **figures,
    }


def validate(run_id: str = "run 1", **changes: Any) -> dict[str, Any]:
    return finetune.validate(PARAMS | changes, ["lora_rank", "epochs"], run_id, "kim")


def candidate(run_id: str = "run 1", outcome: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """A trained and served candidate with a verdict: what ``validate`` and ``serve_candidate`` returned."""
    job = validate(run_id)
    write_adapter(Path(job["folder"]) / "adapter", settings().served_base_model)
    version = finetune.serve_candidate(job, "kim")
    if outcome is not None:
        with transaction() as session:
            session.get_one(RegisteredModel, version["model_id"]).verdict = outcome
    return job, version


def route() -> dict[int, float]:
    with transaction() as session:
        return rollout.current(session, "router")


def history() -> list[tuple[str, str, str]]:
    with transaction() as session:
        return [(change.served_name, change.to_stage, change.why) for change in lifecycle.history(session, "router")]


def korean() -> str | None:
    """The reason of the last change of a stage, in Korean."""
    with transaction() as session:
        return lifecycle.history(session, "router")[-1].why_ko


@pytest.mark.usefixtures("server")
def test_gpus_are_checked_before_anything_starts_and_each_gets_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_GPU_IDS", "[0, 1]")
    settings.cache_clear()
    with pytest.raises(BadInputError, match=r"gpu_ids: found \[2\], expected configured devices: \[0, 1\]"):
        validate(gpu_ids=[1, 2])
    with pytest.raises(BadInputError, match="gpus: found 3, expected 0 to 2"):
        validate(gpus=3)

    def processes(**changes: Any) -> int:
        spec = Path(validate(**changes)["folder"]) / "spec.json"
        return int(json.loads(spec.read_text())["processes"])

    assert processes(gpus=2) == processes(gpus=1, gpu_ids=[1, 0]) == 2
    assert processes(gpus=1) == processes(gpus=0) == 1


@pytest.mark.usefixtures("server")
def test_a_run_without_gpus_is_held_to_the_hosts_memory_also_beside_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_GPU_IDS", "[0]")
    monkeypatch.setenv("TOLLGATE_GPU_MEMORY_GB", "0.01")
    settings.cache_clear()
    with pytest.raises(BadInputError, match="TOLLGATE_GPU_MEMORY_GB"):
        validate(gpus=1)
    assert validate(gpus=0)["name"]
    monkeypatch.setenv("TOLLGATE_JOB_MEMORY", "10m")
    settings.cache_clear()
    with pytest.raises(BadInputError, match="TOLLGATE_JOB_MEMORY"):
        validate(gpus=0)


@pytest.mark.usefixtures("server")
def test_a_valid_request_is_a_running_job_however_often_it_is_asked() -> None:
    job = validate()
    assert validate() == job
    assert json.loads(json.dumps(job)) == job, "it travels as an XCom"
    with transaction() as session:
        [row] = session.scalars(select(FinetuningJob))
    assert (row.id, row.status, row.created_by) == (job["id"], "running", "kim")
    assert (row.hyperparameters["lora_rank"], row.hyperparameters["epochs"]) == (4, 3.0)
    finetune.fail_job(job["name"])
    with transaction() as session:
        assert session.scalars(select(FinetuningJob.status)).one() == "failed"


@pytest.mark.usefixtures("server")
def test_a_run_goes_on_from_a_stopped_job_by_its_parameters() -> None:
    first = validate()
    write_checkpoint(Path(first["folder"]) / "checkpoints", 10)
    write_checkpoint(Path(first["folder"]) / "checkpoints", 20)
    finetune.fail_job(first["name"])
    with transaction() as session:
        assert [row.name for row in checkpoints_of(session, first["id"])] == ["checkpoint-10", "checkpoint-20"]
    params = PARAMS | {"resume_job": first["name"], "resume_from": "checkpoint-10"}
    second = finetune.validate(params, ["lora_rank", "epochs", "resume_from"], "run 2", "kim")
    assert (Path(second["folder"]) / "inherited" / "checkpoint-10").is_dir()
    assert json.loads((Path(second["folder"]) / "spec.json").read_text())["resume_from"] == "checkpoint-10"


@pytest.mark.usefixtures("server")
def test_faults_of_request_and_plan_are_told_at_once_and_leave_nothing() -> None:
    with pytest.raises(BadInputError) as refused:
        validate(dataset="law@v1", lora_rank=0, experiment={"power": 2, "split": {"a": 1}})
    told = {problem.where for problem in refused.value.problems}
    assert told == {"dataset", "lora_rank", "experiment.power", "experiment.split"}
    with transaction() as session:
        assert list(session.scalars(select(FinetuningJob))) == []
    assert not settings().jobs.exists()


@pytest.mark.usefixtures("server")
def test_a_name_that_no_model_may_have_is_bad_input() -> None:
    with pytest.raises(BadInputError, match="model_name"):
        validate(model_name="../router")


def test_a_candidate_is_loaded_once_beside_production(server: FakeVllm) -> None:
    job, version = candidate()
    assert finetune.serve_candidate(job, "kim") == version
    assert version["served_name"] == "router@v1"
    assert server.loaded == {"router@v1": f"{job['folder']}/adapter"}
    assert route() == {}
    with transaction() as session:
        assert session.scalars(select(FinetuningJob.status)).one() == "completed"


def test_evaluation_and_verdict_are_kept(server: FakeVllm, projected: list[str]) -> None:
    """The server's answers are no JSON: every one of them is wrong."""
    finetune.promote(*candidate("run 1", "pass"), verdict("pass"), None, "kim")
    job, version = candidate("run 2")
    figures = finetune.evaluate(job, version, "kim", max_tokens=9, rules=finetune.rules_of({}))
    assert figures["contestants"] == {"candidate": "router@v2", "champion": "router@v1", "base": "base"}
    assert [figures[name]["accuracy"] for name in ("candidate", "champion", "base")] == [0, 0, 0]
    assert {request["max_tokens"] for request in server.requests[-9:]} == {9}
    with transaction() as session:
        assert session.scalars(select(ModelEvaluation.job_id)).one() == job["id"]
    judged = finetune.judge(job, finetune.rules_of({"threshold": 0.9, "margin": 0.02}))
    assert (judged["outcome"], judged["cases"]) == ("fail", 3)


def test_full_weights_are_not_loaded_but_examined_and_their_answers_count(
    server: FakeVllm, projected: list[str]
) -> None:
    finetune.promote(*candidate("run 1", "pass"), verdict("pass"), None, "kim")
    job = validate("run 2", method="full")
    write_base_model(Path(job["folder"]) / "model")
    version = finetune.serve_candidate(job, "kim", max_tokens=9)
    assert finetune.serve_candidate(job, "kim", max_tokens=9) == version
    assert list(server.loaded) == ["router@v1"], "production only"
    order = read_examination(Path(version["examination"]))
    assert (order.model, order.served_name) == (Path(version["weights"]), "router@v2")
    assert (order.max_model_len, order.perplexity) == (settings().max_model_len, None)
    cases = [case for _, case in read_json_lines(order.cases, Case)]
    assert cases == cases_from_dataset(Path(job["dataset_folder"]))

    with FakeVllm(base=order.served_name) as own:
        answers = run_cases(own.address, order.served_name, cases, results_path=order.answers, max_tokens=9)
        asyncio.run(answers)
    server.requests.clear()
    figures = finetune.evaluate(job, version, "kim", max_tokens=9, rules=finetune.rules_of({}))
    assert {request["model"] for request in server.requests} == {"router@v1", "base"}
    assert figures["candidate"]["cases"] == len(cases)
    assert finetune.judge(job, finetune.rules_of({}))["outcome"] == "fail"

    finetune.serve_candidate(job, "kim", rules=finetune.rules_of({"verdict": {"perplexity_ratio": 1.1}}))
    kept = read_examination(Path(version["examination"])).perplexity
    assert kept == EvaluationFolder(Path(job["folder"])).perplexity("router@v2"), "where the evaluation looks for it"
    assert route() == {1: 1.0}


@pytest.mark.usefixtures("server")
def test_a_person_who_releases_stands_in_the_history(projected: list[str]) -> None:
    job, version = candidate(outcome="inconclusive")
    answer = {**ANSWER, "chosen_options": ["Approve"], "params_input": {}}
    assert not finetune.has_champion(version)
    done = finetune.promote(job, version, verdict("inconclusive"), answer, "kim")
    assert (done["action"], done["served_name"]) == ("promoted", "router@v1")
    assert route() == {version["model_id"]: 1.0}
    assert history()[-1] == (
        "router@v1",
        "production",
        "lee said Approve. Verdict inconclusive: 0.67 is not above 0.90.",
    )
    assert korean() == "lee 답변: Approve. 판정 판단 보류: 0.90보다 높지 않습니다."
    assert projected == ["router"]


@pytest.mark.usefixtures("server", "projected")
def test_a_second_version_shares_the_route_by_the_plan() -> None:
    _, champion = candidate("run 1", "pass")
    finetune.promote(validate("run 1"), champion, verdict("pass"), None, "kim")
    job, version = candidate("run 2", "pass")
    assert finetune.has_champion(version)
    plan = {"users_per_arm": 7, "split": {"a": 0.9, "b": 0.1}}
    done = finetune.open_experiment(job, version, plan, verdict("pass"), None, "kim")
    assert finetune.open_experiment(job, version, plan, verdict("pass"), None, "kim") == done
    assert route() == pytest.approx({champion["model_id"]: 0.9, version["model_id"]: 0.1})
    with transaction() as session:
        [experiment] = session.scalars(select(Experiment))
    assert (experiment.id, experiment.target_samples) == (done["experiment_id"], 7)


@pytest.mark.usefixtures("projected")
def test_a_second_version_may_take_over_by_steps_and_must_say_again_what_it_said(server: FakeVllm) -> None:
    _, champion = candidate("run 1", "pass")
    finetune.promote(validate("run 1"), champion, verdict("pass"), None, "kim")
    job, version = candidate("run 2", "pass")
    finetune.evaluate(job, version, "kim", max_tokens=9, rules=finetune.rules_of({}))
    cases = EvaluationFolder(Path(job["folder"])).cases("router@v2")
    rows = [json.loads(line) for line in cases.read_text().splitlines()]
    cases.write_text("".join(json.dumps(row | {"correct": True}) + "\n" for row in rows))
    server.says = "other weights"
    with pytest.raises(ProbeFailedError, match="known answers"):
        finetune.begin_rollout(job, version, verdict("pass"), None, "kim")
    server.says = None
    begun = finetune.begin_rollout(*candidate("run 2", "pass"), verdict("pass"), None, "kim")
    assert (begun["status"], begun["share"]) == ("running", 0.05)
    assert finetune.begin_rollout(job, version, verdict("pass"), None, "kim")["action"] == "none"
    assert route() == pytest.approx({champion["model_id"]: 0.95, version["model_id"]: 0.05})


def test_a_release_is_watched_unless_somebody_says_otherwise() -> None:
    watched = [guardrail.metric for guardrail in finetune.plan_of({}).guardrails]
    assert watched == ["user_rating", "error_share", "empty_share", "response_time_p95_ms"]
    own = [{"metric": "success", "margin": 0.05}]
    assert [one.metric for one in finetune.plan_of({"guardrails": own}).guardrails] == ["success"]
    assert finetune.plan_of({"guardrails": []}).guardrails == ()


@pytest.mark.parametrize(
    ("outcome", "answer", "why", "why_ko"),
    [
        ("fail", None, "Verdict fail: 0.67 is not above 0.90.", "판정 불합격: 0.90보다 높지 않습니다."),
        (
            "inconclusive",
            ANSWER,
            "lee said Reject (통행료 답변이 부정확함). Verdict inconclusive: 0.67 is not above 0.90.",
            "lee 답변: Reject (통행료 답변이 부정확함). 판정 판단 보류: 0.90보다 높지 않습니다.",
        ),
        (
            "inconclusive",
            {**ANSWER, "responded_by_user": None, "params_input": None},
            "somebody said Reject. Verdict inconclusive: 0.67 is not above 0.90.",
            "담당자 답변: Reject. 판정 판단 보류: 0.90보다 높지 않습니다.",
        ),
    ],
)
@pytest.mark.usefixtures("server")
def test_a_refused_version_is_archived_and_the_reason_told(
    outcome: str, answer: dict[str, Any] | None, why: str, why_ko: str, projected: list[str]
) -> None:
    _, version = candidate(outcome=outcome)
    for _ in range(2):
        with pytest.raises(GateRefusedError) as refused:
            finetune.refuse(version, verdict(outcome), answer, "kim")
        assert str(refused.value) == f"router@v1 was refused and is not deployed. {why}"
    assert [change[1:] for change in history()][1:] == [("archived", why)]
    assert korean() == why_ko
    assert (route(), projected) == ({}, ["router", "router"])


@pytest.mark.usefixtures("server", "projected")
def test_a_persons_answer_is_kept_beside_the_evaluation() -> None:
    job, version = candidate(outcome="inconclusive")
    finetune.evaluate(job, version, "kim", max_tokens=9, rules=finetune.rules_of({}))
    answer = {**ANSWER, "chosen_options": ["Approve"], "responded_at": "2026-07-01T09:00:00+00:00"}
    finetune.promote(job, version, verdict("inconclusive"), answer, "kim")
    with transaction() as session:
        [evaluated] = session.scalars(select(ModelEvaluation))
        [change] = session.scalars(select(StageTransition).where(StageTransition.to_stage == "production"))
    assert evaluated.metrics["answer"] == {
        "by": "lee",
        "said": ["Approve"],
        "why": "통행료 답변이 부정확함",
        "at": "2026-07-01T09:00:00+00:00",
    }
    assert evaluated.metrics["accuracy"] == 0
    assert change.changed_by == "lee", "not the one who started the run"


@pytest.mark.usefixtures("server")
def test_rules_of_the_verdict_come_from_the_form_and_wrong_ones_are_refused_first() -> None:
    rules = finetune.rules_of({"threshold": 0.8, "margin": 0.05, "verdict": {"category_floor": None, "power": 0.9}})
    assert (rules.threshold, rules.margin, rules.category_floor, rules.power) == (0.8, 0.05, None, 0.9)
    with pytest.raises(BadInputError, match=r"verdict\.minimum"):
        validate(verdict={"minimum": 3})
