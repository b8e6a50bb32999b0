"""What a gate did with the rows it was given, and the account that no row got lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tollgate.errors import TollgateError

Stage = Literal["ingest", "personal_data", "duplicates", "quality", "contamination", "split", "contract"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""The steps in their order."""


class ConservationError(TollgateError):
    """A step lost a row or counted one twice: a fault in the program, never in the data."""


class StageResult(BaseModel):
    """What one step did. Small, and free of personal data, so that it can travel between tasks."""

    model_config = ConfigDict(frozen=True)

    stage: Stage
    rows_in: int = Field(ge=0)
    rows_kept: int = Field(ge=0)
    dropped: dict[str, int] = Field(default_factory=dict, description="Rows dropped, by reason.")
    quarantined: int = Field(0, ge=0, description="Rows that could not be read.")
    masked: dict[str, int] = Field(default_factory=dict, description="Pieces of personal data masked, by kind.")
    details: dict[str, Any] = Field(default_factory=dict, description="What else the step found, as JSON values.")

    @model_validator(mode="after")
    def _conserves_rows(self) -> Self:
        accounted = self.rows_kept + sum(self.dropped.values()) + self.quarantined
        if self.rows_in != accounted:
            raise ConservationError(f"{self.stage}: {self.rows_in} rows in, but {accounted} accounted for")
        return self


def summarise(results: Sequence[StageResult]) -> dict[str, Any]:
    """Add up the steps of a run that begins with ``ingest``, and check that no row got lost on the way.

    Returns:
        JSON values: ``rows_in``, ``rows_kept``, ``quarantined``, ``dropped`` by reason and ``masked`` by kind.

    Raises:
        ConservationError: A step began with another number of rows than the one before left, or the sum is off.
    """
    for before, after in pairwise(results):
        if before.rows_kept != after.rows_in:
            raise ConservationError(f"{before.stage} left {before.rows_kept} rows, {after.stage} got {after.rows_in}")
    dropped: Counter[str] = Counter()
    masked: Counter[str] = Counter()
    for result in results:
        dropped.update(result.dropped)
        masked.update(result.masked)
    rows_in, rows_kept = results[0].rows_in, results[-1].rows_kept
    quarantined = sum(result.quarantined for result in results)
    if rows_in != rows_kept + quarantined + sum(dropped.values()):
        raise ConservationError(
            f"{rows_in} rows in, {rows_kept} kept, {quarantined} quarantined, {dict(dropped)} dropped"
        )
    return {
        "rows_in": rows_in,
        "rows_kept": rows_kept,
        "quarantined": quarantined,
        "dropped": dict(dropped),
        "masked": dict(masked),
    }
