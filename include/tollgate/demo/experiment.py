"""The demo's A/B test: how many simulated users ask how much, and the plan they are enough for."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from tollgate.experiments.plan import GUARDRAILS, ExperimentPlan

USERS_PER_ARM = 90
QUESTIONS_EACH = 15


class DemoExperiment(BaseModel):
    """Plan and crowd.

    A simulated user gives 5 to a right answer and 1 or 2 to a wrong one: the mean is ``1.5 + 3.5 accuracy``. Over 15
    questions a user's mean has a standard deviation of about 0.23 at an accuracy of 0.93.
    """

    model_config = ConfigDict(frozen=True)

    plan: ExperimentPlan = ExperimentPlan(
        minimum_effect=0.1,
        standard_deviation=0.23,
        users_per_arm=USERS_PER_ARM,
        maximum_days=7,
        guardrails=GUARDRAILS,
    )
    users: int = Field(210, description="Users of the first wave; chance splits them, so more than two full arms.")
    questions_each: int = Field(QUESTIONS_EACH, description="Questions a user asks and rates.")


EXPERIMENT = DemoExperiment()
