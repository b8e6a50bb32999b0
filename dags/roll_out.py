"""A version takes over its route by steps, or gives it back.

``begin`` gives it the first share; ``follow`` looks at errors, empty answers and latency at the gateway until the
version has the whole route, or lost it. Too few users: it waits, for as long as it takes. With the action ``roll_back``
the run leaves the version at once. Nothing is kept here: where this run dies the share stays, and a new run with the
same version goes on.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, get_current_context, task

from runs.notes import write_note
from runs.people import who
from runs.policy import TASK_DEFAULTS
from vllm_rollout.sensors import RolloutSensor


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=8,
    default_args=TASK_DEFAULTS,
    tags=["tollgate", "serving"],
    doc_md=__doc__,
    params={
        "action": Param("roll_out", type="string", enum=["roll_out", "roll_back"], title="Action"),
        "version": Param(
            None,
            type=["null", "string"],
            pattern=r"^[a-z0-9][a-z0-9._-]{0,99}@v[1-9][0-9]*$",
            title="Version",
            description="For example highway-router@v3: the one to roll out, or the one to leave.",
        ),
        "why": Param("", type="string", title="Reason", description="Kept in the history."),
        "plan": Param(
            {}, type="object", title="Plan", description="Fields of CanaryPlan that differ: steps, dwell_seconds, …"
        ),
    },
)
def roll_out() -> None:
    """Wire the steps."""

    @task.branch
    def choose(params: dict[str, Any]) -> str:
        """Fork by the action."""
        return "roll_back" if params["action"] == "roll_back" else "begin"

    @task
    def roll_back(params: dict[str, Any]) -> dict[str, Any]:
        """Leave the version, in one transaction."""
        from tollgate.workflow import rollouts

        return rollouts.leave(params["version"], params["why"], who(get_current_context()))

    @task
    def begin(params: dict[str, Any]) -> dict[str, Any]:
        """Load the version, look at its answers, and give it the first share."""
        from tollgate.workflow import rollouts

        by = who(get_current_context())
        return rollouts.begin(params["version"], params["why"], by, params["plan"]).model_dump(mode="json")

    @task
    def tell(ended: dict[str, Any]) -> None:
        """Write the outcome into the run's note; a run whose version was rolled back is red, with the reason."""
        from tollgate.workflow import rollouts

        write_note(get_current_context(), rollouts.outcome(ended))

    begun = begin()
    choose() >> [begun, roll_back()]
    follow = RolloutSensor(
        task_id="follow", rollout=begun, poke_interval=30, timeout=timedelta(days=30).total_seconds()
    )
    tell(follow.output)


roll_out()
