"""The client against a server that speaks Airflow's REST interface."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.stack.conftest import free_port
from tests.unit.stack.fake_airflow import PASSWORD, FakeAirflow

from tollgate.errors import BadInputError, ServiceUnavailableError
from tollgate.stack.airflow_api import AirflowApi


@pytest.fixture
def airflow() -> Iterator[FakeAirflow]:
    with FakeAirflow() as airflow:
        yield airflow


@pytest.fixture
def api(airflow: FakeAirflow) -> AirflowApi:
    return AirflowApi(airflow.address, "admin", PASSWORD)


def test_one_login_serves_until_its_token_runs_out(airflow: FakeAirflow, api: AirflowApi) -> None:
    assert api.trigger("finetune", {"epochs": 1}) == "manual__1"
    assert api.trigger("finetune", {}, run_id="mine") == "mine"
    assert airflow.logins == 1
    airflow.tokens.clear()
    api.unpause("finetune")
    assert airflow.logins == 2
    conf = {"logical_date": None, "conf": {"epochs": 1}}
    assert airflow.written("POST")[0] == ("/api/v2/dags/finetune/dagRuns", conf)
    assert airflow.written("PATCH")[-1] == ("/api/v2/dags/finetune", {"is_paused": False})


def test_a_wrong_password_is_bad_input_and_does_not_stand_in_its_text(airflow: FakeAirflow) -> None:
    with pytest.raises(BadInputError, match=r"POST /auth/token: found status 401") as refused:
        AirflowApi(airflow.address, "admin", "wrong-password").run("finetune", "run")
    assert "wrong-password" not in str(refused.value)
    assert airflow.requests == []


def test_what_the_form_refuses_is_told_in_airflows_words(airflow: FakeAirflow, api: AirflowApi) -> None:
    airflow.refusal = (422, '{"detail": "epochs: -1 is less than the minimum"}')
    with pytest.raises(BadInputError, match="epochs: -1 is less than the minimum"):
        api.trigger("finetune", {"epochs": -1})


@pytest.mark.parametrize(
    ("refusal", "words"),
    [((503, "the database is away"), "503 to GET .*the database is away"), ((200, "<html>"), "is not Airflow")],
)
def test_a_server_in_trouble_is_worth_a_retry(
    airflow: FakeAirflow, api: AirflowApi, refusal: tuple[int, str], words: str
) -> None:
    airflow.refusal = refusal
    for ask in (lambda: api.run("finetune", "run"), lambda: api.result("finetune", "run", "train")):
        with pytest.raises(ServiceUnavailableError, match=words):
            ask()


def test_an_airflow_that_is_away_is_worth_a_retry() -> None:
    with pytest.raises(ServiceUnavailableError, match="did not answer"):
        AirflowApi(f"http://127.0.0.1:{free_port()}", "admin", PASSWORD).has_dag("finetune")


def test_what_is_there_and_what_is_not(airflow: FakeAirflow, api: AirflowApi) -> None:
    airflow.results = {("look", 1): {"name": "second"}, ("none", -1): None}
    assert (api.has_dag("finetune"), api.has_dag("nothing")) == (True, False)
    assert api.import_errors() == {"broken.py": "SyntaxError"}
    assert api.result("analyze_experiments", "run", "look", 1) == {"name": "second"}
    assert api.result("analyze_experiments", "run", "look", 2) is None


def test_a_log_shows_messages_and_what_went_wrong(airflow: FakeAirflow, api: AirflowApi) -> None:
    error = {"exc_type": "BadInputError", "exc_value": "no such dataset"}
    airflow.log_lines = [{"event": "starting"}, {"event": "failed", "error_detail": [error]}, "plain"]
    assert api.log("finetune", "run", "validate") == "starting\nfailed\nBadInputError: no such dataset\nplain"


def test_a_note_is_cut_to_what_airflow_keeps(airflow: FakeAirflow, api: AirflowApi) -> None:
    api.set_note("finetune", "run", "가" * 2000)
    assert airflow.written("PATCH") == [("/api/v2/dags/finetune/dagRuns/run", {"note": "가" * 1000})]


def test_an_open_question_is_answered_with_a_reason(airflow: FakeAirflow, api: AirflowApi) -> None:
    def question(task_id: str, answered: bool) -> dict[str, Any]:
        task = {"dag_id": "finetune", "dag_run_id": "run", "task_id": task_id, "map_index": -1}
        return {"subject": task_id, "task_instance": task, "response_received": answered}

    airflow.questions = [question("earlier", True), question("approval", False)]
    [found] = api.open_questions("finetune", "run")
    api.answer_question(found, "Approve", {"reason": "seen"})
    path = "/api/v2/dags/finetune/dagRuns/run/taskInstances/approval/-1/hitlDetails"
    assert airflow.written("PATCH") == [(path, {"chosen_options": ["Approve"], "params_input": {"reason": "seen"}})]
    assert list(api.open_questions("finetune", "run")) == []


def test_waiting_ends_with_the_run_and_shows_every_look(
    airflow: FakeAirflow, api: AirflowApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    airflow.polls = [[{"task_id": "validate"}], [{"task_id": "train"}]]
    seen: list[Any] = []
    assert api.wait("finetune", "run", 60, seen.append) == "success"
    assert seen == [[{"task_id": "validate"}], [{"task_id": "train"}]]


def test_waiting_has_an_end(api: AirflowApi) -> None:
    with pytest.raises(ServiceUnavailableError, match="has not ended within 0 s"):
        api.wait("finetune", "run", 0)
