"""Which errors are worth another try: a service that is down is, an input that is wrong is not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from runs.notes import note_failure

RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=[
                "tollgate.errors.BadInputError",
                "tollgate.errors.GateRefusedError",
                "tollgate.registry.lifecycle.StageConflictError",
            ],
            action=RetryAction.FAIL,
            reason="The same input would be refused again.",
        ),
        RetryRule(
            exception=["tollgate.errors.ServiceUnavailableError", "builtins.ConnectionError", "builtins.TimeoutError"],
            action=RetryAction.RETRY,
            retry_delay=timedelta(seconds=20),
            reason="A service did not answer; it may be back.",
        ),
    ],
)

TASK_DEFAULTS: dict[str, Any] = {
    "retries": 3,
    "retry_delay": timedelta(seconds=10),
    "retry_policy": RETRY_POLICY,
    "on_failure_callback": note_failure,
}
"""``default_args`` of all of Tollgate's DAGs."""
