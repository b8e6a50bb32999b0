"""Asking a person whether an inconclusive candidate is released."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLBranchOperator
from airflow.sdk import Param

from reports.links import evaluation_path

if TYPE_CHECKING:
    from airflow.sdk import Context

APPROVE, REJECT = "Approve", "Reject"
ANSWER = "answer"
"""XCom key of the person's answer: ``chosen_options``, ``params_input``, ``responded_by_user``, ``responded_at``."""

BODY = (
    """
{% set v = ti.xcom_pull(task_ids='candidate.verdict') %}
The evaluation neither proves nor rules out that the candidate is good enough. Your answer is kept in its history.
평가 결과만으로는 후보 모델이 기준을 충족하는지 확정할 수 없습니다. 답변은 모델 이력에 기록됩니다.

[Report · 평가 보고서]("""
    + evaluation_path("{{ ti.xcom_pull(task_ids='validate')['name'] }}")
    + """)

| | |
|---|---|
| Accuracy · 정확도 | {{ '%.4f' % v['accuracy'] }} ({{ v['correct'] }} / {{ v['cases'] }}) |
| Lower 95 % bound · 하한 | {{ '%.4f' % v['lower_bound'] }} (required · 기준: {{ v['threshold'] }}) |
| More cases needed · 추가 필요 사례 | {{ v['cases_needed'] or '–' }} |

{% for reason in v['reasons'] %}- {{ reason }}
{% endfor %}
{% for reason in v['reasons_ko'] %}- {{ reason }}
{% endfor %}
"""
)


class ReleaseApprovalOperator(HITLBranchOperator):
    """Shows a person the verdict and goes on with the branch that the answer names; keeps who answered and why.

    Args:
        approve: Task that follows on *Approve*.
        reject: Task that follows on *Reject*.
        **kwargs: ``response_timeout`` and all else of a task.
    """

    def __init__(self, *, approve: str, reject: str, **kwargs: Any) -> None:
        # Airflow hands every operator the DAG's parameters; the form of this question has one field of its own.
        kwargs["params"] = {"reason": Param("", type="string", title="Why", description="Kept in the model's history.")}
        super().__init__(
            subject="{{ ti.xcom_pull(task_ids='candidate.serve')['served_name'] }}: inconclusive. Release it?",
            body=BODY,
            options=[APPROVE, REJECT],
            options_mapping={APPROVE: approve, REJECT: reject},
            **kwargs,
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Keep the answer, then branch."""
        answer = {key: event.get(key) for key in ("chosen_options", "params_input", "responded_by_user")}
        at = event.get("responded_at")
        answer["responded_at"] = at.isoformat() if isinstance(at, dt.datetime) else at
        context["ti"].xcom_push(key=ANSWER, value=answer)
        return super().execute_complete(context, event)
