"""From a raw file to an immutable, gated, leak-free dataset version.

ingest → personal data → duplicates → quality → contamination → split → contract → version. Each gate is one task over
the run's work folder, so that a killed task can be run again with the same outcome. The new version triggers `retrain`,
if that is on.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Asset, Param, dag, get_current_context, task, teardown

from runs.notes import note_version
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
            description='For example {"min_quality": 0.6, "against": ["highway@latest"], '
            '"contamination_tests": ["/data/tests/cases.jsonl"], "fields": {"question": "문의", "answer": "답변"}}.',
            section="Gates",
        ),
    },
)
def prepare_dataset() -> None:
    """Wire the gates."""

    @task(multiple_outputs=False)
    def ingest(params: dict[str, Any], run_id: str) -> dict[str, Any]:
        """Read the source; broken rows go to quarantine."""
        from tollgate.gates import stages

        by = who(get_current_context())
        return stages.ingest(params["name"], params["source"], params["gates"], run_id, params["description"], by)

    @task(multiple_outputs=False)
    def mask_personal_data(stage: dict[str, Any]) -> dict[str, Any]:
        """Mask resident numbers, phone numbers, names and the like."""
        from tollgate.gates import stages

        return stages.mask_personal_data(stage)

    @task(multiple_outputs=False)
    def drop_duplicates(stage: dict[str, Any]) -> dict[str, Any]:
        """Drop exact and near duplicates, keeping the best of each group."""
        from tollgate.gates import stages

        return stages.drop_duplicates(stage)

    @task(multiple_outputs=False)
    def score_quality(stage: dict[str, Any]) -> dict[str, Any]:
        """Drop rows of low quality, and toxic ones."""
        from tollgate.gates import stages

        return stages.score_quality(stage)

    @task(multiple_outputs=False)
    def check_contamination(stage: dict[str, Any]) -> dict[str, Any]:
        """Drop training rows that overlap with the test sets that the settings name."""
        from tollgate.gates import stages

        return stages.check_contamination(stage)

    @task(multiple_outputs=False)
    def split(stage: dict[str, Any]) -> dict[str, Any]:
        """Plan training, validation and test, by cluster and category."""
        from tollgate.gates import stages

        return stages.split(stage)

    @task(multiple_outputs=False)
    def check_contract(stage: dict[str, Any]) -> dict[str, Any]:
        """Hold what would be written against the contract (Great Expectations)."""
        from tollgate.gates import stages

        return stages.check_contract(stage)

    @task(outlets=[DATASET], multiple_outputs=False)
    def write_version(stage: dict[str, Any], outlet_events: Any) -> dict[str, Any]:
        """Write the immutable version, its report and its records; announce it, and note where the report is."""
        from tollgate.gates import stages

        version = stages.write_version(stage)
        outlet_events[DATASET].extra = {"dataset": version["reference"]}
        note_version(get_current_context(), version)
        return version

    @teardown
    def discard_work(stage: dict[str, Any]) -> None:
        """Delete the work files, which hold personal data."""
        from tollgate.gates import stages

        stages.discard(stage)

    ingested = ingest()
    good = check_contamination(score_quality(drop_duplicates(mask_personal_data(ingested))))
    written = write_version(check_contract(split(good)))
    written >> discard_work(ingested).as_teardown(setups=ingested)


prepare_dataset()
