from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tollgate.stack import processes

ORPHAN = """
import subprocess, sys
command = [sys.executable, "-c", sys.argv[1]]
print(subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True).pid)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""
TITLED = """
import setproctitle, time
setproctitle.setproctitle("x" * 5000)
print("ready", flush=True)
time.sleep(60)
"""
LISTING = """
import sys
from pathlib import Path
from tollgate.stack.processes import stack_processes
print(stack_processes(Path(sys.argv[1])))
"""


def _environment(home: Path) -> dict[str, str]:
    return dict(os.environ) | processes.marker(home)


def test_finds_a_process_whose_parent_is_gone_and_which_left_the_group(home: Path) -> None:
    command = [sys.executable, "-c", ORPHAN, "import time; time.sleep(60)"]
    made = subprocess.run(command, env=_environment(home), stdout=subprocess.PIPE, text=True, check=True)
    orphan = int(made.stdout)
    assert [process.pid for process in processes.stack_processes(home)] == [orphan]
    processes.end(processes.stack_processes(home), grace=5)
    assert processes.stack_processes(home) == []


def test_spares_other_stacks_and_itself(home: Path, tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "60"], env=_environment(tmp_path))
    try:
        assert processes.stack_processes(home) == []
        assert [process.pid for process in processes.stack_processes(tmp_path)] == [other.pid]
        environment = _environment(home) | {"PYTHONPATH": os.pathsep.join(sys.path)}
        found = subprocess.run(
            [sys.executable, "-c", LISTING, str(home)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout == "[]\n"
    finally:
        other.kill()
        other.wait()


def test_kills_what_ignores_the_request_to_end(home: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN], env=_environment(home), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    processes.end(processes.stack_processes(home), grace=0.3)
    assert process.wait(5) == -signal.SIGKILL
    process.stdout.close()


def test_the_marker_survives_a_new_process_title(home: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", TITLED], env=_environment(home), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert [found.pid for found in processes.stack_processes(home)] == [process.pid]
    processes.end(processes.stack_processes(home), grace=5)
    process.stdout.close()
    process.wait()


def test_names_the_holder_of_a_port() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        holder = processes.port_holder(port)
        assert holder is not None
        assert holder.pid == os.getpid()
        assert f"process {os.getpid()} (" in processes.describe(holder)
    assert processes.port_holder(port) is None


def test_memory_counts_children_and_is_zero_for_the_dead() -> None:
    child = subprocess.Popen(["sleep", "60"])
    alone = psutil.Process().memory_info().rss
    time.sleep(0.05)
    assert processes.memory(os.getpid()) > 0.5 * alone
    assert processes.memory(child.pid) > 0
    child.kill()
    child.wait()
    assert processes.memory(child.pid) == 0
