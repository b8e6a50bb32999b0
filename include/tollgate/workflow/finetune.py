"""The tasks of ``finetune``: from a request to a version in production, in an experiment, or refused.

Each function may be repeated after a crash with the same outcome. What it returns is small, JSON, and free of data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from tollgate.dataset.versions import resolve
from tollgate.errors import BadInputError, GateRefusedError, Problem
from tollgate.evaluation import candidate
from tollgate.evaluation.candidate import CandidateEvaluation, Contestants, EvaluationFolder
from tollgate.evaluation.examination import CASES, FOLDER, Examination, write_examination
from tollgate.evaluation.runner import cases_from_dataset
from tollgate.evaluation.verdict import Verdict, VerdictSettings
from tollgate.evaluation.verdict_settings import DEFAULT_SETTINGS, parse_settings
from tollgate.experiments.plan import GUARDRAILS, ExperimentPlan
from tollgate.reasons import Reason
from tollgate.registry import lifecycle
from tollgate.registry.mlflow_projection import project_model
from tollgate.registry.model_card import VERDICTS_KO
from tollgate.registry.registration import Registration, reserve
from tollgate.serving import release
from tollgate.serving.canary import CanaryPlan
from tollgate.serving.client import VllmClient
from tollgate.serving.probes import KnownAnswer, Probe
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.store.tables import FinetuningJob
from tollgate.training import merging
from tollgate.training.checkpoints import record_checkpoints
from tollgate.training.jobs import Job, create_job, finish_job, parse_request, start_job
from tollgate.training.leases import wish_problems
from tollgate.workflow import servers

PROBES = 3
"""Test questions that a version must answer with something before a route moves to it."""


def validate(params: Mapping[str, Any], hyperparameters: Sequence[str], run_id: str, by: str) -> dict[str, Any]:
    """Check everything that was asked for, write ``spec.json`` and the job's row.

    Args:
        params: The run's parameters, as the form sends them.
        hyperparameters: The parameters that are fields of the training specification.
        run_id: The run; the job's name follows from it.
        by: Who asked.

    Raises:
        BadInputError: Everything that is wrong, at once.
    """
    chosen = {name: params[name] for name in ("method", *hyperparameters) if params.get(name) is not None}
    request = parse_request(
        {
            "model_name": params["model_name"],
            "dataset": params["dataset"],
            "base_model": params["base_model"] or None,
            "hyperparameters": chosen,
            "more_hyperparameters": params["more_hyperparameters"] or "",
            "resume_job": params.get("resume_job") or None,
        }
    )
    devices, problems = _devices(params)
    problems += _plan_problems(params["experiment"])
    with transaction() as session:
        problems += _rules_problems(params)
        job = create_job(session, request, run_id, by, settings(), problems, devices)
        start_job(session, job.id)
    return job.model_dump(mode="json")


def prepare_merging(job: Mapping[str, Any]) -> bool:
    """Make the folder in which the merging of an adapter reports, where the job asks for one.

    Args:
        job: What ``validate`` returned.

    Returns:
        Whether the adapter is to be merged into its base before it is served.
    """
    trained = Job.model_validate(job)
    if trained.is_merged:
        (trained.folder / merging.FOLDER).mkdir(exist_ok=True)
    return trained.is_merged


def serves_full_weights(job: Mapping[str, Any]) -> bool:
    """Whether the job's version needs a server of its own: all weights were trained, or an adapter was merged."""
    return Job.model_validate(job).serves_full_weights


