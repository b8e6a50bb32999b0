"""Fine-tune again by itself: when a dataset gets a new version, and every Monday night. Off until someone turns it on.

A run of `finetune` is started with the parameters below and the new version; its gates decide what becomes of it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Asset, AssetOrTimeSchedule, CronTriggerTimetable, Param, dag, task

from runs.policy import TASK_DEFAULTS

DATASET = Asset(name="training_dataset", uri="tollgate://datasets")
# By default, and with False too, Airflow makes up for the last Monday night when the DAG is first turned on within a
# tenth of the week after it: who wants new versions trained would find the GPUs taken at once. Ten minutes are enough
# for a scheduler that is late.
MONDAY_NIGHT = CronTriggerTimetable("0 2 * * 1", timezone="Asia/Seoul", run_immediately=timedelta(minutes=10))


@dag(
    schedule=AssetOrTimeSchedule(timetable=MONDAY_NIGHT, assets=[DATASET]),
    catchup=False,
    is_paused_upon_creation=True,
    max_active_runs=1,
    default_args=TASK_DEFAULTS,
    tags=["tollgate", "training"],
    doc_md=__doc__,
    params={
        "dataset": Param(
            "highway@latest",
            type="string",
            title="Dataset version",
            description="Used by the weekly run; after a new version, that version is used if it is of this dataset.",
        ),
        "finetune": Param(
            {}, type="object", title="Parameters of finetune", description="Those that differ from its defaults."
        ),
    },
)
def retrain() -> None:
    """Wire the trigger."""

    @task.short_circuit(ignore_downstream_trigger_rules=False)
    def choose(params: dict[str, Any], triggering_asset_events: Any) -> dict[str, Any] | None:
        """The parameters of the run to start; none where the new version is of another dataset."""
        from tollgate.workflow import retrain as work

        events = [event.extra for asset in triggering_asset_events.values() for event in asset]
        return work.parameters(params["dataset"], params["finetune"], events)

    chosen = choose()
    TriggerDagRunOperator(
        task_id="finetune",
        trigger_dag_id="finetune",
        trigger_run_id="retrain__{{ run_id }}",
        conf=chosen,
        skip_when_already_exists=True,
    )


retrain()
