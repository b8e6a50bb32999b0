"""Candidate, champion and base before a server that speaks OpenAI's chat completions."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from sqlalchemy import select
from tests.unit.dataset.example_version import ANSWER, write_version
from tests.unit.serving.fake_vllm import FakeVllm, completion

from tollgate.errors import BadInputError
from tollgate.evaluation import candidate
from tollgate.evaluation.candidate import CandidateEvaluation, Contestants, EvaluationFolder
from tollgate.evaluation.verdict import Outcome, VerdictSettings
from tollgate.store.session import transaction
from tollgate.store.tables import FinetuningJob, ModelEvaluation, TrainingDataset

QUESTIONS = tuple(f"q{number}" for number in range(40))
RULES = VerdictSettings(threshold=0.5, margin=0.05, minimum_cases=10)
BOTH = Contestants(candidate="router@v2", champion="router@v1")


class Examinee(FakeVllm):
    """Answers right, but for the questions in ``fails``, by model; refuses questions in ``rejects``."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: dict[str, set[str]] = {}
        self.rejects: set[str] = set()
        self.asked: list[tuple[str, str]] = []

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        name, question = body["model"], body["messages"][-1]["content"]
        if name not in {"base", "router@v1", "router@v2"}:
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        if question in self.rejects:
            return web.json_response({"error": {"message": "gone"}}, status=401)
        self.asked.append((name, question))
        return completion(name, "모름" if question in self.fails.get(name, ()) else ANSWER)


@pytest.fixture
def server() -> Iterator[Examinee]:
    with Examinee() as server:
        yield server


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_version(tmp_path / "datasets", test_questions=QUESTIONS).folder


def evaluate(
    server: Examinee, job: Path, dataset: Path, contestants: Contestants = BOTH, concurrency: int = 4
) -> CandidateEvaluation:
    return candidate.evaluate_candidate(job, dataset, contestants, server.address, concurrency=concurrency)


def test_every_contestant_is_asked_every_case_and_counted(server: Examinee, tmp_path: Path, dataset: Path) -> None:
    server.fails = {"router@v2": {"q0"}, "router@v1": set(QUESTIONS[:10]), "base": set(QUESTIONS)}
    contestants = Contestants(candidate="router@v2", champion="router@v1", base="base")
    found = evaluate(server, tmp_path, dataset, contestants)
    assert found.champion is not None
    assert found.base is not None
    assert (found.candidate.accuracy, found.champion.accuracy, found.base.accuracy) == (39 / 40, 0.75, 0)
    assert found.scorer == "json_exact"
    assert sorted(server.asked) == sorted((name, q) for name in ("base", "router@v1", "router@v2") for q in QUESTIONS)
    assert candidate.read_evaluation(tmp_path) == found
    folder = EvaluationFolder(tmp_path)
    assert [case.id for case in folder.scored("router@v2") if not case.correct] == ["q0"]
    assert not list(folder.path.glob("*.partial"))

    server.asked.clear()
    assert evaluate(server, tmp_path, dataset, contestants).candidate.accuracy == 39 / 40
    assert server.asked == [], "everything was answered before"


def test_after_a_crash_only_what_is_missing_is_asked(server: Examinee, tmp_path: Path, dataset: Path) -> None:
    server.rejects = {"q25"}
    with pytest.raises(BadInputError):
        evaluate(server, tmp_path, dataset, concurrency=1)
    answered = set(server.asked)
    assert answered == {("router@v2", question) for question in QUESTIONS[:25]}
    with pytest.raises(BadInputError, match="was not evaluated"):
        candidate.judge_candidate(tmp_path, RULES)

    answers = EvaluationFolder(tmp_path).answers("router@v2")
    answers.write_bytes(answers.read_bytes() + b'{"id": "q25", "answ')  # torn by a kill
    server.rejects.clear()
    server.asked.clear()
    found = evaluate(server, tmp_path, dataset)
    assert (found.candidate.accuracy, found.candidate.cases) == (1, 40)
    assert not answered & set(server.asked)
    assert len(server.asked) == 2 * 40 - 25


