"""What a candidate must reach, and what the rules find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tollgate.errors import BadInputError, Problem


class Outcome(StrEnum):
    """The three values of a verdict."""

    PASS = "pass"  # noqa: S105
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"


SEVERITY = {Outcome.PASS: 0, Outcome.INCONCLUSIVE: 1, Outcome.FAIL: 2}


class VerdictSettings(BaseModel):
    """What a candidate must reach."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float = Field(0.90, gt=0, lt=1, description="Accuracy that must be exceeded.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="One-sided confidence of the lower bounds.")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="Level at which the candidate counts as worse.")
    margin: float = Field(0.02, gt=0, lt=1, description="So much below the champion's accuracy is still no worse.")
    minimum_cases: int = Field(100, ge=1, description="Fewer cases than this never pass.")
    empty_limit: float = Field(0.01, ge=0, le=1, description="Largest share of empty answers.")
    category_margin: float = Field(
        0.10, gt=0, lt=1, description="So much below the champion's accuracy in a category is still no worse."
    )
    category_floor: float | None = Field(
        0.50, gt=0, lt=1, description="Accuracy that no category may be significantly below; null: any."
    )
    category_cases: int = Field(10, ge=1, description="Categories with fewer cases are not judged by themselves.")
    latency_limit_ms: float | None = Field(
        None, gt=0, description="Largest 95th percentile of the milliseconds per case; null: any."
    )
    perplexity_limit: float | None = Field(None, gt=1, description="Largest perplexity of right answers; null: any.")
    perplexity_ratio: float | None = Field(
        None, gt=0, description="Largest perplexity as a multiple of the champion's; null: any."
    )
    judge_kappa: float = Field(
        0.60, gt=0, le=1, description="Cohen's kappa with people from which an LLM judge may decide alone."
    )
    judge_labels: int = Field(50, ge=1, description="Pairs that people must have labelled for that.")
    power: float = Field(
        0.80, gt=0.5, lt=1, description="Probability with which the cases said to be needed are enough."
    )


DEFAULT_SETTINGS = VerdictSettings()


def parse_settings(fields: Mapping[str, Any]) -> VerdictSettings:
    """The settings that these fields give.

    Raises:
        BadInputError: One problem for each field that is unknown or has a value that it cannot have.
    """
    try:
        return VerdictSettings.model_validate(dict(fields))
    except ValidationError as error:
        problems = [
            Problem(f"verdict.{'.'.join(map(str, fault['loc']))}", repr(fault["input"])[:200], fault["msg"])
            for fault in error.errors()
        ]
        raise BadInputError("The verdict's settings are not valid.", problems) from error


@dataclass(frozen=True)
class Finding:
    """What one rule found.

    Args:
        outcome: What it makes of the candidate, by itself.
        english: The reason in words.
        korean: The same in Korean.
        cases_in_all: So many cases would turn it into a pass, if the rates stay; none where no number would.
    """

    outcome: Outcome
    english: str
    korean: str
    cases_in_all: int | None = None
