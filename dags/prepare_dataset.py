"""From a raw file to an immutable, gated, leak-free dataset version.

ingest → personal data → duplicates → quality → contract → split and version. Each gate is one task over the run's work
folder, so that a killed task can be run again with the same outcome. The new version triggers `retrain`, if that is on.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Asset, Param, chain, dag, get_current_context, task, teardown

from runs.people import who
from runs.policy import TASK_DEFAULTS

DATASET = Asset(name="training_dataset", uri="tollgate://datasets")


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=4,
    default_args=TASK_DEFAULTS,
    tags=["tollgate", "data"],
    doc_md=__doc__,
    params={
        "name": Param(
            "highway",
            type="string",
            pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$",
            title="Dataset",
            description="Small letters, digits, dot, dash. A name that exists gets its next version.",
            section="Source",
        ),
        "source": Param(
            "/data/raw/messages.jsonl",
            type="string",
            minLength=1,
            title="Source file",
            description="Absolute path of a JSON, JSONL, Parquet, CSV or TSV file on the worker.",
            section="Source",
        ),
        "description": Param("", type=["string", "null"], title="Description", section="Source"),
        "gates": Param(
            {},
            type="object",
            title="Gate settings that differ from the defaults",
            description='For example {"min_quality": 0.6, "max_broken_share": 0.05}.',
            section="Gates",
        ),
    },
)
def prepare_dataset() -> None:
    """Wire the gates."""

    @task
    def ingest(params: dict[str, Any], run_id: str) -> dict[str, Any]:
        """Read the source; broken rows go to quarantine."""
        from tollgate.workflow import prepare

        return prepare.ingest(params["name"], params["source"], params["gates"], run_id)

    @task
    def run_gate(params: dict[str, Any], run_id: str) -> dict[str, Any]:
        """Run the gate that the task is named after."""
        from tollgate.workflow import prepare

        return prepare.run_gate(get_current_context()["ti"].task_id, params["gates"], run_id)

    @task(outlets=[DATASET])
    def split_and_write(params: dict[str, Any], run_id: str, outlet_events: Any) -> dict[str, Any]:
        """Split by cluster and category, write the version, announce it."""
        from tollgate.workflow import prepare

        by = who(get_current_context())
        version = prepare.split_and_write(params["name"], params["gates"], run_id, by, params["description"])
        outlet_events[DATASET].extra = {"dataset": version["reference"]}
        return version

    @teardown
    def discard_work(run_id: str) -> None:
        """Delete the work files, which hold personal data."""
        from tollgate.workflow import prepare

        prepare.discard_work(run_id)

    gates = ("mask_personal_data", "drop_duplicates", "score_quality", "check_contract")
    steps = [ingest(), *(run_gate.override(task_id=gate)() for gate in gates), split_and_write()]
    chain(*steps)
    steps[-1] >> discard_work().as_teardown(setups=steps[0])


prepare_dataset()
