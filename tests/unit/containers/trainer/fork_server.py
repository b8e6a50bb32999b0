"""Imports what its argument, a program, says once; then trains each job that it is told of in a process of its own.

Commands, a line each: ``start JOB_FOLDER`` answers with the process id, ``wait PID`` with the exit status.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from trainer.train import main

exec(sys.argv[1])  # the imports that take long


def start(folder: Path) -> int:
    """Train in a child; what it says goes to ``said.log`` in the job folder."""
    pid = os.fork()
    if pid:
        return pid
    log = os.open(folder / "said.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 1
    try:
        status = main(folder)
    finally:
        sys.stdout.flush()
        os._exit(status)


print("ready", flush=True)
for line in sys.stdin:
    command, _, argument = line.strip().partition(" ")
    if command == "start":
        print(start(Path(argument)), flush=True)
    else:
        print(os.waitstatus_to_exitcode(os.waitpid(int(argument), 0)[1]), flush=True)
