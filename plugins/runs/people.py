"""Who is behind a run: kept with everything that a run changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import Context


def who(context: Context) -> str:
    """The user who triggered the run, or the run itself where a schedule or an asset did."""
    run = context["dag_run"]
    user = getattr(run, "triggering_user_name", None)
    return str(user) if user else f"{run.dag_id}/{run.run_id}"
