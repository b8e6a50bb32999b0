"""The same cases put to several providers: accuracy, latency and cost beside each other.

Asking and scoring are those of evaluations (:mod:`tollgate.evaluation`). Providers are asked one after the other, so
that they do not take each other's time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from tollgate.errors import BadInputError, ServiceUnavailableError
from tollgate.evaluation.cases import Case, CaseResult
from tollgate.evaluation.runner import run_cases
from tollgate.evaluation.scorers import ScoredCase, score_results
from tollgate.evaluation.summary import EvaluationSummary, summarise
from tollgate.serving.providers import Endpoint

_MILLION = 1e6


class ProviderFigures(BaseModel):
    """One provider's outcome.

    Attributes:
        summary: Accuracy with its interval, categories and latencies; none where the provider failed.
        prompt_tokens: Of all cases, as the provider counts.
        completion_tokens: The same of its answers.
        cost: Of all cases at the provider's prices; none without prices or tokens.
        problem: Why there are no figures.
    """

    provider: str
    model: str
    summary: EvaluationSummary | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None
    problem: str | None = None

    @property
    def cost_of_thousand(self) -> float | None:
        """Cost of a thousand cases such as these."""
        if self.cost is None or self.summary is None or not self.summary.cases:
            return None
        return 1000 * self.cost / self.summary.cases


class Comparison(BaseModel):
    """All providers' outcomes on the same cases. ``answers`` are each provider's scored cases, by its name."""

    cases: int
    suite: str
    currency: str
    providers: list[ProviderFigures]
    answers: dict[str, list[ScoredCase]]

    def differing(self, most: int) -> list[str]:
        """Ids of up to so many cases that some providers have right and others wrong."""
        right: dict[str, set[bool]] = {}
        for scored in self.answers.values():
            for case in scored:
                right.setdefault(case.id, set()).add(case.correct)
        return [name for name, outcomes in right.items() if len(outcomes) > 1][:most]


@dataclass(frozen=True)
class Sampling:
    """How providers are asked.

    Args:
        concurrency: Requests at the same time.
        timeout: Seconds of one request.
        max_tokens: Longest answer.
        scorer: Name of the scorer; none: the one that suits the right answers.
        results: Folder in which answers are kept, so that a broken comparison goes on; none: they are not kept.
    """

    concurrency: int = 4
    timeout: float = 60.0
    max_tokens: int = 256
    scorer: str | None = None
    results: Path | None = field(default=None)


def compare(
    endpoints: Sequence[tuple[Endpoint, str]], cases: Sequence[Case], suite: str, currency: str, sampling: Sampling
) -> Comparison:
    """Put all cases to all providers.

    Args:
        endpoints: Providers ready for use, each with the model that it is asked for.
        cases: What to ask.
        suite: Name of the cases.
        currency: Of the prices.
        sampling: How.

    Returns:
        The outcomes in the same order; a provider that failed has its problem there.
    """
    figures, answers = [], {}
    for endpoint, model in endpoints:
        try:
            results = asyncio.run(_ask(endpoint, model, cases, sampling))
            answers[endpoint.name] = score_results(results, sampling.scorer)
        except (BadInputError, ServiceUnavailableError) as error:
            figures.append(ProviderFigures(provider=endpoint.name, model=model, problem=str(error)))
            continue
        figures.append(_figures(endpoint, model, results, answers[endpoint.name]))
    return Comparison(cases=len(cases), suite=suite, currency=currency, providers=figures, answers=answers)


async def _ask(endpoint: Endpoint, model: str, cases: Sequence[Case], sampling: Sampling) -> list[CaseResult]:
    results = sampling.results
    return await run_cases(
        endpoint.addresses[0],
        model,
        cases,
        concurrency=sampling.concurrency,
        timeout=sampling.timeout,
        max_tokens=sampling.max_tokens,
        api_key=endpoint.key,
        results_path=results / f"{endpoint.name}.jsonl" if results else None,
    )


def _figures(
    endpoint: Endpoint, model: str, results: Sequence[CaseResult], scored: Sequence[ScoredCase]
) -> ProviderFigures:
    prompt_tokens = _total([result.prompt_tokens for result in results])
    completion_tokens = _total([result.completion_tokens for result in results])
    return ProviderFigures(
        provider=endpoint.name,
        model=model,
        summary=summarise(scored),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cost=_cost(endpoint, prompt_tokens, completion_tokens),
    )


def _total(counts: Sequence[int | None]) -> int | None:
    """The sum; null where a provider does not say it of every case, for a part would look cheap."""
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _cost(endpoint: Endpoint, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
    if prompt_tokens is None or completion_tokens is None:
        return None
    if endpoint.prompt_price is None and endpoint.completion_price is None:
        return None
    price = prompt_tokens * (endpoint.prompt_price or 0.0) + completion_tokens * (endpoint.completion_price or 0.0)
    return price / _MILLION