def serve_candidate(
    job: Mapping[str, Any], by: str, max_tokens: int = 128, rules: VerdictSettings = DEFAULT_SETTINGS
) -> dict[str, Any]:
    """Give the trained model its version; load an adapter beside production, prepare the examination of full weights.

    Args:
        job: What ``validate`` returned.
        by: Who started the run.
        max_tokens: Longest answer that will be asked for.
        rules: What the verdict will ask for.

    Raises:
        BadInputError: The adapter does not fit the served base.
        ServiceUnavailableError: vLLM or PostgreSQL did not answer.
    """
    trained = Job.model_validate(job)
    registration = reserve(trained.name, trained.model_name, by)
    with transaction() as session:
        finish_job(session, trained.name, "completed")
        record_checkpoints(session, trained.id, trained.folder)
        digest = lifecycle.get(session, registration.model_id).manifest_digest
    version = {"model_id": registration.model_id, "served_name": registration.served_name}
    if trained.serves_full_weights:
        return version | _prepare_examination(trained, registration, max_tokens, _asks_for_perplexity(rules))
    with VllmClient() as client:
        client.load_adapter(registration.served_name, Path(registration.model_path), digest)
    return version


def _prepare_examination(job: Job, version: Registration, max_tokens: int, measure_perplexity: bool) -> dict[str, str]:
    """Write down what a server of the weights' own is to be asked; return the folders that it needs."""
    folder, kept = job.folder / FOLDER, EvaluationFolder(job.folder)
    examination = Examination(
        model=Path(version.model_path),
        served_name=version.served_name,
        cases=folder / CASES,
        answers=kept.answers(version.served_name),
        perplexity=kept.perplexity(version.served_name) if measure_perplexity else None,
        max_tokens=max_tokens,
        max_model_len=settings().max_model_len,
    )
    write_examination(folder, examination, cases_from_dataset(job.dataset_folder))
    return {"examination": str(folder), "weights": version.model_path, "answers": str(examination.answers.parent)}


def _asks_for_perplexity(rules: VerdictSettings) -> bool:
    return rules.perplexity_limit is not None or rules.perplexity_ratio is not None


def evaluate(
    job: Mapping[str, Any], version: Mapping[str, Any], by: str, max_tokens: int, rules: VerdictSettings
) -> dict[str, Any]:
    """Put the test part to the candidate, the champion and the base; what was answered before is not asked again.

    Args:
        job: What ``validate`` returned.
        version: What ``serve_candidate`` returned.
        by: Who started the run.
        max_tokens: Longest answer.
        rules: What the verdict will ask for: the perplexity is measured only where a limit of it is set.

    Raises:
        ServiceUnavailableError: vLLM did not answer; a retry goes on where this one stopped.
    """
    trained = Job.model_validate(job)
    with transaction() as session:
        champion = lifecycle.champion(session, trained.model_name)
    contestants = Contestants(
        candidate=version["served_name"],
        champion=champion.served_name if champion and champion.id != version["model_id"] else None,
        base=settings().base_model_name,
    )
    server = settings().vllm_addresses[0]
    own = servers.address_of(contestants.champion) if contestants.champion else None
    evaluation = candidate.evaluate_candidate(
        trained.folder,
        trained.dataset_folder,
        contestants,
        server,
        champion_server=own,
        max_tokens=max_tokens,
        measure_perplexity=_asks_for_perplexity(rules),
    )
    with transaction() as session:
        candidate.record_evaluation(session, trained.id, trained.dataset_id, trained.folder, by)
        candidate.record_benchmark(session, version["model_id"], trained.dataset, evaluation)
    return _accuracies(evaluation)


def judge(job: Mapping[str, Any], rules: VerdictSettings) -> dict[str, Any]:
    """Pass, inconclusive or fail, with the reasons in words."""
    trained = Job.model_validate(job)
    return candidate.judge_candidate(trained.folder, rules, trained.dataset).model_dump(mode="json")


def rules_of(params: Mapping[str, Any]) -> VerdictSettings:
    """The verdict's settings, from the run's parameters ``threshold``, ``margin`` and ``verdict``.

    Raises:
        BadInputError: One problem for each wrong field.
    """
    own_fields = {name: params[name] for name in ("threshold", "margin") if name in params}
    return parse_settings({**(params.get("verdict") or {}), **own_fields})


def start_server(version: Mapping[str, Any], by: str) -> dict[str, Any]:
    """Have a server for full weights before they get any traffic; an adapter needs none of its own.

    Raises:
        ServiceUnavailableError: The server could not be started.
    """
    return {"address": servers.ensure(version["model_id"], by)}


