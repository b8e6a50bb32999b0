"""A candidate's evaluation: the same cases to candidate, champion and base, over the server that will serve.

Everything lands in the job's folder ``evaluation/`` first, as it comes; the row and the report are written at the end,
so that a killed evaluation goes on where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from tollgate.errors import BadInputError, Problem
from tollgate.evaluation.cases import Case, read_json_lines
from tollgate.evaluation.further import FurtherFigures
from tollgate.evaluation.perplexity import Perplexity, perplexity
from tollgate.evaluation.report import make_report
from tollgate.evaluation.report_page import write_report
from tollgate.evaluation.runner import cases_from_dataset, run_cases
from tollgate.evaluation.scorers import ScoredCase, detect, score_results
from tollgate.evaluation.summary import EvaluationSummary, summarise
from tollgate.evaluation.verdict import Verdict, VerdictSettings, judge
from tollgate.store.tables import ModelBenchmark, ModelEvaluation, RegisteredModel
from tollgate.training.curves import losses_svg
from tollgate.training.progress import FILE, ProgressReader, RunProgress

INTERNAL_TEST = "internal_test"
"""Name of the benchmark that is a dataset version's own test part."""

WRONG_ANSWERS_KEPT = 50
"""Wrong answers kept in the table; all answers are in the job's folder and in MLflow."""


class Contestants(BaseModel):
    """The names under which the server serves what is compared.

    Attributes:
        candidate: The new version.
        champion: The production version, if there is one.
        base: The model before any training; null where the server does not serve it.
    """

    model_config = ConfigDict(frozen=True)

    candidate: str
    champion: str | None = None
    base: str | None = None


class CandidateEvaluation(BaseModel):
    """Figures of all contestants on one test part."""

    contestants: Contestants
    scorer: str
    candidate: EvaluationSummary
    champion: EvaluationSummary | None = None
    base: EvaluationSummary | None = None
    further: FurtherFigures = Field(default_factory=FurtherFigures)


class EvaluationFolder:
    """Where one job's answers and figures are kept.

    Args:
        job_folder: The job's folder.
    """

    def __init__(self, job_folder: Path) -> None:
        self.path = job_folder / "evaluation"

    @property
    def report(self) -> Path:
        """The figures of all contestants."""
        return self.path / "evaluation.json"

    @property
    def verdict(self) -> Path:
        """The verdict and its reasons."""
        return self.path / "verdict.json"

    def answers(self, served_name: str) -> Path:
        """One contestant's answers as they came; a killed evaluation goes on from here."""
        return self.path / f"{served_name.replace('/', '_')}.answers.jsonl"

    def perplexity(self, served_name: str) -> Path:
        """What one contestant's server said of the right answers' likelihood."""
        return self.answers(f"{served_name}.perplexity")

    def cases(self, served_name: str) -> Path:
        """One contestant's scored cases, whole; ``tollgate verdict --results`` reads it."""
        return self.path / f"{served_name.replace('/', '_')}.jsonl"

    def scored(self, served_name: str) -> list[ScoredCase]:
        """Read one contestant's scored cases.

        Raises:
            BadInputError: The file is missing or damaged.
        """
        return [case for _, case in read_json_lines(self.cases(served_name), ScoredCase)]


def evaluate_candidate(
    job_folder: Path,
    dataset_folder: Path,
    contestants: Contestants,
    server: str,
    max_tokens: int = 128,
    concurrency: int = 32,
    measure_perplexity: bool = False,
    champion_server: str | None = None,
) -> CandidateEvaluation:
    """Ask every contestant every case of the test part, and count.

    Args:
        job_folder: The job's folder; everything is written to its ``evaluation/``.
        dataset_folder: The dataset version whose test part is asked.
        contestants: Who is asked.
        server: Address of the vLLM server that will serve.
        max_tokens: Longest answer.
        concurrency: Requests at a time.
        measure_perplexity: Whether the right answers' perplexity is measured too, of candidate and champion.
        champion_server: Where the champion answers, if it has a server of its own.

    Raises:
        BadInputError: The test part cannot be read, or the server does not serve a contestant.
        ServiceUnavailableError: The server did not answer; what was answered is kept.
    """
    folder = EvaluationFolder(job_folder)
    cases = cases_from_dataset(dataset_folder)
    scorer = detect(case.expected for case in cases)

    def ask(name: str) -> EvaluationSummary:
        path = folder.answers(name)
        address = _address(name, contestants, server, champion_server)
        answers = run_cases(address, name, cases, results_path=path, max_tokens=max_tokens, concurrency=concurrency)
        scored = score_results(asyncio.run(answers), scorer)
        _write(folder.cases(name), "".join(f"{case.model_dump_json()}\n" for case in scored))
        return summarise(scored)

    evaluation = CandidateEvaluation(
        contestants=contestants,
        scorer=scorer,
        candidate=ask(contestants.candidate),
        champion=ask(contestants.champion) if contestants.champion else None,
        base=ask(contestants.base) if contestants.base else None,
    )
    if measure_perplexity:
        evaluation.further = _perplexities(folder, cases, contestants, server, concurrency, champion_server)
    _write(folder.report, evaluation.model_dump_json(indent=2))
    return evaluation