def test_a_candidate_that_is_not_served_is_bad_input(server: Examinee, tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(BadInputError, match="router@v9"):
        evaluate(server, tmp_path, dataset, Contestants(candidate="router@v9"))


def test_a_candidate_is_judged_beside_the_champion(server: Examinee, tmp_path: Path, dataset: Path) -> None:
    server.fails = {"router@v2": set(QUESTIONS[:12])}
    evaluate(server, tmp_path, dataset)
    verdict = candidate.judge_candidate(tmp_path, RULES)
    assert verdict.champion is not None
    assert (verdict.outcome, verdict.champion.worse, verdict.champion.better) == (Outcome.FAIL, 12, 0)
    kept = json.loads(EvaluationFolder(tmp_path).verdict.read_text(encoding="utf-8"))
    assert (kept["outcome"], kept["reasons"]) == ("fail", verdict.reasons)

    report = json.loads((EvaluationFolder(tmp_path).path / "report.json").read_text(encoding="utf-8"))
    assert (report["subject"], report["champion_name"], report["counts"]["lost"]) == ("router@v2", "router@v1", 12)
    page = (EvaluationFolder(tmp_path).path / "report.html").read_text(encoding="utf-8")
    assert verdict.reasons_ko[0] in page
    assert "data:image" not in page, "this job left no progress"

    alone = evaluate(server, tmp_path, dataset, Contestants(candidate="router@v2"))
    assert alone.champion is None
    assert candidate.judge_candidate(tmp_path, RULES.model_copy(update={"threshold": 0.4})).outcome is Outcome.PASS


def test_the_report_shows_how_the_losses_fell(server: Examinee, tmp_path: Path, dataset: Path) -> None:
    lines = [{"step": step, "loss": 3.0 / step} for step in (1, 2, 3)] + [{"step": 3, "eval_loss": 1.25}]
    (tmp_path / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluate(server, tmp_path, dataset)
    candidate.judge_candidate(tmp_path, RULES)
    page = (EvaluationFolder(tmp_path).path / "report.html").read_text(encoding="utf-8")
    picture = base64.b64decode(page.partition("data:image/svg+xml;base64,")[2].partition('"')[0]).decode()
    assert 'class="loss"' in picture
    assert "1.25" in picture


@pytest.mark.parametrize("content", [None, "{}", '{"contestants": '])
def test_without_a_readable_evaluation_there_is_no_verdict(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        EvaluationFolder(tmp_path).path.mkdir()
        EvaluationFolder(tmp_path).report.write_text(content)
    with pytest.raises(BadInputError, match=r"was not evaluated(.|\n)*evaluation\.json"):
        candidate.judge_candidate(tmp_path, RULES)


def test_an_evaluation_recorded_twice_is_one_row_with_a_few_wrong_answers(
    server: Examinee, tmp_path: Path, dataset: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidate, "WRONG_ANSWERS_KEPT", 3)
    server.fails = {"router@v2": set(QUESTIONS[:5])}
    evaluate(server, tmp_path, dataset)
    with transaction() as session:
        version = TrainingDataset(
            name="highway",
            version="v1",
            file_path=str(dataset),
            content_hash="0",
            total_samples=42,
            train_samples=1,
            val_samples=1,
            test_samples=40,
        )
        job = FinetuningJob(job_name="j", base_model="b", method="lora", hyperparameters={}, output_dir=str(tmp_path))
        session.add_all([version, job])
        session.flush()
        ids = job.id, version.id
    for _ in range(2):
        with transaction() as session:
            candidate.record_evaluation(session, *ids, tmp_path, "kim")
    with transaction() as session:
        [row] = session.scalars(select(ModelEvaluation))
    assert (row.metrics["accuracy"], row.metrics["champion_accuracy"], row.evaluator) == (35 / 40, 1, "kim")
    assert "base_accuracy" not in row.metrics
    assert row.test_cases is not None
    assert [(case["id"], case["answer"]) for case in row.test_cases] == [(f"q{n}", "모름") for n in range(3)]