def has_champion(version: Mapping[str, Any]) -> bool:
    """Whether the version must prove itself against another one in production."""
    with transaction() as session:
        return release.has_champion(session, version["model_id"])


def promote(
    job: Mapping[str, Any],
    version: Mapping[str, Any],
    verdict: Mapping[str, Any],
    answer: Mapping[str, Any] | None,
    by: str,
) -> dict[str, Any]:
    """Give the version its whole route and make it the production version.

    Args:
        job: What ``validate`` returned.
        version: What ``serve_candidate`` returned.
        verdict: What ``judge`` returned.
        answer: The person's answer, if one was asked.
        by: Who started the run.

    Raises:
        GateRefusedError: It answers nothing, or never passed.
    """
    decider = _decider(answer, by)
    with servers.ready_for_release(version["model_id"], by), VllmClient() as client, transaction() as session:
        _keep_answer(session, version, answer)
        why = _why(verdict, answer)
        done = release.promote(session, version["model_id"], decider, why, _probes(job, version), client)
    project_model(done.route)
    return done.model_dump(mode="json")


def open_experiment(
    job: Mapping[str, Any],
    version: Mapping[str, Any],
    plan: Mapping[str, Any],
    verdict: Mapping[str, Any],
    answer: Mapping[str, Any] | None,
    by: str,
) -> dict[str, Any]:
    """Stage the version and let it share the champion's route.

    Raises:
        GateRefusedError: An experiment is running on the route already.
    """
    why, decider = _why(verdict, answer), _decider(answer, by)
    with servers.ready_for_release(version["model_id"], by), VllmClient() as client, transaction() as session:
        _keep_answer(session, version, answer)
        probes = _probes(job, version)
        done = release.open_test(session, version["model_id"], decider, why, plan_of(plan), probes, client)
    project_model(done.route)
    return done.model_dump(mode="json")


def begin_rollout(
    job: Mapping[str, Any],
    version: Mapping[str, Any],
    verdict: Mapping[str, Any],
    answer: Mapping[str, Any] | None,
    by: str,
) -> dict[str, Any]:
    """Stage the version and give it the first share of the champion's route; the DAG ``roll_out`` takes it further.

    Raises:
        GateRefusedError: An experiment or another rollout is running on the route.
    """
    why, plan, decider = _why(verdict, answer), CanaryPlan.of_settings(), _decider(answer, by)
    with servers.ready_for_release(version["model_id"], by), VllmClient() as client, transaction() as session:
        _keep_answer(session, version, answer)
        probes = _probes(job, version)
        begun = release.begin_rollout(session, version["model_id"], decider, why, plan, probes, client)
    project_model(begun.route)
    return begun.model_dump(mode="json")


def refuse(
    version: Mapping[str, Any], verdict: Mapping[str, Any], answer: Mapping[str, Any] | None, by: str
) -> NoReturn:
    """Archive a version that failed, or that a person turned down, and say why.

    Raises:
        GateRefusedError: Always; the text is the reason.
    """
    why = _why(verdict, answer)
    with transaction() as session:
        _keep_answer(session, version, answer)
        model = lifecycle.archive(session, version["model_id"], _decider(answer, by), why)
    project_model(model.model_name)
    raise GateRefusedError(f"{model.served_name} was refused and is not deployed. {why.en}")


def fail_job(name: str) -> None:
    """Mark a job as failed, and record the checkpoints that it left: a new run can go on from them."""
    with transaction() as session:
        finish_job(session, name, "failed")
        job = session.scalar(select(FinetuningJob).where(FinetuningJob.job_name == name))
        if job is not None:
            record_checkpoints(session, job.id, Path(job.output_dir))


