from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tollgate.settings import PROJECT

SCRIPT = PROJECT / "containers" / "airflow" / "component_health.py"


class _Report(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"scheduler": {"status": "healthy"}, "triggerer": {"status": None}}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Report)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("component", "status"), [("scheduler", 0), ("triggerer", 1), ("dag_processor", 1)])
def test_exit_status_tells_the_components_health(address: str, component: str, status: int) -> None:
    environment = os.environ | {"TOLLGATE_AIRFLOW_URL": address}
    answer = subprocess.run([sys.executable, str(SCRIPT), component], env=environment, check=False)
    assert answer.returncode == status


def test_no_answer_is_not_healthy() -> None:
    environment = os.environ | {"TOLLGATE_AIRFLOW_URL": "http://127.0.0.1:1"}
    answer = subprocess.run(
        [sys.executable, str(SCRIPT), "scheduler"], env=environment, capture_output=True, check=False
    )
    assert answer.returncode != 0
