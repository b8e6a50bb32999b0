"""Figures of an evaluation beside its cases: perplexity, consistency of form, and what an LLM judge said."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from tollgate.evaluation.llm_judge import Agreement, Preference
from tollgate.evaluation.perplexity import Perplexity
from tollgate.evaluation.summary import Share


class PreferenceCounts(BaseModel):
    """How often the judge found the candidate's answer better than the champion's.

    Attributes:
        ties: Pairs without a preference, those among them where the two orders disagreed.
        disagreed: Pairs where the two orders gave different answers.
        unreadable: Pairs where the judge did not answer with one of its letters.
    """

    wins: int
    ties: int
    losses: int
    disagreed: int
    unreadable: int


class FurtherFigures(BaseModel):
    """What was measured beside the cases; none: it was not.

    Attributes:
        harness: lm-evaluation-harness' own figures (``acc``, ``acc_norm``, ``f1``), in [0, 1], by task.
    """

    perplexity: Perplexity | None = None
    champion_perplexity: Perplexity | None = None
    consistency: Share | None = None
    judge: Agreement | None = None
    preferences: PreferenceCounts | None = None
    harness: dict[str, dict[str, float]] | None = None


def count_preferences(preferences: Sequence[Preference]) -> PreferenceCounts:
    """Count up what the judge said."""
    outcomes = [preference.outcome for preference in preferences]
    return PreferenceCounts(
        wins=outcomes.count("win"),
        ties=outcomes.count("tie"),
        losses=outcomes.count("loss"),
        disagreed=sum(not preference.agreed for preference in preferences),
        unreadable=sum(not preference.readable for preference in preferences),
    )
