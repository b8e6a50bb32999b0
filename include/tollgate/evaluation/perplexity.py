"""How well a model expects the right answers: their perplexity given the questions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, Field

from tollgate.evaluation.cases import CaseResult


class Perplexity(BaseModel):
    """The perplexity of some right answers.

    Attributes:
        value: At least 1; 1 is a model that knows every token beforehand. Comparable between models with the same
            tokenizer only.
        tokens: Tokens of the right answers, without their end.
        cases: Cases that were counted.
        refused: Cases that the server refused, for example as too long.
    """

    value: float = Field(ge=1)
    tokens: int
    cases: int
    refused: int


def perplexity(results: Sequence[CaseResult]) -> Perplexity | None:
    """``exp(-sum of log probabilities / number of tokens)`` over all right answers together.

    Args:
        results: Asked by way of ``perplexity``.

    Returns:
        None where no case has a token to count.
    """
    counted = [result for result in results if result.tokens]
    tokens = sum(sum(result.tokens) for result in counted)
    if not tokens:
        return None
    total = sum(sum(result.logprobs) for result in counted)
    refused = sum(result.error is not None for result in results)
    return Perplexity(value=max(1.0, math.exp(-total / tokens)), tokens=tokens, cases=len(counted), refused=refused)