def _address(name: str, contestants: Contestants, server: str, champion_server: str | None) -> str:
    return champion_server if champion_server and name == contestants.champion else server


def _perplexities(
    folder: EvaluationFolder,
    cases: Sequence[Case],
    contestants: Contestants,
    server: str,
    concurrency: int,
    champion_server: str | None,
) -> FurtherFigures:
    def measure(name: str) -> Perplexity | None:
        path = folder.perplexity(name)
        address = _address(name, contestants, server, champion_server)
        asked = run_cases(address, name, cases, results_path=path, concurrency=concurrency, way="perplexity")
        return perplexity(asyncio.run(asked))

    champion = contestants.champion
    return FurtherFigures(
        perplexity=measure(contestants.candidate), champion_perplexity=measure(champion) if champion else None
    )


def judge_candidate(job_folder: Path, settings: VerdictSettings, suite: str = "test") -> Verdict:
    """Judge an evaluated candidate, beside the champion if there was one; keep the verdict and write the report.

    Args:
        job_folder: The job's folder.
        settings: What must be reached.
        suite: What was asked, for the report.

    Raises:
        BadInputError: It was not evaluated, or not on the champion's cases.
    """
    folder = EvaluationFolder(job_folder)
    evaluation = read_evaluation(job_folder)
    name, other = evaluation.contestants.candidate, evaluation.contestants.champion
    cases, champion = folder.scored(name), folder.scored(other) if other else None
    verdict = judge(cases, champion, settings, evaluation.further)
    _write(folder.verdict, verdict.model_dump_json(indent=2))
    report = make_report(name, suite, cases, champion, evaluation.further, verdict, other, evaluation.base)
    write_report(folder.path, report, _losses(job_folder))
    return verdict


def _losses(job_folder: Path) -> str | None:
    """The picture of the job's losses, drawn from its progress; None for a job that left none."""
    progress = RunProgress(ProgressReader(job_folder / FILE).read())
    return losses_svg(progress, job_folder.name) if progress.last else None


def read_evaluation(job_folder: Path) -> CandidateEvaluation:
    """The figures that an evaluation left.

    Raises:
        BadInputError: There are none, or not readable ones.
    """
    path = EvaluationFolder(job_folder).report
    try:
        return CandidateEvaluation.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadInputError("The job was not evaluated.", [Problem(str(path), str(error)[:200], "a report")]) from error


def record_evaluation(session: Session, job_id: int, dataset_id: int, job_folder: Path, evaluator: str) -> None:
    """Write an evaluation's figures and some wrong answers to ``model_evaluations``; twice is the same as once."""
    evaluation = read_evaluation(job_folder)
    cases = EvaluationFolder(job_folder).scored(evaluation.contestants.candidate)
    wrong = [case.model_dump(mode="json") for case in cases if not case.correct]
    values = {"metrics": _metrics(evaluation), "test_cases": wrong[:WRONG_ANSWERS_KEPT], "evaluator": evaluator}
    statement = insert(ModelEvaluation).values(job_id=job_id, eval_dataset_id=dataset_id, **values)
    session.execute(statement.on_conflict_do_update(index_elements=["job_id", "eval_dataset_id"], set_=values))


def record_answer(session: Session, model_id: int, answer: Mapping[str, Any]) -> None:
    """Keep what a person said about an inconclusive candidate beside its evaluation; twice is the same as once.

    Args:
        session: The transaction.
        model_id: Row of ``model_registry``.
        answer: Who answered what, when and why.
    """
    job_id = session.scalar(select(RegisteredModel.finetuning_job_id).where(RegisteredModel.id == model_id))
    for row in session.scalars(select(ModelEvaluation).where(ModelEvaluation.job_id == job_id)):
        row.metrics = {**row.metrics, "answer": dict(answer)}


def record_benchmark(session: Session, model_id: int, dataset: str, evaluation: CandidateEvaluation) -> None:
    """Write a candidate's accuracy on its own test part to ``model_benchmarks``; a repeated evaluation replaces it."""
    name = f"{INTERNAL_TEST}: {dataset}"
    session.execute(
        delete(ModelBenchmark).where(ModelBenchmark.model_id == model_id, ModelBenchmark.benchmark_name == name)
    )
    details = evaluation.candidate.model_dump(mode="json", include={"cases", "correct", "low", "high", "fields"})
    session.add(
        ModelBenchmark(model_id=model_id, benchmark_name=name, score=evaluation.candidate.accuracy, details=details)
    )


def _metrics(evaluation: CandidateEvaluation) -> dict[str, Any]:
    metrics: dict[str, Any] = evaluation.candidate.model_dump(mode="json")
    for name, summary in (("champion", evaluation.champion), ("base", evaluation.base)):
        if summary is not None:
            metrics[f"{name}_accuracy"] = summary.accuracy
    for name, measured in (
        ("perplexity", evaluation.further.perplexity),
        ("champion_perplexity", evaluation.further.champion_perplexity),
    ):
        if measured is not None:
            metrics[name] = measured.value
    return metrics


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
