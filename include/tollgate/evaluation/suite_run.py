"""A suite put to a model: everything asked, scored, counted and kept in one folder, and resumed there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from tollgate.errors import BadInputError, Problem
from tollgate.evaluation.cases import CaseResult, write_json_lines
from tollgate.evaluation.consistency import format_consistency, repeated, with_repeats
from tollgate.evaluation.further import FurtherFigures, count_preferences
from tollgate.evaluation.llm_judge import (
    Agreement,
    Judge,
    LabelledPair,
    Pair,
    Preference,
    agreement,
    apply_preferences,
    prefer,
)
from tollgate.evaluation.perplexity import perplexity
from tollgate.evaluation.runner import run_cases
from tollgate.evaluation.scorers import JUDGE, ScoredCase, find_scorer, score_results
from tollgate.evaluation.suites import Suite

Progress = Callable[[CaseResult], None]


class Asking(BaseModel):
    """How a suite is put to a model.

    Attributes:
        server: The server's address.
        model: Name that it is served under.
        api_key: Sent as bearer token.
        concurrency: Requests at a time.
        max_tokens: Longest answer.
        temperature: 0 takes the likeliest token each time.
        repeats: How often each case is asked, to see whether the form of the answers stays.
        perplexity: Whether the right answers' perplexity is measured too.
        scorer: For cases that name none; none: the one that suits all right answers.
    """

    model_config = ConfigDict(frozen=True)

    server: str
    model: str
    api_key: str | None = Field(None, repr=False)
    concurrency: int = Field(32, ge=1)
    max_tokens: int = Field(256, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    repeats: int = Field(1, ge=1, le=20)
    perplexity: bool = False
    scorer: str | None = None


class SuiteOutcome(BaseModel):
    """What came out: the scored cases in the suite's order, and the figures beside them."""

    cases: list[ScoredCase]
    further: FurtherFigures


def run_suite(
    suite: Suite,
    asking: Asking,
    folder: Path,
    judge: Judge | None = None,
    labelled: Sequence[LabelledPair] = (),
    champion: Sequence[ScoredCase] = (),
    on_result: Progress | None = None,
) -> SuiteOutcome:
    """Ask, score and count a suite; ``cases.jsonl`` in the folder is what ``tollgate verdict`` reads.

    Args:
        suite: What is asked.
        asking: Of whom, and how.
        folder: Keeps every answer as it comes; a run that broke off goes on from there.
        judge: Scores the cases whose scorer is ``judge``, and compares with the champion.
        labelled: Pairs that people compared, to measure the judge by.
        champion: The champion's scored cases.
        on_result: Called with every result, those of an earlier run first.

    Raises:
        BadInputError: The server does not serve the model, or cannot be asked in this way.
        ServiceUnavailableError: It could not be reached, or kept failing; what was answered is kept.
    """
    return asyncio.run(_run_suite(suite, asking, folder, judge, labelled, champion, on_result))


async def _run_suite(
    suite: Suite,
    asking: Asking,
    folder: Path,
    judge: Judge | None,
    labelled: Sequence[LabelledPair],
    champion: Sequence[ScoredCase],
    on_result: Progress | None,
) -> SuiteOutcome:
    cases = await _scored(suite, asking, folder, on_result)
    further = FurtherFigures(consistency=format_consistency(cases))
    if asking.perplexity:
        further.perplexity = perplexity(await _expected(suite, asking, folder, on_result))
    if judge is not None:
        cases = await _judge_cases(judge, cases, folder, on_result)
        further.judge = await _measure_judge(judge, labelled, folder, on_result)
        preferences = await _compare(judge, cases, champion, folder, on_result)
        further.preferences = count_preferences(preferences) if preferences else None
    write_json_lines(folder / "cases.jsonl", cases)
    return SuiteOutcome(cases=cases, further=further)


async def _scored(suite: Suite, asking: Asking, folder: Path, on_result: Progress | None) -> list[ScoredCase]:
    times = asking.repeats if suite.way == "generate" else 1
    results = await run_cases(
        asking.server,
        asking.model,
        repeated(suite.cases, times),
        concurrency=asking.concurrency,
        max_tokens=asking.max_tokens,
        temperature=asking.temperature,
        results_path=folder / "answers.jsonl",
        api_key=asking.api_key,
        way=suite.way,
        on_result=on_result,
    )
    first, further = with_repeats(results)
    scored = score_results(first, asking.scorer)
    return [case.model_copy(update={"repeats": further.get(case.id, ())}) for case in scored]


async def _expected(suite: Suite, asking: Asking, folder: Path, on_result: Progress | None) -> list[CaseResult]:
    return await run_cases(
        asking.server,
        asking.model,
        suite.cases,
        concurrency=asking.concurrency,
        results_path=folder / "perplexity.jsonl",
        api_key=asking.api_key,
        way="perplexity",
        on_result=on_result,
    )


async def _judge_cases(
    judge: Judge, cases: list[ScoredCase], folder: Path, on_result: Progress | None
) -> list[ScoredCase]:
    """Let the judge compare with the right answer where a case asks for it."""
    pairs = [
        Pair(id=case.id, messages=case.messages, first=case.answer or "", second=case.expected or "")
        for case in cases
        if case.scorer == JUDGE
    ]
    return apply_preferences(cases, await prefer(judge, pairs, folder / "judge.jsonl", on_result))


async def _measure_judge(
    judge: Judge, labelled: Sequence[LabelledPair], folder: Path, on_result: Progress | None
) -> Agreement | None:
    if not labelled:
        return None
    pairs = [pair.pair for pair in labelled]
    return agreement(await prefer(judge, pairs, folder / "judge-labels.jsonl", on_result), labelled)


async def _compare(
    judge: Judge,
    cases: Sequence[ScoredCase],
    champion: Sequence[ScoredCase],
    folder: Path,
    on_result: Progress | None,
) -> list[Preference]:
    """Let the judge compare the candidate's answers with the champion's to the same questions."""
    others = {case.id: case.answer or "" for case in champion}
    pairs = [
        Pair(id=case.id, messages=case.messages, first=case.answer or "", second=others[case.id])
        for case in cases
        if case.id in others and case.messages
    ]
    return await prefer(judge, pairs, folder / "judge-champion.jsonl", on_result)


def check_scorers(suite: Suite, general: str | None) -> None:
    """See that the suite's general scorer is there, before anything is asked.

    Raises:
        BadInputError: There is none of that name.
    """
    if general is not None and general != JUDGE and any(case.scorer is None for case in suite.cases):
        find_scorer(general)


def check_judge(suite: Suite, asking: Asking, judge: Judge | None) -> None:
    """See that there is a judge where a case is to be scored by one.

    Raises:
        BadInputError: There is none.
    """
    if judge is not None:
        return
    wanting = next((case for case in suite.cases if (case.scorer or asking.scorer) == JUDGE), None)
    if wanting is not None:
        problem = Problem(f"case {wanting.id}, scorer", repr(JUDGE), "a judge's address and name, or another scorer")
        raise BadInputError("The suite needs an LLM judge.", [problem])


def requests_of(suite: Suite, asking: Asking, judge: Judge | None, labelled: int, champion: int) -> int:
    """How many results a run reports, for its progress."""
    count = len(suite.cases) * (asking.repeats if suite.way == "generate" else 1)
    count += len(suite.cases) if asking.perplexity else 0
    if judge is not None:
        scored = sum((case.scorer or asking.scorer) == JUDGE for case in suite.cases)
        count += 2 * (scored + labelled + min(champion, len(suite.cases)))
    return count
