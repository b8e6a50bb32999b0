"""The tasks of ``finetune``: from a request to a version in production, in an experiment, or refused.

Each function may be repeated after a crash with the same outcome. What it returns is small, JSON, and free of data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tollgate.dataset.versions import resolve
from tollgate.errors import GateRefusedError
from tollgate.evaluation import candidate
from tollgate.evaluation.candidate import CandidateEvaluation, Contestants, EvaluationFolder
from tollgate.evaluation.runner import cases_from_dataset
from tollgate.evaluation.verdict import Outcome, Verdict, VerdictSettings
from tollgate.experiments.plan import ExperimentPlan
from tollgate.registry import lifecycle
from tollgate.registry.mlflow_projection import project_model
from tollgate.registry.registration import register_job, reserve
from tollgate.serving import release, rollout
from tollgate.serving.client import Prompt, VllmClient
from tollgate.settings import settings
from tollgate.store.session import transaction
from tollgate.training.jobs import Job, TrainingRequest, create_job, finish_job, start_job

PROBES = 3
"""Test questions that a version must answer with something before a route moves to it."""


def validate(request: TrainingRequest, run_id: str, by: str) -> dict[str, Any]:
    """Check everything that was asked for, write ``spec.json`` and the job's row.

    Raises:
        BadInputError: Everything that is wrong, at once.
    """
    with transaction() as session:
        job = create_job(session, request, run_id, by, settings())
        start_job(session, job.id)
    return job.model_dump(mode="json")


def serve_candidate(job: Mapping[str, Any], by: str) -> dict[str, Any]:
    """Give the trained model its version and load it beside production.

    Raises:
        BadInputError: The adapter does not fit the served base.
        ServiceUnavailableError: vLLM or PostgreSQL did not answer.
    """
    trained = Job.model_validate(job)
    registration = reserve(trained.name, trained.model_name, by)
    with transaction() as session:
        finish_job(session, trained.id, "completed")
    with VllmClient() as client:
        client.load_adapter(registration.served_name, Path(registration.model_path))
    return {"model_id": registration.model_id, "served_name": registration.served_name}


def evaluate(job: Mapping[str, Any], version: Mapping[str, Any], by: str, max_tokens: int) -> dict[str, Any]:
    """Put the test part to the candidate, the champion and the base.

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
    evaluation = candidate.evaluate_candidate(
        trained.folder, trained.dataset_folder, contestants, server, max_tokens=max_tokens
    )
    with transaction() as session:
        candidate.record_evaluation(session, trained.id, trained.dataset_id, trained.folder, by)
    return _accuracies(evaluation)


def judge(job: Mapping[str, Any], verdict_settings: VerdictSettings) -> dict[str, Any]:
    """Pass, inconclusive or fail, with the reasons in words."""
    return candidate.judge_candidate(Job.model_validate(job).folder, verdict_settings).model_dump(mode="json")


def register(job: Mapping[str, Any], verdict: Mapping[str, Any], by: str) -> dict[str, Any]:
    """Write version, verdict, figures and files to PostgreSQL and MLflow.

    Raises:
        ServiceUnavailableError: MLflow did not answer; the version and its verdict are kept, and a retry adds the rest.
    """
    trained, judged = Job.model_validate(job), Verdict.model_validate(verdict)
    registration = register_job(
        trained.name,
        trained.model_name,
        by,
        judged.outcome.value,
        judged.reasons,
        EvaluationFolder(trained.folder).report,
    )
    return {
        "model_id": registration.model_id,
        "served_name": registration.served_name,
        "mlflow": registration.mlflow_uri,
    }


def next_step(verdict: Mapping[str, Any]) -> Outcome:
    """The outcome that the road forks by."""
    return Verdict.model_validate(verdict).outcome


def has_champion(version: Mapping[str, Any]) -> bool:
    """Whether the version must prove itself against another one in production."""
    with transaction() as session:
        return release.has_champion(session, version["model_id"])


def promote(job: Mapping[str, Any], version: Mapping[str, Any], by: str, why: str) -> dict[str, Any]:
    """Give the version its whole route and make it the production version.

    Raises:
        GateRefusedError: It answers nothing, or never passed.
    """
    with VllmClient() as client, transaction() as session:
        done = release.promote(session, version["model_id"], by, why, _probes(job), client)
    project_model(done.route)
    return done.model_dump(mode="json")


def open_experiment(
    job: Mapping[str, Any], version: Mapping[str, Any], by: str, plan: ExperimentPlan
) -> dict[str, Any]:
    """Stage the version and let it share the champion's route.

    Raises:
        GateRefusedError: An experiment is running on the route already.
    """
    with VllmClient() as client, transaction() as session:
        done = release.open_test(session, version["model_id"], by, plan, _probes(job), client)
    project_model(done.route)
    return done.model_dump(mode="json")


def refuse(version: Mapping[str, Any], verdict: Mapping[str, Any], by: str, person: str | None = None) -> None:
    """Archive a version that failed, or that a person turned down, and say why.

    Raises:
        GateRefusedError: Always; the text is the reason.
    """
    judged = Verdict.model_validate(verdict)
    reasons = " ".join(judged.reasons)
    why = f"{person} said no to an {judged.outcome} verdict: {reasons}" if person else reasons
    with transaction() as session:
        model = lifecycle.archive(session, version["model_id"], by, why)
    project_model(model.model_name)
    raise GateRefusedError(f"{model.served_name} was refused and is not deployed. {why}")


def unload_candidate(version: Mapping[str, Any]) -> bool:
    """Unload the version unless a route or an experiment uses it.

    Returns:
        True if it is unloaded.
    """
    with VllmClient() as client, transaction() as session:
        return rollout.unload_if_unused(session, version["model_id"], client)


def fail_job(job: Mapping[str, Any]) -> None:
    """Mark the job as failed."""
    with transaction() as session:
        finish_job(session, Job.model_validate(job).id, "failed")


def _probes(job: Mapping[str, Any]) -> list[Prompt]:
    cases = cases_from_dataset(resolve(job["dataset"], settings().datasets).folder)
    return [[turn.model_dump() for turn in case.messages] for case in cases[:PROBES]]


def _accuracies(evaluation: CandidateEvaluation) -> dict[str, Any]:
    figures: dict[str, Any] = {"scorer": evaluation.scorer, "contestants": evaluation.contestants.model_dump()}
    for name in ("candidate", "champion", "base"):
        summary = getattr(evaluation, name)
        figures[name] = None if summary is None else summary.model_dump(mode="json", exclude={"categories"})
    return figures
