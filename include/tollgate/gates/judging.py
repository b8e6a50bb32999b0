"""The contract's judge in a process of its own, which gets ready while the gates before it run.

Importing Great Expectations takes some two seconds of one core. A run that reads a large file has a core to spare for
it. The process waits for one question on standard input, answers on standard output, and ends with its caller.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from tollgate.errors import TollgateError
from tollgate.gates.contract import Judge, Judgement, Terms, judge


class _Question(BaseModel):
    measured: dict[str, float]
    terms: Terms
    docs: Path | None


@contextmanager
def judge_process() -> Generator[Judge]:
    """A judge that is as good as :func:`tollgate.gates.contract.judge`, once; it gets ready at once."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", __name__]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as process:

        def ask(measured: Mapping[str, float], terms: Terms, docs: Path | None = None) -> Judgement:
            question = _Question(measured=dict(measured), terms=terms, docs=docs)
            answer, errors = process.communicate(question.model_dump_json().encode())
            if process.returncode:
                raise TollgateError(f"The contract's judge failed: {errors.decode(errors='replace').strip()[-2000:]}")
            return Judgement.model_validate_json(answer)

        try:
            yield ask
        finally:
            if process.poll() is None:
                process.kill()


def _import_when_used(name: str) -> None:
    """Have a module imported when something in it is first asked for; its package is imported at once."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None or name in sys.modules:
        return
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    package, _, child = name.rpartition(".")
    if package:
        setattr(sys.modules[package], child, module)


def _answer() -> None:
    """Answer the one question. The process is short and has little memory: it need not look for garbage meanwhile."""
    from tollgate.gates.contract import prepare_judge

    gc.disable()
    _import_when_used("scipy.stats")  # of expectations that the contract has none of: a fifth of the time
    prepare_judge()
    if text := sys.stdin.buffer.read():
        question = _Question.model_validate_json(text)
        answer = judge(question.measured, question.terms, question.docs)
        sys.stdout.write(answer.model_dump_json())
        sys.stdout.flush()
    os._exit(0)  # taking two thousand modules down takes a second, for which the caller would wait


if __name__ == "__main__":
    _answer()