def plan_of(fields: Mapping[str, Any]) -> ExperimentPlan:
    """The plan of an A/B test; it watches the usual guardrails unless it names its own.

    Raises:
        BadInputError: One problem for each wrong field.
    """
    try:
        return ExperimentPlan.model_validate({"guardrails": GUARDRAILS, **fields})
    except ValidationError as error:
        problems = [
            Problem("experiment." + ".".join(map(str, detail["loc"])), repr(detail["input"])[:200], detail["msg"])
            for detail in error.errors()
            if detail["type"] != "default_factory_not_called"  # users_per_arm, for it follows from a wrong field
        ]
        raise BadInputError("The plan of the A/B test is not valid.", problems) from error


def _devices(params: Mapping[str, Any]) -> tuple[int, list[Problem]]:
    """How many GPUs the run will have, and what is wrong with those it asks for."""
    configured, named, count = settings().gpu_ids, params.get("gpu_ids") or [], params.get("gpus") or 0
    return len(named) or (count if configured else 0), wish_problems(count, named, configured)


def _plan_problems(fields: Mapping[str, Any]) -> Sequence[Problem]:
    try:
        plan_of(fields)
    except BadInputError as error:
        return error.problems
    return ()


def _rules_problems(params: Mapping[str, Any]) -> Sequence[Problem]:
    try:
        rules_of(params)
    except BadInputError as error:
        return error.problems
    return ()


def _person(answer: Mapping[str, Any]) -> str | None:
    return (answer.get("responded_by_user") or {}).get("name")


def _decider(answer: Mapping[str, Any] | None, by: str) -> str:
    """Who stands in the history: the person who answered, where one was asked, else who started the run."""
    return by if answer is None else _person(answer) or by


def _keep_answer(session: Session, version: Mapping[str, Any], answer: Mapping[str, Any] | None) -> None:
    if answer is None:
        return
    kept = {
        "by": _person(answer),
        "said": answer["chosen_options"],
        "why": (answer.get("params_input") or {}).get("reason"),
        "at": answer.get("responded_at"),
    }
    candidate.record_answer(session, version["model_id"], kept)


def _why(verdict: Mapping[str, Any], answer: Mapping[str, Any] | None) -> Reason:
    judged = Verdict.model_validate(verdict)
    reasons = Reason(
        f"Verdict {judged.outcome}: {' '.join(judged.reasons)}",
        f"판정 {VERDICTS_KO[judged.outcome]}: {' '.join(judged.reasons_ko)}",
    )
    if answer is None:
        return reasons
    person = _person(answer)
    said = ", ".join(answer["chosen_options"])
    why = (answer.get("params_input") or {}).get("reason")
    own = f" ({why})" if why else ""
    return Reason(
        f"{person or 'somebody'} said {said}{own}. {reasons.en}",
        f"{person or '담당자'} 답변: {said}{own}. {reasons.ko}",
    )


def _probes(job: Mapping[str, Any], version: Mapping[str, Any]) -> list[Probe]:
    """Test questions that the version answered rightly, with its answers; without an evaluation, questions alone."""
    cases = cases_from_dataset(resolve(job["dataset"], settings().datasets).folder)
    answers = _right_answers(job, version["served_name"])
    known = [case for case in cases if case.id in answers] or cases
    questions: list[list[dict[str, str]]] = [[turn.model_dump() for turn in case.messages] for case in known[:PROBES]]
    return [
        KnownAnswer(question, answers[case.id]) if case.id in answers else question
        for case, question in zip(known, questions, strict=False)
    ]


def _right_answers(job: Mapping[str, Any], served_name: str) -> dict[str, str]:
    folder = candidate.EvaluationFolder(Job.model_validate(job).folder)
    if not folder.cases(served_name).is_file():
        return {}
    return {
        case.id: case.answer for case in folder.scored(served_name) if case.correct and case.answer and not case.empty
    }


def _accuracies(evaluation: CandidateEvaluation) -> dict[str, Any]:
    figures: dict[str, Any] = {"scorer": evaluation.scorer, "contestants": evaluation.contestants.model_dump()}
    for name in ("candidate", "champion", "base"):
        summary = getattr(evaluation, name)
        figures[name] = None if summary is None else summary.model_dump(mode="json", exclude={"categories"})
    return figures
