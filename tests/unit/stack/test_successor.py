from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.unit.stack.conftest import free_port

from tollgate.stack import processes
from tollgate.stack.successor import end_predecessor

SERVER = "import os, socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
WITH_WORKER = SERVER + "child = os.fork()\nprint(child or 'worker', flush=True); time.sleep(300)"


def _server(port: int, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WITH_WORKER, str(port)],
        env=os.environ | processes.marker(home),
        stdout=subprocess.PIPE,
        text=True,
    )


def test_workers_of_a_killed_server_make_room_for_the_next(tmp_path: Path) -> None:
    port = free_port()
    with _server(port, tmp_path) as killed:
        assert killed.stdout is not None
        {killed.stdout.readline(), killed.stdout.readline()}
        killed.kill()
        killed.wait()
        [worker] = processes.listeners(port)
        assert end_predecessor(port, None) == []
        assert end_predecessor(port, "another stack") == []
        assert processes.listeners(port) == [worker]
        command = [sys.executable, "-m", "tollgate.stack.successor", str(port), sys.executable, "-c"]
        program = SERVER + "print('listens', os.getpid())"
        environment = os.environ | processes.marker(tmp_path) | {"PYTHONPATH": os.pathsep.join(sys.path)}
        new = subprocess.Popen([*command, program, str(port)], env=environment, stdout=subprocess.PIPE, text=True)
        told, _ = new.communicate(timeout=60)
        assert f"Ended process {worker.pid}" in told
        assert f"listens {new.pid}" in told  # it took the place: whoever supervises sees one process
