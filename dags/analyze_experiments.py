"""One look at every running A/B test: continue, promote the challenger, roll it back, or hold.

First everything is brought to the wanted state: a vLLM replica that restarted empty gets its adapters back, rollouts
that nobody follows go on, and hand edits in MLflow are undone.

Significance is asked at the plan's looks, which share alpha; a plan with one look asks once, when both arms have the
planned number of users. Guardrails may roll a challenger back at every run. The rules stand in docs/experiments.md, the
reports under Browse, Experiments.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import CronTriggerTimetable, dag, get_current_context, task

from runs.database import first_column
from runs.people import who
from runs.policy import TASK_DEFAULTS
from vllm_rollout.operators import ReconcileOperator


@dag(
    schedule=CronTriggerTimetable("*/15 * * * *", timezone="Asia/Seoul"),
    catchup=False,
    max_active_runs=1,
    default_args=TASK_DEFAULTS,
    tags=["tollgate", "experiments"],
    doc_md=__doc__,
)
def analyze_experiments() -> None:
    """Wire the looks."""

    reconcile = ReconcileOperator(task_id="reconcile_replicas")

    @task
    def reconcile_registry() -> dict[str, Any]:
        """Rollouts that nobody follows, and MLflow's aliases, tags and versions."""
        from tollgate.workflow.reconcile import reconcile_registry as work

        return work(who(get_current_context())).model_dump(mode="json")

    running = SQLExecuteQueryOperator(
        task_id="running",
        conn_id="tollgate",
        sql="SELECT id FROM ab_experiments WHERE status = 'running' ORDER BY id",
        handler=first_column,
    )

    @task
    def look(experiment_id: int, run_id: str) -> dict[str, Any]:
        """Users' means, Welch's t, Mann-Whitney's U, the interval, the checks, the guardrails, and the decision."""
        from tollgate.workflow import experiments

        return experiments.look(experiment_id, run_id)

    @task
    def act(outcome: dict[str, Any]) -> dict[str, Any]:
        """Move the route and the stages, if the decision is final."""
        from tollgate.workflow import experiments

        return experiments.act(outcome, who(get_current_context()))

    reconcile_registry()
    reconcile >> running
    act.expand(outcome=look.expand(experiment_id=running.output))


analyze_experiments()
