"""Airflow's REST interface, as far as Tollgate uses it: start runs, follow them, answer approvals, write notes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from tollgate.errors import BadInputError, Problem, ServiceUnavailableError

FINISHED = frozenset({"success", "failed"})
"""The states in which a DAG run has ended."""


class AirflowApi:
    """A client of one Airflow server, logged in as one user.

    Args:
        address: Base address, for example ``http://127.0.0.1:8080``.
        user: Name of the Airflow user.
        password: That user's password.
        timeout: Seconds to wait for one answer.
    """

    def __init__(self, address: str, user: str, password: str, timeout: float = 60.0) -> None:
        self._http = httpx.Client(base_url=address, timeout=timeout, trust_env=False)
        self._login = {"username": user, "password": password}

    def trigger(self, dag_id: str, conf: dict[str, Any], run_id: str | None = None) -> str:
        """Start a run and return its id.

        Raises:
            BadInputError: A parameter does not fit the DAG's form; the text is Airflow's.
        """
        body = {"logical_date": None, "conf": conf, **({"dag_run_id": run_id} if run_id else {})}
        return str(self._request("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler start runs of the DAG."""
        self._request("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": False})

    def has_dag(self, dag_id: str) -> bool:
        """Whether Airflow has read the DAG's file."""
        answer = self._send("GET", f"/api/v2/dags/{dag_id}")
        return answer.status_code == httpx.codes.OK

    def import_errors(self) -> dict[str, str]:
        """DAG files that do not load: file name to the end of the traceback."""
        errors = self._request("GET", "/api/v2/importErrors")["import_errors"]
        return {error["filename"]: error["stack_trace"] for error in errors}

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """One run: ``state``, ``start_date``, ``end_date``, ``note`` and more."""
        return self._request("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The run's task instances: ``task_id``, ``state``, ``try_number``, ``duration`` and more."""
        answer = self._request("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances", params={"limit": 100})
        return list(answer["task_instances"])

    def result(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1, key: str = "return_value") -> Any:
        """What a task returned, or pushed under another key; None if there is nothing."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        answer = self._send("GET", path, params={"map_index": map_index, "deserialize": "true"})
        return None if answer.status_code == httpx.codes.NOT_FOUND else _content(answer)["value"]

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> str:
        """The text of a task's log: messages, and of errors their types and texts."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        return "\n".join(map(_log_line, self._request("GET", path)["content"]))

    def set_note(self, dag_id: str, run_id: str, note: str) -> None:
        """Write the run's note (at most 1,000 characters are kept)."""
        self._request("PATCH", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}", json={"note": note[:1000]})

    def open_questions(self, dag_id: str, run_id: str) -> Iterator[dict[str, Any]]:
        """The run's approvals that nobody has answered yet: ``subject``, ``body`` and ``task_instance``."""
        answer = self._request("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/hitlDetails")
        return (detail for detail in answer["hitl_details"] if not detail["response_received"])

    def answer_question(self, question: dict[str, Any], option: str, params: dict[str, Any] | None = None) -> None:
        """Answer an approval as the logged-in user.

        Args:
            question: One of :meth:`open_questions`.
            option: The chosen option, for example ``Approve``.
            params: Values of the question's form fields, for example the reason.
        """
        task = question["task_instance"]
        path = (
            f"/api/v2/dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}"
            f"/{task['map_index']}/hitlDetails"
        )
        self._request("PATCH", path, json={"chosen_options": [option], "params_input": params or {}})

    def question_page(self, question: dict[str, Any]) -> str:
        """Address of the page on which a person answers one of :meth:`open_questions`."""
        task = question["task_instance"]
        run = f"dags/{task['dag_id']}/runs/{task['dag_run_id']}/tasks/{task['task_id']}"
        return str(self._http.base_url.join(f"/{run}/required_actions"))

    def wait(
        self, dag_id: str, run_id: str, timeout: float, on_poll: Callable[[list[dict[str, Any]]], None] | None = None
    ) -> str:
        """Wait until a run has ended and return its state.

        Args:
            dag_id: The DAG.
            run_id: The run.
            timeout: Seconds after which to give up.
            on_poll: Called every second with the run's task instances.

        Raises:
            ServiceUnavailableError: The run has not ended in time.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if on_poll is not None:
                on_poll(self.tasks(dag_id, run_id))
            state = str(self.run(dag_id, run_id)["state"])
            if state in FINISHED:
                return state
            time.sleep(1.5)
        raise ServiceUnavailableError(f"Run {run_id} of {dag_id} has not ended within {timeout:.0f} s.")

    def _request(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        return _content(self._send(method, path, **kwargs))

    def _send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        try:
            if "Authorization" not in self._http.headers:
                self._log_in()
            answer = self._http.request(method, path, **kwargs)
            if answer.status_code == httpx.codes.UNAUTHORIZED:  # the token has run out
                self._log_in()
                answer = self._http.request(method, path, **kwargs)
        except httpx.TransportError as error:
            raise ServiceUnavailableError(f"Airflow at {self._http.base_url} did not answer: {error!r}") from error
        return answer

    def _log_in(self) -> None:
        self._http.headers.pop("Authorization", None)
        answer = self._http.post("/auth/token", json=self._login)
        self._http.headers["Authorization"] = f"Bearer {_content(answer)['access_token']}"


def _log_line(line: Any) -> str:
    if not isinstance(line, dict):
        return str(line)
    errors = [f"{error.get('exc_type')}: {error.get('exc_value')}" for error in line.get("error_detail") or ()]
    return "\n".join([str(line.get("event", line)), *errors])


def _content(answer: httpx.Response) -> dict[str, Any]:
    text = answer.text[:2000]
    request = f"{answer.request.method} {answer.request.url.path}"
    if answer.is_success:
        try:
            return dict(answer.json()) if answer.content else {}
        except ValueError as error:
            raise ServiceUnavailableError(f"What answers {request} is not Airflow: {text[:200]}") from error
    if answer.is_server_error:
        raise ServiceUnavailableError(f"Airflow answered {answer.status_code} to {request}: {text}")
    raise BadInputError("Airflow refused the request.", [Problem(request, f"status {answer.status_code}", text)])
