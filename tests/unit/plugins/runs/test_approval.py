from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
from airflow.sdk import DAG

from runs.approval import ANSWER, ReleaseApprovalOperator
from tollgate.evaluation.scorers import ScoredCase
from tollgate.evaluation.verdict import judge


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> ReleaseApprovalOperator:
    """The operator in a DAG; the branch that Airflow would take is its result, for skipping needs a server."""
    monkeypatch.setattr(
        ReleaseApprovalOperator, "do_branch", lambda _, context, branches_to_execute: branches_to_execute
    )
    with DAG("test", schedule=None, params={"epochs": 3}):
        return ReleaseApprovalOperator(task_id="approval", approve="release.choose", reject="refuse")


class TaskInstance(SimpleNamespace):
    """Keeps what is pushed, and hands out what earlier tasks pushed."""

    def __init__(self, **results: Any) -> None:
        super().__init__(results=results, pushed={})

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(self, task_ids: str) -> Any:
        return self.results[task_ids]


def event(**changes: Any) -> dict[str, Any]:
    said = {
        "chosen_options": ["Approve"],
        "params_input": {"reason": "충분히 검토함"},
        "responded_by_user": {"id": "7", "name": "lee"},
        "responded_at": dt.datetime(2026, 7, 1, 9, tzinfo=dt.UTC),
    }
    return said | changes


@pytest.mark.parametrize(("option", "branch"), [("Approve", "release.choose"), ("Reject", "refuse")])
def test_the_answer_decides_the_branch_and_stays_with_its_author(
    operator: ReleaseApprovalOperator, option: str, branch: str
) -> None:
    ti = TaskInstance()
    assert operator.execute_complete({"ti": ti}, event(chosen_options=[option])) == [branch]  # type: ignore[typeddict-item]
    assert ti.pushed[ANSWER] == {
        "chosen_options": [option],
        "params_input": {"reason": "충분히 검토함"},
        "responded_by_user": {"id": "7", "name": "lee"},
        "responded_at": "2026-07-01T09:00:00+00:00",
    }


def test_an_answer_without_a_reason_is_an_answer(operator: ReleaseApprovalOperator) -> None:
    ti = TaskInstance()
    assert operator.execute_complete({"ti": ti}, event(params_input={})) == ["release.choose"]  # type: ignore[typeddict-item]


def test_what_is_no_answer_releases_nothing(operator: ReleaseApprovalOperator) -> None:
    with pytest.raises(ValueError, match="Responses"):
        operator.execute_complete({"ti": TaskInstance()}, event(chosen_options=["Perhaps"]))  # type: ignore[typeddict-item]


def test_the_form_asks_for_the_reason_alone(operator: ReleaseApprovalOperator) -> None:
    assert list(operator.serialized_params) == ["reason"]


def test_the_question_shows_the_verdict_in_both_languages(operator: ReleaseApprovalOperator) -> None:
    cases = [ScoredCase(id=str(number), answer="x", correct=number > 6) for number in range(100)]
    verdict = judge(cases)
    ti = TaskInstance(
        validate={"name": "router-0123"},
        **{"candidate.verdict": verdict.model_dump(mode="json"), "candidate.serve": {"served_name": "router@v2"}},
    )
    subject, body = (jinja2.Template(text).render(ti=ti) for text in (operator.subject, operator.body or ""))
    assert subject == "router@v2: inconclusive. Release it?"
    assert "| 0.9300 (93 / 100) |" in body
    assert "](/tollgate/evaluations/router-0123)" in body
    assert f"| {verdict.cases_needed} |" in body
    for reason in (*verdict.reasons, *verdict.reasons_ko):
        assert f"- {reason}" in body
