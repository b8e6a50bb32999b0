"""The contract's judge in a process of its own, which gets ready while the gates before it run.

Importing Great Expectations takes three seconds of one core. A run that reads a large file has a core to spare for it.
The process waits for one question on standard input, answers on standard output, and ends with its caller.
"""

from __future__ import annotations

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


def _answer() -> None:
    from tollgate.gates.contract import prepare_judge

    prepare_judge()
    if text := sys.stdin.buffer.read():
        question = _Question.model_validate_json(text)
        answer = judge(question.measured, question.terms, question.docs)
        sys.stdout.write(answer.model_dump_json())


if __name__ == "__main__":
    _answer()
