from __future__ import annotations

from datetime import timedelta

import pytest
from airflow.sdk import ExceptionRetryPolicy, RetryAction

from runs.notes import note_failure
from runs.policy import RETRY_POLICY, TASK_DEFAULTS
from tollgate.errors import BadInputError, GateRefusedError, ServiceUnavailableError
from tollgate.registry.lifecycle import StageConflictError
from tollgate.serving.adapter import AdapterRankError
from tollgate.serving.client import ProbeFailedError


@pytest.mark.parametrize(
    ("error", "action", "delay"),
    [
        (BadInputError("wrong"), RetryAction.FAIL, None),
        (AdapterRankError("too large"), RetryAction.FAIL, None),
        (GateRefusedError("no"), RetryAction.FAIL, None),
        (ProbeFailedError("empty"), RetryAction.FAIL, None),
        (StageConflictError("router@v1", "staging", "archived"), RetryAction.FAIL, None),
        (ServiceUnavailableError("down"), RetryAction.RETRY, timedelta(seconds=20)),
        (ConnectionResetError("broken"), RetryAction.RETRY, timedelta(seconds=20)),
        (TimeoutError("late"), RetryAction.RETRY, timedelta(seconds=20)),
        (RuntimeError("unforeseen"), RetryAction.DEFAULT, None),
    ],
)
def test_each_error_is_retried_or_not(error: Exception, action: RetryAction, delay: timedelta | None) -> None:
    """Also after the policy has travelled in a serialized DAG, where a wrong name would match nothing."""
    for policy in (RETRY_POLICY, ExceptionRetryPolicy.deserialize(RETRY_POLICY.serialize())):
        decision = policy.evaluate(error, 1, 3)
        assert (decision.action, decision.retry_delay) == (action, delay)


def test_every_task_says_why_it_failed() -> None:
    assert TASK_DEFAULTS["on_failure_callback"] is note_failure
    assert TASK_DEFAULTS["retry_policy"] is RETRY_POLICY
