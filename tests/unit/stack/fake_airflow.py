"""A small server that speaks as much of Airflow's REST interface as Tollgate uses, with tokens that run out."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

PASSWORD = "right"


class FakeAirflow:
    """Runs in a thread of its own.

    Attributes:
        polls: The task instances of each look at a run, one list a look; with the last one the run has ended well.
        results: What tasks returned, by task id and map index.
        questions: Approvals, as ``hitlDetails`` lists them.
        refusal: Status and text with which every request is answered, logins apart.
        requests: Method, path and body of every request but logins.
    """

    def __init__(self) -> None:
        self.polls: list[list[dict[str, Any]]] = [[]]
        self.results: dict[tuple[str, int], Any] = {}
        self.questions: list[dict[str, Any]] = []
        self.log_lines: list[Any] = []
        self.refusal: tuple[int, str] | None = None
        self.logins = 0
        self.tokens: set[str] = set()
        self.requests: list[tuple[str, str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def written(self, method: str) -> list[tuple[str, Any]]:
        """Path and body of all requests of one method."""
        return [(path, body) for verb, path, body in self.requests if verb == method]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        airflow = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
                status, content = airflow._reply(self.command, self.path, body, token)
                data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = _answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def _reply(self, method: str, path: str, body: Any, token: str) -> tuple[int, Any]:
        if path == "/auth/token":
            return self._log_in(body)
        self.requests.append((method, path, body))
        if token not in self.tokens:
            return 401, {"detail": "Invalid JWT token"}
        if self.refusal is not None:
            return self.refusal
        parts = urlsplit(path)
        return self._content(method, parts.path.removeprefix("/api/v2"), parse_qs(parts.query), body)

    def _log_in(self, body: Any) -> tuple[int, Any]:
        if body != {"username": "admin", "password": PASSWORD}:
            return 401, {"detail": "Invalid credentials"}
        self.logins += 1
        self.tokens.add(f"token {self.logins}")
        return 201, {"access_token": f"token {self.logins}"}

    def _content(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        last = path.rpartition("/")[2]
        if method == "POST":
            return 200, {"dag_run_id": body.get("dag_run_id", "manual__1")}
        if last == "hitlDetails":
            return 200, self._hitl(method, body)
        if method == "PATCH":
            return 200, {}
        if last == "taskInstances":
            return 200, {"task_instances": self.polls[0]}
        if last == "return_value":
            key = (path.split("/")[6], int(query["map_index"][0]))
            return (200, {"value": self.results[key]}) if key in self.results else (404, {"detail": "not found"})
        if last == "importErrors":
            return 200, {"import_errors": [{"filename": "broken.py", "stack_trace": "SyntaxError"}]}
        if "/logs/" in path:
            return 200, {"content": self.log_lines}
        if "/dagRuns/" in path:
            self.polls = self.polls[1:] or [[]]
            return 200, {"state": "running" if self.polls != [[]] else "success", "note": None}
        return (200, {"dag_id": last}) if last == "finetune" else (404, {"detail": "not found"})

    def _hitl(self, method: str, body: Any) -> dict[str, Any]:
        if method == "GET":
            return {"hitl_details": self.questions}
        for question in self.questions:
            question["response_received"] = True
        return dict(body)
